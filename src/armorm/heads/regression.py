"""Stage 1: ridge regression of every objective on frozen features, with missing ratings.

For objective i, over the rows D_i where it is rated (paper, equation 1; docs/method.md)::

    w_i = argmin_w  sum_{(x, r) in D_i} (w . x - r_i)^2 + alpha_i |w|^2        (no intercept)

All penalties are solved, and their held-out errors computed, from sufficient statistics alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.linalg
from jaxtyping import Float
from scipy.linalg import blas, lapack

from armorm.errors import ArmormError
from armorm.heads.device import solve_path_on
from armorm.heads.options import PAPER_ALPHAS
from armorm.heads.statistics import Pattern, RidgeStatistics, total_statistics


@dataclass(frozen=True, slots=True)
class RewardHead:
    """The regression layer: rewards = weight @ feature.

    Attributes:
        weight: W. Shape (objectives, features).
        alphas: The penalty chosen for each objective.
        rows: Rows that each objective was fitted on.
        selection_errors: Mean squared error of each penalty on the selection rows; empty where
            there were none. Shape (objectives, penalties).
    """

    weight: Float[np.ndarray, "objectives features"]
    alphas: tuple[float, ...]
    rows: tuple[int, ...]
    selection_errors: list[list[float]] = field(default_factory=list)

    def rewards(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows objectives"]:
        """Predicted unit rewards, in float32."""
        weight = self.weight.astype(np.float32)
        rewards: npt.NDArray[np.float32] = np.asarray(features, np.float32) @ weight.T
        return rewards


def fit_reward_head(
    train: RidgeStatistics,
    selection: RidgeStatistics | None = None,
    alphas: Sequence[float] = PAPER_ALPHAS,
    names: Sequence[str] | None = None,
) -> RewardHead:
    """Ridge regression per objective; the penalty chosen on the selection rows.

    Each objective takes the penalty with the least squared error on the selection rows, and is
    then refitted on both sets together.  With one penalty, no selection rows are needed.

    Args:
        train: Statistics of the training rows.
        selection: Statistics of the rows the penalty is chosen on.
        alphas: Penalties to choose from, each at least 0; 0 gives the minimum-norm solution.
        names: Names of the objectives, for errors.

    Raises:
        ArmormError: an objective has no rating at all, or several penalties and no selection row
            (the message names it).
    """
    names = names or [f"objective {i}" for i in range(train.objectives)]
    if selection is None:
        if len(alphas) > 1:
            raise ArmormError("Choosing between penalties needs selection rows.")
        return _fit(train, [float(alphas[0])] * train.objectives, names, [])
    errors = _selection_errors(train, selection, alphas, names)
    chosen = [float(alphas[int(np.argmin(row))]) for row in errors]
    return _fit(train + selection, chosen, names, errors.tolist())


def held_out_errors(
    parts: Sequence[RidgeStatistics], alphas: Sequence[float] = PAPER_ALPHAS
) -> Float[np.ndarray, "objectives alphas"]:
    """Mean squared error on each part of a fit to all the others, pooled over the parts.

    With random parts it is cross-validation; with one part per data set, leave-one-data-set-out.
    A part that holds all of an objective's ratings cannot be predicted from the others; an
    objective that no part can be held out for has NaN.
    """
    total = total_statistics(parts)
    squared = np.zeros((total.objectives, len(alphas)))
    rows = np.zeros(total.objectives)
    for part in parts:
        others = total - part
        errors = _held_out_squares(others, part, alphas)
        predicted = ~np.isnan(errors[:, 0])
        squared[predicted] += errors[predicted]
        rows[predicted] += _rows(part)[predicted]
    with np.errstate(invalid="ignore"):
        means: Float[np.ndarray, "objectives alphas"] = squared / rows[:, None]
    return means


def _selection_errors(
    train: RidgeStatistics,
    selection: RidgeStatistics,
    alphas: Sequence[float],
    names: Sequence[str],
) -> Float[np.ndarray, "objectives alphas"]:
    """Mean squared error of every penalty on the selection rows."""
    for name, fitted, held in zip(names, _rows(train), _rows(selection), strict=True):
        if fitted + held == 0:
            _refuse_unrated(name)
        if fitted == 0 or held == 0:
            raise ArmormError(
                f"{name} has {fitted} training and {held} selection rows: too few to choose a "
                "penalty. Rate more rows, drop the objective, or give a single alpha."
            )
    errors: Float[np.ndarray, "objectives alphas"] = (
        _held_out_squares(train, selection, alphas) / _rows(selection)[:, None]
    )
    return errors


def _held_out_squares(
    fitted: RidgeStatistics, held: RidgeStatistics, alphas: Sequence[float]
) -> Float[np.ndarray, "objectives alphas"]:
    """Sum of squared errors on ``held``; NaN for objectives that either side does not rate."""
    errors = np.full((fitted.objectives, len(alphas)), np.nan)
    for patterns, members in _objectives_by_patterns(fitted).items():
        moments = np.stack([fitted.moment(i) for i in members], axis=1)
        solutions = _solve_path(fitted.gram(patterns), moments, alphas, fitted.device)
        for held_patterns, held_members in _objectives_by_patterns(held, members).items():
            places = [members.index(i) for i in held_members]
            errors[held_members] = _squared_errors(
                solutions[:, :, places], held.gram(held_patterns), held, held_members
            )
    return errors


def _rows(statistics: RidgeStatistics) -> npt.NDArray[np.int64]:
    return np.array([statistics.rows_rating(i) for i in range(statistics.objectives)])


def _fit(
    statistics: RidgeStatistics,
    alphas: Sequence[float],
    names: Sequence[str],
    errors: list[list[float]],
) -> RewardHead:
    """Every objective with its own penalty; objectives that share both share a factorisation."""
    weight = np.zeros((statistics.objectives, statistics.features))
    rows = _rows(statistics)
    for name, rated in zip(names, rows, strict=True):
        if rated == 0:
            _refuse_unrated(name)
    for patterns, members in _objectives_by_patterns(statistics).items():
        gram = statistics.gram(patterns)
        for alpha in sorted({alphas[i] for i in members}):
            together = [i for i in members if alphas[i] == alpha]
            moments = np.stack([statistics.moment(i) for i in together], axis=1)
            weight[together] = _solve_path(gram, moments, [alpha], statistics.device)[0].T
    return RewardHead(weight, tuple(alphas), tuple(rows.tolist()), errors)


def _refuse_unrated(name: str) -> None:
    raise ArmormError(
        f"{name} has no rating in the data. Remove it from the recipe's objectives, or add data "
        "that rates it."
    )


def _objectives_by_patterns(
    statistics: RidgeStatistics, objectives: Iterable[int] | None = None
) -> dict[tuple[Pattern, ...], list[int]]:
    """Objectives that are rated in the same rows share one X'X, and so one factorisation."""
    groups: dict[tuple[Pattern, ...], list[int]] = {}
    for objective in range(statistics.objectives) if objectives is None else objectives:
        if patterns := statistics.patterns_rating(objective):
            groups.setdefault(patterns, []).append(objective)
    return groups


