"""How many choices does it take to know a user? Planted users, whose coefficients are known::

    python benchmarks/choices.py

Rewards of seven objectives, some correlated, and a gate of each prompt are drawn; the user decides
pairs with the log-odds of an own score.  The accuracy is that of the user's own score on new pairs:
a fit without shrinkage (wide prior) and the gate itself are beside it.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import typer
from scipy.stats import norm

from armorm.heads.choices import ChoicePosterior, fit_choices

Array = npt.NDArray[np.float64]
OBJECTIVES, NEW = 7, 4000
USERS = ("the gate's own", "length, besides the gate", "fixed weights, no gate")


def main(seeds: int = 60, beta: float = 60.0) -> None:
    """Compare accuracy on new pairs, and coverage of the intervals, by number of choices."""
    result: dict[str, object] = {}
    for user in USERS:
        result[user] = {str(n): _users(user, n, seeds, beta) for n in (20, 50, 100, 200)}
    print(json.dumps(result, indent=2))


def _users(user: str, choices_made: int, seeds: int, beta: float) -> dict[str, object]:
    found = np.array([_one(user, choices_made, seed, beta) for seed in range(seeds)])
    means = found.mean(axis=0)
    errors = found.std(axis=0, ddof=1) / np.sqrt(seeds)
    names = ("steered", "not shrunk", "gate", "user", "steered less gate", "coverage of 90 %")
    return {
        name: f"{mean:.3f} ±{1.96 * error:.3f}"
        for name, mean, error in zip(names, means, errors, strict=True)
    }


def _one(user: str, choices_made: int, seed: int, beta: float) -> Array:
    generator = np.random.default_rng(seed)
    mixing = np.eye(OBJECTIVES) + 0.6 * (generator.random((OBJECTIVES, OBJECTIVES)) < 0.2)
    planted = np.zeros(OBJECTIVES)
    share = 1.0
    if user == USERS[1]:
        planted[2] = 0.3
    if user == USERS[2]:
        share, planted = 0.0, generator.dirichlet(np.ones(OBJECTIVES))

    def draw(number: int) -> tuple[Array, Array, Array, Array]:
        gates = generator.dirichlet(np.full(OBJECTIVES, 0.5), number)
        differences = 0.1 * generator.normal(size=(number, OBJECTIVES)) @ mixing
        own = ((share * gates + planted) * differences).sum(axis=1)
        chosen = np.where(generator.random(number) < 1 / (1 + np.exp(-beta * own)), 1.0, -1.0)
        gate = (gates * differences).sum(axis=1)
        return gate * chosen, differences * chosen[:, None], gates, own * chosen

    gate, differences, gates, _ = draw(choices_made)
    new_gate, new_differences, _, new_own = draw(NEW)
    fitted = fit_choices(gate, differences, beta)
    wide = fit_choices(gate, differences, beta, taus=(100.0,))
    accuracies = [
        np.mean(margins > 0)
        for margins in (
            fitted.margins(new_gate, new_differences),
            wide.margins(new_gate, new_differences),
            new_gate,
            new_own,
        )
    ]
    covered = _coverage(fitted, gates.mean(axis=0), share * gates.mean(axis=0) + planted)
    return np.array([*accuracies, accuracies[0] - accuracies[2], covered])


def _coverage(fitted: ChoicePosterior, gate: Array, truth: Array) -> float:
    rows = np.column_stack([gate, np.eye(OBJECTIVES)])
    deviations = np.sqrt(np.einsum("kw,wv,kv->k", rows, fitted.covariance, rows))
    within = np.abs(rows @ fitted.mean - truth) <= norm.ppf(0.95) * deviations
    return float(within.mean())


if __name__ == "__main__":
    typer.run(main)
