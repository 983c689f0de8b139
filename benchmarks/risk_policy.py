"""Does a policy that learns from a cautious score over-optimise less? GRPO on planted truth::

    python benchmarks/risk_policy.py

The worlds are those of ``risk.py``: heads fitted on rows with a gap, which the responses leave.  A
softmax policy over fixed responses to each prompt learns from groups of eight by the score, by the
score less the price of its deviation within the group, and by the true reward.  What a policy has
lost is the true reward that the one which learned from it has at the same divergence from the first
policy, less its own: all but the reward is the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import typer
from risk import FEATURES, GAP, OBJECTIVES, WAYS, Array, World, interval, planted, rounded

from armorm import Risk

EPSILON = 1e-4
DIVERGENCES = (1.0, 2.0, 4.0, 6.0)
"""The last is about that of the best of 1,024, log n - (n - 1) / n = 5.93."""
TRUTH = "true reward"


@dataclass(frozen=True)
class Responses:
    """Responses to some prompts.

    Attributes:
        features: Shape (prompts, responses, features).
        coefficients: Of each prompt. Shape (prompts, objectives).
        gold: True rewards. Shape (prompts, responses).
        score: Scores of the head. Shape (prompts, responses).
    """

    features: Array
    coefficients: Array
    gold: Array
    score: Array


def main(
    seeds: int = 24,
    prompts: int = 16,
    responses: int = 1024,
    steps: int = 1500,
    rate: float = 0.1,
    rows: int = 600,
) -> None:
    """Compare true rewards at equal divergence from the first policy."""
    result = {}
    for name, width, weight in (
        ("narrow gap, small true weights", 0.02, 0.3),
        ("wide gap, small true weights", 0.05, 0.3),
        ("narrow gap, usual true weights", 0.02, 1.0),
        ("wide gap, usual true weights", 0.05, 1.0),
    ):
        worlds = [planted(seed, rows, width, weight) for seed in range(seeds)]
        result[name] = {
            kind: _compare(worlds, prompts, responses, steps, rate, in_distribution)
            for kind, in_distribution in (("gap", False), ("in distribution", True))
        }
        print(json.dumps({name: result[name]}, indent=2), flush=True)


def _compare(
    worlds: list[World],
    prompts: int,
    responses: int,
    steps: int,
    rate: float,
    in_distribution: bool,
) -> dict[str, object]:
    names = [*WAYS, TRUTH]
    found = np.empty((len(worlds), len(names), len(DIVERGENCES), 2))
    for seed, world in enumerate(worlds):
        drawn = _drawn(world, seed, prompts, responses, in_distribution)
        for i, name in enumerate(names):
            found[seed, i] = _train(world, drawn, name, seed, steps, rate)
    lost = found[:, -1:, :, 0] - found[..., 0]  # of shape (worlds, ways, divergences)
    return {
        name: {
            "gold by divergence": rounded(found[:, i, :, 0].mean(axis=0)),
            "score by divergence": rounded(found[:, i, :, 1].mean(axis=0)),
            **{
                f"at {at:g}": {
                    "lost": interval(lost[:, i, j]),
                    "share of the loss saved": interval(lost[:, i, j], lost[:, 0, j]),
                    "gold less that of the score": interval(found[:, i, j, 0] - found[:, 0, j, 0]),
                }
                for j, at in enumerate(DIVERGENCES)
                if at >= 4
            },
        }
        for i, name in enumerate(names)
    }


def _drawn(
    world: World, seed: int, prompts: int, responses: int, in_distribution: bool
) -> Responses:
    generator = np.random.default_rng([seed, 2])
    coefficients = generator.dirichlet(np.ones(OBJECTIVES), prompts)
    x = generator.normal(size=(prompts, responses, FEATURES))
    # Some responses leave the rated data, some do not.
    wide = generator.random((prompts, responses, 1))
    x[..., -GAP:] *= world.width if in_distribution else wide
    scores = world.head.rewards(x.reshape(-1, FEATURES)).reshape(prompts, responses, OBJECTIVES)
    return Responses(
        x,
        coefficients,
        np.einsum("prf,fo,po->pr", x, world.truth, coefficients),
        np.einsum("pro,po->pr", scores, coefficients),
    )


def _train(
    world: World, drawn: Responses, name: str, seed: int, steps: int, rate: float, group: int = 8
) -> Array:
    """Return true reward and score of the policy at each divergence on its way.

    A policy that ends before a divergence has there what it has at its end.
    """
    generator = np.random.default_rng([seed, 3])
    prompts, responses = drawn.gold.shape
    logits = np.zeros((prompts, responses))
    places = np.arange(prompts)[:, None]
    course = np.empty((steps + 1, 3))
    for step in range(steps + 1):
        policy = _softmax(logits)
        course[step] = (
            (policy * np.log(np.maximum(policy * responses, 1e-300))).sum(axis=1).mean(),
            (policy * drawn.gold).sum(axis=1).mean(),
            (policy * drawn.score).sum(axis=1).mean(),
        )
        draws = generator.random((prompts, group, 1))
        chosen = (policy.cumsum(axis=1)[:, None] < draws).sum(axis=2).clip(max=responses - 1)
        rewards = (drawn.gold if name == TRUTH else drawn.score)[places, chosen]
        risk = WAYS.get(name)
        if risk is not None:
            rewards = rewards - _prices(world, risk, drawn, chosen)
        advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / (
            rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON
        )
        gradient = -policy * advantages.sum(axis=1, keepdims=True)
        np.add.at(gradient, (places, chosen), advantages)
        logits += rate * gradient
    furthest = np.maximum.accumulate(course[:, 0])
    at = np.minimum(np.searchsorted(furthest, DIVERGENCES), steps)
    reached: Array = course[at, 1:]
    return reached


def _prices(world: World, risk: Risk, drawn: Responses, chosen: Array) -> Array:
    x = drawn.features[np.arange(len(chosen))[:, None], chosen]
    differences = (x - x.mean(axis=1, keepdims=True)).reshape(-1, FEATURES)
    weights = np.repeat(drawn.coefficients, chosen.shape[1], axis=0)
    leverages = world.uncertainty.leverages(differences)
    prices: Array = risk.price(world.uncertainty.score_epistemic(leverages, weights))
    return prices.reshape(chosen.shape)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    policy: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return policy


if __name__ == "__main__":
    typer.run(main)
