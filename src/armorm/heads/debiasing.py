"""Verbosity debiasing: remove from each reward the part that correlates with verbosity.

Paper, equations 2 and 3: r'_i = r_i - lambda_i r_verbosity, with lambda_i such that the
correlation of r'_i and the confounder over a reference set is zero.  The confounder is an
objective, measured by its predicted reward (the paper's) or by another quantity such as a token
count; its predicted reward is subtracted in either case, so that the transform stays a matrix.

Where the verbosity reward is the measure, Spearman's correlation never grows with lambda (each
pair of rows can only turn from concordant to discordant), so it has one root.  With another measure
it may have several: the one nearest zero changes the rewards least and is taken.
Pearson's correlation has one root in closed form in either case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.heads.options import Correlation, DebiasingOptions

TOLERANCE = 1e-6
"""Correlations below this count as zero."""

MANY_ROWS = 20_000
"""Above this a correlation is smooth in the penalty, and is scanned in wider steps."""

Outcome = Literal["subtracted", "kept", "solved", "no root"]


@dataclass(frozen=True, slots=True)
class VerbosityDebiasing:
    """Transform that removes verbosity from the rewards.

    Attributes:
        transform: T, so that r' = r T (docs/method.md). Shape (objectives, objectives).
        penalties: lambda of each objective; for the verbosity objective itself 1, so that its
            transformed reward is 0, or 0 where it is kept. Shape (objectives,).
        verbosity: Column of the verbosity objective.
        correlation: Kind of correlation that was brought to zero.
        before: Correlation of each r_i with the measure on the reference set. Shape
            (objectives,).
        after: The same of each r'_i; 0 for a verbosity objective that is dropped. Shape
            (objectives,).
        outcomes: Outcome for each objective: ``subtracted`` (the verbosity objective), ``kept``
            (its correlation was not positive), ``solved``, or ``no root`` (no penalty brings the
            correlation to zero, and the reward is as it was).
        mirror: Column of the reverse of a verbosity objective that is kept.

    Example:
        >>> import numpy as np
        >>> debiasing = VerbosityDebiasing.none(objectives=2)
        >>> np.array([[0.5, 0.7]]) @ debiasing.transform
        array([[0.5, 0.7]])
    """

    transform: Float[np.ndarray, "objectives objectives"]
    penalties: Float[np.ndarray, " objectives"]
    verbosity: int
    correlation: Correlation
    before: Float[np.ndarray, " objectives"]
    after: Float[np.ndarray, " objectives"]
    outcomes: tuple[Outcome, ...]
    mirror: int | None = None

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the verbosity objective and its reverse; empty without debiasing."""
        if "subtracted" not in self.outcomes:
            return ()
        return (self.verbosity,) if self.mirror is None else (self.verbosity, self.mirror)

    @classmethod
    def none(cls, objectives: int) -> VerbosityDebiasing:
        """Return the identity transform, for models without a verbosity objective."""
        zeros = np.zeros(objectives)
        kept: list[Outcome] = ["kept"] * objectives
        return cls(np.eye(objectives), zeros, 0, "spearman", zeros, zeros, tuple(kept))


def fit_debiasing(
    rewards: Float[np.ndarray, "rows objectives"],
    verbosity: int,
    options: DebiasingOptions | None = None,
    *,
    measured: Float[np.ndarray, " rows"] | None = None,
    mirror: int | None = None,
) -> VerbosityDebiasing:
    """Find the penalty of every objective on a reference set.

    Args:
        rewards: Predicted rewards of the reference responses.
        verbosity: Column of the objective that is subtracted from the others.
        options: The options ``correlation``, ``confounder`` and ``negative`` are used.
        measured: Values that the correlation is measured with, such as the length of each
            response; default the verbosity reward itself (the paper's).
        mirror: Column of its reverse, where there is one (:meth:`RewardHead.mirrored`).

    Raises:
        ArmormError: there are too few rows, or the measure is constant over them.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> verbosity = generator.normal(size=1000)
        >>> helpfulness = 0.5 * verbosity + generator.normal(size=1000)
        >>> debiasing = fit_debiasing(np.stack([helpfulness, verbosity], axis=1), verbosity=1)
        >>> debiasing.penalties.round(2), debiasing.outcomes
        (array([0.56, 1.  ]), ('solved', 'subtracted'))
        >>> debiasing.before.round(2), abs(debiasing.after).round(4)
        (array([0.45, 1.  ]), array([0., 0.]))
    """
    options = options or DebiasingOptions()
    rewards = np.asarray(rewards, dtype=np.float64)
    rows, objectives = rewards.shape
    subtracted = rewards[:, verbosity]
    quantity = subtracted if measured is None else np.asarray(measured, np.float64)
    if rows < 3 or np.ptp(quantity) == 0 or np.ptp(subtracted) == 0:
        raise ArmormError(
            f"Debiasing needs a reference set on which verbosity varies; it has {rows} rows."
        )
    correlate = _correlation_with(quantity, options.correlation)
    columns = np.ascontiguousarray(rewards.T)

    def root(column: int) -> float | None:
        reward = columns[column]
        if options.correlation == "pearson":
            return _pearson_root(reward, subtracted, quantity)
        if measured is None:
            return _only_root(reward, subtracted, correlate)
        return _nearest_root(reward, subtracted, correlate)

    with ThreadPoolExecutor() as pool:  # most of the time goes into sorting, which leaves the GIL
        before = np.array(list(pool.map(correlate, columns)))
        leans = before != 0 if options.negative == "solve" else before > 0
        solved = [i for i in range(objectives) if i not in (verbosity, mirror) and leans[i]]
        roots = dict(zip(solved, pool.map(root, solved), strict=True))
        penalties = np.array([roots.get(i) or 0.0 for i in range(objectives)])
        penalties[verbosity] = float(options.confounder == "dropped")
        transform = np.eye(objectives)
        transform[verbosity] -= penalties
        changed = columns - penalties[:, None] * subtracted
        after = np.array(list(pool.map(correlate, changed)))
    if options.confounder == "dropped":
        after[verbosity] = 0.0
    outcomes: tuple[Outcome, ...] = tuple(
        "subtracted"
        if i == verbosity
        else "kept"
        if i not in roots
        else "no root"
        if roots[i] is None
        else "solved"
        for i in range(objectives)
    )
    return VerbosityDebiasing(
        transform, penalties, verbosity, options.correlation, before, after, outcomes, mirror
    )


