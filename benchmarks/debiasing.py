"""Debiasing: the published grid of penalties and our root, on the same rewards in one run::

python benchmarks/debiasing.py --rows 240000 --objectives 19
"""

from __future__ import annotations

import json
import time

import numpy as np
import numpy.typing as npt
import typer
from scipy.stats import spearmanr

from armorm.heads import DebiasingOptions, fit_debiasing

Rewards = npt.NDArray[np.float64]


def main(rows: int = 240_000, objectives: int = 19, seed: int = 0) -> None:
    """Compare both ways on rewards that lean on verbosity, one of them downwards."""
    rewards = _rewards(rows, objectives, seed)
    started = time.perf_counter()
    penalties = published_grid(rewards)
    published_seconds = time.perf_counter() - started
    started = time.perf_counter()
    fitted = fit_debiasing(rewards, 0, DebiasingOptions(negative="solve"))
    our_seconds = time.perf_counter() - started
    result = {
        "rows": rows,
        "objectives": objectives,
        "published_seconds": published_seconds,
        "ours_seconds": our_seconds,
        "ratio": published_seconds / our_seconds,
        "largest_spearman_published": _left(rewards, penalties),
        "largest_spearman_ours": _left(rewards, fitted.penalties),
    }
    print(json.dumps({k: float(f"{v:.4g}") for k, v in result.items()}, indent=2))


def published_grid(rewards: Rewards) -> Rewards:
    """Each objective's first penalty of a grid whose Spearman correlation is at most 0.03."""
    grid = np.concatenate([np.linspace(0, 0.5, 11), np.linspace(0.55, 0.95, 13)])
    penalties = np.ones(rewards.shape[1])
    for i in range(1, rewards.shape[1]):
        for penalty in grid:
            if spearmanr(rewards[:, i] - penalty * rewards[:, 0], rewards[:, 0]).statistic <= 0.03:
                penalties[i] = penalty
                break
    return penalties


def _rewards(rows: int, objectives: int, seed: int) -> Rewards:
    generator = np.random.default_rng(seed)
    verbosity = generator.gamma(4.0, 0.1, rows)
    slopes = np.concatenate([np.linspace(0.05, 1.3, objectives - 2), [-0.3]])
    noise = 0.2 * generator.standard_normal((rows, objectives - 1))
    return np.column_stack([verbosity, verbosity[:, None] * slopes + noise])


def _left(rewards: Rewards, penalties: Rewards) -> float:
    debiased = rewards[:, 1:] - rewards[:, :1] * penalties[1:]
    return max(abs(spearmanr(column, rewards[:, 0]).statistic) for column in debiased.T)


if __name__ == "__main__":
    typer.run(main)
