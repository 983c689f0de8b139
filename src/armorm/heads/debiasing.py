"""Verbosity debiasing: take out of each reward what correlates with verbosity.

Paper, equations 2 and 3: r'_i = r_i - lambda_i r_verbosity, with lambda_i such that the
correlation of r'_i and r_verbosity over a reference set is zero.  The correlation never grows
with lambda (each pair of rows can only turn from concordant to discordant), so it has one root,
found by bracketing and Brent's method instead of the published grid of 24 values.

What is subtracted is always a predicted reward, so that the transform stays a matrix; what is
brought to zero may also be the correlation with a measured confounder, such as a token count.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.heads.options import Correlation, DebiasingOptions

TOLERANCE = 1e-6
"""A correlation below this is zero."""


@dataclass(frozen=True, slots=True)
class VerbosityDebiasing:
    """The transform that takes verbosity out of the rewards.

    Attributes:
        transform: T, so that r' = r T (docs/method.md). Shape (objectives, objectives).
        penalties: lambda of each objective; 1 for the verbosity objective itself, whose
            transformed reward is then 0. Shape (objectives,).
        verbosity: Column of the verbosity objective.
        correlation: Kind of correlation that was brought to zero.
        before: Correlation of each r_i with the confounder on the reference set. Shape
            (objectives,).
        after: The same of each r'_i; 0 for the verbosity objective. Shape (objectives,).  Above
            the tolerance only where the reward was kept or no penalty brings it to zero.
    """

    transform: Float[np.ndarray, "objectives objectives"]
    penalties: Float[np.ndarray, " objectives"]
    verbosity: int
    correlation: Correlation
    before: Float[np.ndarray, " objectives"]
    after: Float[np.ndarray, " objectives"]


def fit_debiasing(
    rewards: Float[np.ndarray, "rows objectives"],
    verbosity: int,
    options: DebiasingOptions | None = None,
    *,
    confounder: Float[np.ndarray, " rows"] | None = None,
) -> VerbosityDebiasing:
    """Find the penalty of every objective on a reference set.

    Args:
        rewards: Predicted rewards of the reference responses.
        verbosity: Column of the objective that is subtracted from the others.
        options: The options ``correlation`` and ``negative`` are used.
        confounder: Values that the correlation is measured with, such as the length of each
            response; default the verbosity reward itself (the paper's).

    Raises:
        ArmormError: there are too few rows, or the confounder is constant over them.
    """
    options = options or DebiasingOptions()
    rewards = np.asarray(rewards, dtype=np.float64)
    rows, objectives = rewards.shape
    subtracted = rewards[:, verbosity]
    measured = subtracted if confounder is None else np.asarray(confounder, np.float64)
    if rows < 3 or np.ptp(measured) == 0 or np.ptp(subtracted) == 0:
        raise ArmormError(
            f"Debiasing needs a reference set on which verbosity varies; it has {rows} rows."
        )
    correlate = _correlation_with(measured, options.correlation)
    penalties = np.zeros(objectives)
    penalties[verbosity] = 1.0
    columns = np.ascontiguousarray(rewards.T)
    with ThreadPoolExecutor() as pool:  # most of the time goes into sorting, which leaves the GIL
        before = np.array(list(pool.map(correlate, columns)))
        leans = before != 0 if options.negative == "solve" else before > 0
        solved = [i for i in range(objectives) if i != verbosity and leans[i]]
        roots = list(pool.map(lambda i: _root(columns[i], subtracted, correlate), solved))
    after = np.where(np.arange(objectives) == verbosity, 0.0, before)
    for i, (penalty, left) in zip(solved, roots, strict=True):
        penalties[i], after[i] = penalty, left
    transform = np.eye(objectives)
    transform[verbosity] -= penalties
    return VerbosityDebiasing(transform, penalties, verbosity, options.correlation, before, after)


def no_debiasing(objectives: int, verbosity: int = 0) -> VerbosityDebiasing:
    """The identity transform, for models without a verbosity objective."""
    zeros = np.zeros(objectives)
    return VerbosityDebiasing(np.eye(objectives), zeros, verbosity, "spearman", zeros, zeros)


def correlations(
    rewards: Float[np.ndarray, "rows objectives"],
    confounder: Float[np.ndarray, " rows"],
    kind: Correlation = "spearman",
) -> Float[np.ndarray, " objectives"]:
    """Correlation of each reward column with a confounder; 0 where a column is constant."""
    correlate = _correlation_with(np.asarray(confounder, np.float64), kind)
    return np.array([correlate(column) for column in np.asarray(rewards, np.float64).T])


def _correlation_with(
    confounder: Float[np.ndarray, " rows"], kind: Correlation
) -> Callable[[npt.NDArray[np.float64]], float]:
    """The correlation with a fixed confounder, which is ranked and centred only once."""
    if kind == "pearson":
        return _product_moment(confounder)
    ranks = scipy.stats.rankdata(confounder)
    correlate_ranks = _product_moment(ranks)
    centred = ranks - ranks.mean()
    positions = np.arange(len(ranks)) - (len(ranks) - 1) / 2
    scale = np.linalg.norm(centred) * np.linalg.norm(positions)

    def correlate(values: npt.NDArray[np.float64]) -> float:
        order = np.argsort(values)
        ordered = values[order]
        if (ordered[1:] == ordered[:-1]).any():
            return correlate_ranks(scipy.stats.rankdata(values))
        # Without ties the ranks are the positions: reading the other side in order will do.
        return float(centred[order] @ positions / scale)

    return correlate


def _product_moment(
    fixed: Float[np.ndarray, " rows"],
) -> Callable[[npt.NDArray[np.float64]], float]:
    centred = fixed - fixed.mean()
    norm = np.linalg.norm(centred)

    def correlate(values: npt.NDArray[np.float64]) -> float:
        other = values - values.mean()
        scale = np.linalg.norm(other) * norm
        return float(centred @ other / scale) if scale > 0 else 0.0

    return correlate


def _root(
    reward: Float[np.ndarray, " rows"],
    subtracted: Float[np.ndarray, " rows"],
    correlate: Callable[[npt.NDArray[np.float64]], float],
) -> tuple[float, float]:
    """The penalty at which the correlation of reward - penalty * subtracted crosses zero.

    Returns:
        The penalty, and the correlation that is left.  Where nothing crosses zero (a measured
        confounder that the subtracted reward does not follow), penalty 0.
    """
    left: dict[float, float] = {}

    def residual(penalty: float) -> float:
        if penalty not in left:
            left[penalty] = correlate(reward - penalty * subtracted)
        return 0.0 if abs(left[penalty]) < TOLERANCE else left[penalty]

    # The least-squares slope is the root for Pearson, and close to it for Spearman.
    centred = subtracted - subtracted.mean()
    slope = float(centred @ reward / (centred @ centred))
    reach = max(abs(slope), float(np.std(reward) / np.std(subtracted)), 1e-12)
    low, high = slope - 0.1 * reach, slope + 0.1 * reach
    for _ in range(40):
        if residual(low) >= 0 >= residual(high):
            break
        low, high = (low - reach, high) if residual(low) < 0 else (low, high + reach)
        reach *= 2
    else:
        return 0.0, correlate(reward)
    penalty = float(scipy.optimize.brentq(residual, low, high, xtol=1e-14, rtol=1e-14, maxiter=200))
    residual(penalty)
    return penalty, left[penalty]