def correlations(
    rewards: Float[np.ndarray, "rows objectives"],
    measure: Float[np.ndarray, " rows"],
    kind: Correlation = "spearman",
) -> Float[np.ndarray, " objectives"]:
    """Return the correlation of each reward column with a measure; 0 for a constant column."""
    correlate = _correlation_with(np.asarray(measure, np.float64), kind)
    return np.array([correlate(column) for column in np.asarray(rewards, np.float64).T])


def _correlation_with(
    measure: Float[np.ndarray, " rows"], kind: Correlation
) -> Callable[[npt.NDArray[np.float64]], float]:
    """Return the correlation with a fixed quantity, which is ranked and centred only once."""
    if kind == "pearson":
        return _product_moment(measure)
    ranks = scipy.stats.rankdata(measure)
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


def _pearson_root(
    reward: Float[np.ndarray, " rows"],
    subtracted: Float[np.ndarray, " rows"],
    measured: Float[np.ndarray, " rows"],
) -> float | None:
    """Return the penalty at which cov(reward - penalty * subtracted, measured) is zero."""
    centred = measured - measured.mean()
    shared = float(centred @ (subtracted - subtracted.mean()))
    if abs(shared) <= 1e-12 * np.linalg.norm(centred) * np.linalg.norm(subtracted):
        return None
    return float(centred @ (reward - reward.mean())) / shared


def _only_root(
    reward: Float[np.ndarray, " rows"],
    subtracted: Float[np.ndarray, " rows"],
    correlate: Callable[[npt.NDArray[np.float64]], float],
) -> float | None:
    """Find the root of a correlation that never grows with the penalty."""
    residual = _residual(reward, subtracted, correlate)
    slope, reach = _scales(reward, subtracted)
    low, high = slope - 0.1 * reach, slope + 0.1 * reach
    for _ in range(60):
        if residual(low) >= 0 >= residual(high):
            return _brent(residual, low, high)
        low, high = (low - reach, high) if residual(low) < 0 else (low, high + reach)
        reach *= 2
    return None


def _nearest_root(
    reward: Float[np.ndarray, " rows"],
    subtracted: Float[np.ndarray, " rows"],
    correlate: Callable[[npt.NDArray[np.float64]], float],
) -> float | None:
    """Find the root nearest zero of a correlation that may rise and fall with the penalty.

    Both directions are scanned from zero in growing steps, to four orders of magnitude beyond the
    rewards' scales, where the correlation no longer changes.  A change of sign encloses a root.
    So may a point whose correlation is nearer zero than its neighbours': the lowest point between
    them is looked for, since two roots can lie within one step.
    """
    residual = _residual(reward, subtracted, correlate)
    _, reach = _scales(reward, subtracted)
    growth = 1.25 if len(reward) > MANY_ROWS else 1.05
    step, points = reach * (growth - 1) / 2, [0.0]
    while points[-1] < 1e4 * reach:
        points = [points[0] - step, *points, points[-1] + step]
        found = [
            root
            for outwards in (points[:3][::-1], points[-3:])
            if (root := _root_among(residual, *outwards)) is not None
        ]
        if found:
            return min(found, key=abs)
        step *= growth
    return None


def _root_among(
    residual: Callable[[float], float], first: float, middle: float, last: float
) -> float | None:
    """Return the root nearest zero among three points in outward order; the last one is new."""
    if residual(middle) * residual(last) <= 0:
        return _brent(residual, middle, last)
    sign = np.sign(residual(last))
    if sign * residual(middle) >= min(sign * residual(first), sign * residual(last)):
        return None
    lowest = scipy.optimize.minimize_scalar(
        lambda penalty: sign * residual(penalty),
        bounds=(min(first, last), max(first, last)),
        method="bounded",
        options={"maxiter": 40},
    ).x
    if sign * residual(float(lowest)) > 0:
        return None
    return _brent(residual, min(first, middle, key=abs), float(lowest))


def _residual(
    reward: Float[np.ndarray, " rows"],
    subtracted: Float[np.ndarray, " rows"],
    correlate: Callable[[npt.NDArray[np.float64]], float],
) -> Callable[[float], float]:
    """Return the correlation that a penalty leaves, cached; 0 within the tolerance."""

    @functools.cache
    def residual(penalty: float) -> float:
        left = correlate(reward - penalty * subtracted)
        return 0.0 if abs(left) < TOLERANCE else left

    return residual


def _scales(
    reward: Float[np.ndarray, " rows"], subtracted: Float[np.ndarray, " rows"]
) -> tuple[float, float]:
    """Return the least-squares slope, near the roots, and the size of a sensible penalty."""
    centred = subtracted - subtracted.mean()
    slope = float(centred @ reward / (centred @ centred))
    return slope, max(abs(slope), float(np.std(reward) / np.std(subtracted)), 1e-12)


def _brent(residual: Callable[[float], float], one: float, other: float) -> float:
    return float(scipy.optimize.brentq(residual, one, other, xtol=1e-14, rtol=1e-14, maxiter=200))
