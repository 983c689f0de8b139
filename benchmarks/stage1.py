"""Stage 1: the published way (scikit-learn, per objective and penalty, and a refit) and ours.

Both see the same features, labels and split, in one run::

    python benchmarks/stage1.py --rows 20000 --features 1024

Prints times, their ratio, the difference of the weights from scikit-learn in float64, our FLOP/s
over the machine's float64 rates measured in the same run, and what the paper's size would take.
"""

from __future__ import annotations

import json
import resource
import time
import warnings
from collections.abc import Callable
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from labels import OBJECTIVES, PAPER_FEATURES, PAPER_ROWS, paper_ratings, synthetic_features
from scipy.linalg import LinAlgWarning, blas
from sklearn.linear_model import Ridge

from armorm.heads import PAPER_ALPHAS, RewardHead, RidgeStatistics, fit_reward_head

Features = npt.NDArray[np.float32]
Ratings = npt.NDArray[np.float32]
Chosen = npt.NDArray[np.bool_]


def main(
    rows: int = 20_000,
    features: int = 1024,
    repeats: Annotated[int, typer.Option(help="Runs of ours; the fastest counts.")] = 3,
    published: Annotated[bool, typer.Option(help="Run the published way too.")] = True,
    device: Annotated[str | None, typer.Option(help="Sums and solves here, e.g. cuda.")] = None,
    seed: int = 0,
) -> None:
    """Compare both ways of stage 1."""
    warnings.simplefilter("ignore", LinAlgWarning)  # the published way's small penalties in float32
    x = synthetic_features(rows, features, seed)
    y = paper_ratings(x)
    fold = np.random.default_rng(seed).integers(0, 5, rows)
    before = _peak_memory()
    product, symmetric = float64_rates(features)
    runs = [ours(x, y, fold, device) for _ in range(repeats)]
    head, gram_seconds, solve_seconds = min(runs, key=lambda run: run[1] + run[2])
    gram_flops = float(len(x)) * features**2  # a symmetric product is half of a general one
    result = {
        "rows": rows,
        "features": features,
        "ours_seconds": gram_seconds + solve_seconds,
        "gram_seconds": gram_seconds,
        "solve_seconds": solve_seconds,
        "gemm_float64_gflops": product / 1e9,
        "symmetric_float64_gflops": symmetric / 1e9,
        "accumulation_share_of_symmetric_rate": gram_flops / gram_seconds / symmetric,
        "extra_peak_memory_mb": (_peak_memory() - before) / 2**20,
        "paper_size_seconds": gram_seconds * _gram_scale(rows, features)
        + solve_seconds * (PAPER_FEATURES / features) ** 3,
        "paper_size_tflop": PAPER_ROWS * PAPER_FEATURES**2 / 1e12,
    }
    if published:
        result |= _compare(x, y, fold == 0, head, result["ours_seconds"])
    print(json.dumps({k: _rounded(v) for k, v in result.items()}, indent=2))


def ours(
    x: Features, y: Ratings, fold: npt.NDArray[np.int64], device: str | None = None
) -> tuple[RewardHead, float, float]:
    """Our head, and the seconds of accumulation and of everything after."""
    started = time.perf_counter()
    statistics = RidgeStatistics(x.shape[1], OBJECTIVES, device)
    for start in range(0, len(x), 8192):
        part = slice(start, start + 8192)
        statistics.update(x[part], y[part], fold[part])
    statistics.finish()
    accumulated = time.perf_counter()
    head = fit_reward_head(statistics)
    return head, accumulated - started, time.perf_counter() - accumulated


def published_way(x: Features, y: Ratings, selection: Chosen) -> tuple[list[float], Features]:
    """The published script: float32 Ridge per objective and penalty, then a refit on all rows."""
    alphas, weight = [], np.empty((OBJECTIVES, x.shape[1]), np.float32)
    for objective in range(OBJECTIVES):
        rated = ~np.isnan(y[:, objective])
        x_all, y_all, chosen = x[rated], y[rated, objective], selection[rated]
        errors = []
        for alpha in PAPER_ALPHAS:
            ridge = Ridge(alpha=alpha, fit_intercept=False).fit(x_all[~chosen], y_all[~chosen])
            errors.append(np.mean((ridge.predict(x_all[chosen]) - y_all[chosen]) ** 2))
        alphas.append(float(PAPER_ALPHAS[int(np.argmin(errors))]))
        weight[objective] = Ridge(alpha=alphas[-1], fit_intercept=False).fit(x_all, y_all).coef_
    return alphas, weight


def _compare(
    x: Features, y: Ratings, selection: Chosen, head: RewardHead, our_seconds: float
) -> dict[str, object]:
    started = time.perf_counter()
    alphas, weight = published_way(x, y, selection)
    seconds = time.perf_counter() - started
    ours_error, theirs_error = [], []
    for objective in range(OBJECTIVES):
        rated = ~np.isnan(y[:, objective])
        x64, y64 = x[rated].astype(np.float64), y[rated, objective].astype(np.float64)
        exact = Ridge(alpha=head.alphas[objective], fit_intercept=False).fit(x64, y64).coef_
        scale = np.abs(exact).max()
        ours_error.append(np.abs(head.weight[objective] - exact).max() / scale)
        theirs_error.append(np.abs(weight[objective] - exact).max() / scale)
    return {
        "published_seconds": seconds,
        "ratio": seconds / our_seconds,
        "same_alphas": sum(a == b for a, b in zip(alphas, head.alphas, strict=True)),
        "largest_difference_from_float64_ours": max(ours_error),
        "largest_difference_from_float64_published": max(theirs_error),
        "published_paper_size_seconds": seconds
        * _gram_scale(len(x), x.shape[1]),  # its solves scale with d^3, which this leaves out
    }


def float64_rates(features: int, rows: int = 8192) -> tuple[float, float]:
    """FLOP/s of a general and of a symmetric float64 product of the shape that stage 1 has."""
    x = np.random.default_rng(0).standard_normal((rows, features))
    other = x.copy()
    total = np.zeros((features, features), order="F")

    def symmetric() -> None:
        blas.dsyrk(1.0, x.T, beta=1.0, c=total, lower=True, overwrite_c=True)

    work = float(rows) * features**2
    return 2 * work / _fastest(lambda: other.T @ x), work / _fastest(symmetric)


def _fastest(call: Callable[[], object], repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _gram_scale(rows: int, features: int) -> float:
    return PAPER_ROWS / rows * (PAPER_FEATURES / features) ** 2


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    typer.run(main)