def _solve_path(
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
    device: str | None = None,
) -> Float[np.ndarray, "alphas features members"]:
    """(X'X + alpha I)^-1 X'r for every penalty.

    A Cholesky factorisation per penalty costs a fraction of one eigendecomposition, which is
    kept for penalties that leave the matrix near singular.
    """
    solutions = np.empty((len(alphas), *moments.shape))
    spectrum: _Spectrum | None = None
    regular = (
        _regular_solutions(gram, moments, alphas)
        if device is None
        else solve_path_on(device, gram, moments, alphas)
    )
    for number, (alpha, solution) in enumerate(zip(alphas, regular, strict=True)):
        if solution is None:
            spectrum = spectrum or _Spectrum(gram)
            solution = spectrum.solve(moments, alpha)
        solutions[number] = solution
    return solutions


def _regular_solutions(
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
) -> Iterator[Float[np.ndarray, "features members"] | None]:
    """A solution per penalty; ``None`` where the matrix is singular in float64."""
    workspace = np.empty_like(gram, order="F")  # fresh memory for every factor costs page faults
    for alpha in alphas:
        factor = cholesky_of_ridge(gram, alpha, workspace)
        yield None if factor is None else lapack.dpotrs(factor, moments, lower=True)[0]


def cholesky_of_ridge(
    gram: Float[np.ndarray, "features features"],
    alpha: float,
    workspace: Float[np.ndarray, "features features"] | None = None,
) -> Float[np.ndarray, "features features"] | None:
    """Lower Cholesky factor of X'X + alpha I; ``None`` where that is singular in float64.

    Args:
        gram: Lower triangle of X'X, in Fortran order.
        alpha: Penalty.
        workspace: Memory for the factor, in Fortran order; default fresh memory.
    """
    damped = np.empty_like(gram, order="F") if workspace is None else workspace
    np.copyto(damped, gram)
    damped[np.diag_indices_from(damped)] += alpha
    factor, failed = lapack.dpotrf(damped, lower=True, clean=False, overwrite_a=True)
    if failed:
        return None
    diagonal = np.abs(np.diag(factor))
    if (diagonal.min() / diagonal.max()) ** 2 < len(gram) * np.finfo(np.float64).eps:
        return None
    return np.asarray(factor)


class _Spectrum:
    """The eigendecomposition of X'X, for penalties that do not make it regular."""

    def __init__(self, gram: Float[np.ndarray, "features features"]) -> None:
        values, self.vectors = scipy.linalg.eigh(gram, lower=True, driver="evd", check_finite=False)
        # Rounding leaves tiny eigenvalues, some negative, where X'X is rank deficient.
        tolerance = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        self.values = np.where(values > tolerance, values, 0.0)

    def solve(
        self, moments: Float[np.ndarray, "features members"], alpha: float
    ) -> Float[np.ndarray, "features members"]:
        # Directions without data carry only rounding error: the minimum-norm solution has none.
        data = self.values > 0
        inverse = np.zeros_like(self.values)
        inverse[data] = 1.0 / (self.values[data] + alpha)
        solution: Float[np.ndarray, "features members"] = self.vectors @ (
            inverse[:, None] * (self.vectors.T @ moments)
        )
        return solution


def _squared_errors(
    solutions: Float[np.ndarray, "alphas features members"],
    gram: Float[np.ndarray, "features features"],
    statistics: RidgeStatistics,
    members: Sequence[int],
) -> Float[np.ndarray, "members alphas"]:
    """|Xw - r|^2 = w'X'Xw - 2 w'X'r + r'r of every solution w, over the rows of ``statistics``."""
    alphas, features, _ = solutions.shape
    columns = np.asfortranarray(solutions.transpose(1, 2, 0).reshape(features, -1))
    products = blas.dsymm(1.0, gram, columns, lower=True)
    quadratic = np.einsum("fc,fc->c", columns, products).reshape(len(members), alphas)
    moments = np.stack([statistics.moment(i) for i in members])
    linear = np.einsum("mf,afm->ma", moments, solutions)
    squares = np.array([statistics.squares(i) for i in members])
    errors: Float[np.ndarray, "members alphas"] = quadratic - 2 * linear + squares[:, None]
    return errors
