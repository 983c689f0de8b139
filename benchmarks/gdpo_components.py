"""Does a policy that learns from reward components reach the best responses? On planted truth::

    python benchmarks/gdpo_components.py

A softmax policy over fixed responses learns by GRPO from groups of eight.  Seven objectives: five
say nearly the same, two say something else; the gate of each prompt is sharp.  Two truths are
planted: the score itself (the gate is right), and a gate that weighs the seven alike where the
truth counts the five once.  Aggregation is TRL's: components normalised within their group, summed,
and normalised over the batch, or for the plain score normalised within the group.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import typer

from armorm import Rewards
from armorm.integrations import ComponentKind, group_components

Array = npt.NDArray[np.float64]
EPSILON = 1e-4
ALIKE, OBJECTIVES = 5, 7
WAYS: dict[str, ComponentKind | None] = {
    "plain score (GRPO)": None,
    "gate_weighted (GDPO)": "gate_weighted",
    "whitened (GDPO)": "whitened",
    "contributions (GDPO)": "contributions",
}


@dataclass(frozen=True)
class World:
    """Responses to some prompts. Arrays of shape (prompts, responses[, objectives])."""

    rewards: Array
    coefficients: Array  # of shape (prompts, objectives)
    gold: Array


def main(
    seeds: int = 24,
    prompts: int = 16,
    responses: int = 64,
    steps: int = 800,
    group: int = 8,
    rate: float = 0.05,
    goal: float = 0.9,
) -> None:
    """Compare steps to ``goal`` of the way from the first policy to the best one."""
    result: dict[str, object] = {}
    for truth in ("the score", "the five once"):
        worlds = [_planted(seed, truth, prompts, responses) for seed in range(seeds)]
        courses = {
            name: np.array(
                [_train(world, kind, i, steps, group, rate) for i, world in enumerate(worlds)]
            )
            for name, kind in WAYS.items()
        }
        result[f"truth: {truth}"] = _summary(courses, goal)
    print(json.dumps(result, indent=2))


def _planted(seed: int, truth: str, prompts: int, responses: int) -> World:
    generator = np.random.default_rng(seed)
    shape = (prompts, responses)
    common = generator.normal(size=shape)
    alike = 0.95 * common[..., None] + np.sqrt(1 - 0.95**2) * generator.normal(size=(*shape, ALIKE))
    others = generator.normal(size=(*shape, OBJECTIVES - ALIKE))
    # What raters of one objective spread over is not what those of another do.
    spread = generator.uniform(0.05, 0.2, OBJECTIVES) if truth == "the score" else 0.1
    rewards = 0.5 + spread * np.concatenate([alike, others], axis=-1)
    if truth == "the score":
        gate = generator.dirichlet(np.full(OBJECTIVES, 0.3), prompts)
        return World(rewards, gate, np.einsum("pro,po->pr", rewards, gate))
    gate = np.full((prompts, OBJECTIVES), 1 / OBJECTIVES)
    return World(rewards, gate, 0.5 + 0.1 * (common + others.sum(axis=-1)) / 3)


def _train(
    world: World, kind: ComponentKind | None, seed: int, steps: int, group: int, rate: float
) -> Array:
    """Return, after each step, the share of the possible improvement that is reached."""
    generator = np.random.default_rng([seed, 1])
    prompts, responses = world.gold.shape
    logits = np.zeros((prompts, responses))
    first, best = world.gold.mean(), world.gold.max(axis=1).mean()
    rows = np.repeat(np.arange(prompts), group)
    reached = np.empty(steps)
    for step in range(steps):
        policy = _softmax(logits)
        draws = generator.random((prompts, group, 1))
        chosen = (policy.cumsum(axis=1)[:, None] < draws).sum(axis=2).clip(max=responses - 1)
        advantages = _advantages(world, kind, rows, chosen.ravel(), group).reshape(prompts, group)
        gradient = -policy * advantages.sum(axis=1, keepdims=True)
        np.add.at(gradient, (np.arange(prompts)[:, None], chosen), advantages)
        logits += rate * gradient
        reached[step] = ((_softmax(logits) * world.gold).sum(axis=1).mean() - first) / (
            best - first
        )
    return reached


def _advantages(
    world: World, kind: ComponentKind | None, rows: Array, chosen: Array, group: int
) -> Array:
    rewards = torch.from_numpy(world.rewards[rows, chosen]).float()
    coefficients = torch.from_numpy(world.coefficients[rows]).float()
    contributions = rewards * coefficients
    names = tuple(f"objective {i}" for i in range(OBJECTIVES))
    score = contributions.double().sum(dim=1).float()
    scored = Rewards(score, rewards, coefficients, coefficients, contributions, names)
    if kind is None:
        return _normalised(score.double().numpy(), group)
    components = group_components(scored, rows.tolist(), kind).optimised.values()
    total = sum(_normalised(component.double().numpy(), group) for component in components)
    advantages: Array = (total - np.mean(total)) / (np.std(total, ddof=1) + EPSILON)
    return advantages


def _normalised(values: Array, group: int) -> Array:
    grouped = values.reshape(-1, group)
    normalised: Array = (grouped - grouped.mean(axis=1, keepdims=True)) / (
        grouped.std(axis=1, ddof=1, keepdims=True) + EPSILON
    )
    return normalised.ravel()


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    policy: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return policy


def _summary(courses: dict[str, Array], goal: float) -> dict[str, object]:
    steps = {
        name: np.where((c >= goal).any(axis=1), (c >= goal).argmax(axis=1) + 1, c.shape[1])
        for name, c in courses.items()
    }
    plain = steps["plain score (GRPO)"]
    return {
        name: {
            "runs that reach the goal": f"{int((c >= goal).any(axis=1).sum())} of {len(c)}",
            "mean steps to the goal": _interval(steps[name]),
            "steps less those of the plain score": _interval(steps[name] - plain),
            "share of the improvement at the end": _interval(c[:, -1]),
        }
        for name, c in courses.items()
    }


def _interval(values: Array) -> str:
    """Return the mean and its bootstrap interval of 95 % over seeds."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    typer.run(main)
