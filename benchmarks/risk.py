"""Does a cautious score lose less to over-optimisation? Best-of-n on planted truth with a gap in
the rated data, where the true reward of every candidate is known::

    python benchmarks/risk.py

In some directions of the features the rated rows hardly move while the candidates do, so the head
errs there, and the best of many candidates by the score is one whose score errs upwards.  The loss
is the true reward of the best candidate by the truth, less that of the one chosen; all ways choose
one of n, at the same divergence log n - (n - 1) / n from the policy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import typer

from armorm import RidgeStatistics, Risk, fit_reward_head
from armorm.heads import HeadUncertainty, RewardHead, fit_uncertainty

Array = npt.NDArray[np.float64]
FEATURES, GAP, OBJECTIVES, NOISE = 32, 8, 3, 0.5
SIZES = (1, 4, 16, 64, 256, 1024)
WAYS: dict[str, Risk | None] = {
    "score": None,
    "risk 1": Risk(1.0),
    "risk 2": Risk(2.0),
    "kl 0.3": Risk(kl=0.3),
}


@dataclass(frozen=True)
class World:
    """A head fitted on rated rows with a gap, its posterior, and the truth."""

    truth: Array
    head: RewardHead
    uncertainty: HeadUncertainty
    width: float


def main(seeds: int = 24, prompts: int = 30, rows: int = 600) -> None:
    """Compare true rewards of the chosen; the true weights in the gap are as usual, or small."""
    result = {}
    for name, width, weight in (
        ("narrow gap, small true weights", 0.02, 0.3),
        ("wide gap, small true weights", 0.05, 0.3),
        ("narrow gap, usual true weights", 0.02, 1.0),
        ("wide gap, usual true weights", 0.05, 1.0),
    ):
        worlds = [planted(seed, rows, width, weight) for seed in range(seeds)]
        result[name] = {
            kind: _compare(worlds, prompts, in_distribution)
            for kind, in_distribution in (("gap", False), ("in distribution", True))
        }
    print(json.dumps(result, indent=2))


def planted(seed: int, rows: int, width: float, weight: float) -> World:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(FEATURES, OBJECTIVES)) / np.sqrt(FEATURES)
    truth[-GAP:] *= weight
    x = generator.normal(size=(rows, FEATURES))
    x[:, -GAP:] *= width
    ratings = x @ truth + NOISE * generator.normal(size=(rows, OBJECTIVES))
    ratings[generator.random(ratings.shape) < 0.4] = np.nan
    statistics = RidgeStatistics(FEATURES, OBJECTIVES)
    statistics.update(x, ratings, np.arange(rows) % 5)
    head = fit_reward_head(statistics)
    return World(truth, head, fit_uncertainty(statistics, head), width)


def _compare(worlds: list[World], prompts: int, in_distribution: bool) -> dict[str, object]:
    """Return mean true rewards and scores of the chosen by n, and losses with their intervals."""
    found = np.stack(
        [_best_of(world, seed, prompts, in_distribution) for seed, world in enumerate(worlds)]
    )  # of shape (worlds, ways, sizes, (gold, score, loss))
    plain = found[:, 0, -1, 2]
    return {
        name: {
            "gold by n": rounded(found[:, i, :, 0].mean(axis=0)),
            "score by n": rounded(found[:, i, :, 1].mean(axis=0)),
            f"loss at {SIZES[-1]}": interval(found[:, i, -1, 2]),
            "share of the loss saved": interval(found[:, i, -1, 2], plain),
        }
        for i, name in enumerate(WAYS)
    }


def _best_of(world: World, seed: int, prompts: int, in_distribution: bool) -> Array:
    generator = np.random.default_rng([seed, 1])
    found = np.empty((prompts, len(WAYS), len(SIZES), 3))
    for prompt in range(prompts):
        coefficients = generator.dirichlet(np.ones(OBJECTIVES))
        x = generator.normal(size=(SIZES[-1], FEATURES))
        # Some candidates leave the rated data, some do not.
        wide = generator.random((len(x), 1))
        x[:, -GAP:] *= world.width if in_distribution else wide
        gold, score = x @ world.truth @ coefficients, world.head.rewards(x) @ coefficients
        for j, n in enumerate(SIZES):
            for i, risk in enumerate(WAYS.values()):
                cautious = score[:n] - price(world, risk, x[:n], coefficients)
                chosen = int(np.argmax(cautious))
                found[prompt, i, j] = gold[chosen], score[chosen], gold[:n].max() - gold[chosen]
    means: Array = found.mean(axis=0)
    return means


def price(world: World, risk: Risk | None, x: Array, coefficients: Array) -> Array:
    if risk is None or len(x) == 1:
        return np.zeros(len(x))
    leverages = world.uncertainty.leverages(x - x.mean(axis=0))
    weights = np.tile(coefficients, (len(x), 1))
    deviations = world.uncertainty.score_epistemic(leverages, weights)
    return risk.price(deviations)


def interval(values: Array, plain: Array | None = None) -> str:
    """Return a mean, or the share of the plain mean that it saves, and its 95 % interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    draws = np.vstack([np.arange(len(values)), draws])
    means = values[draws].mean(axis=1)
    if plain is not None:
        means = 1 - means / plain[draws].mean(axis=1)
    low, high = np.quantile(means[1:], [0.025, 0.975])
    return f"{means[0]:.3f} ({low:.3f} to {high:.3f})"


def rounded(values: Array) -> list[float]:
    rounded: list[float] = values.round(3).tolist()
    return rounded


if __name__ == "__main__":
    typer.run(main)
