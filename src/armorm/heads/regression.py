"""Stage 1: ridge regression of every objective on frozen features, with missing ratings.

For objective i, over the rows D_i where it is rated (paper, equation 1; docs/method.md)::

    w_i = argmin_w  sum_{(x, r) in D_i} (w . x - r_i)^2 + alpha_i |w|^2        (no intercept)

All penalties are solved, and cross-validated, from sufficient statistics alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.linalg
from jaxtyping import Float
from scipy.linalg import blas, lapack

from armorm.errors import ArmormError
from armorm.heads.device import solve_path_on
from armorm.heads.options import PAPER_ALPHAS, HeadOptions
from armorm.heads.statistics import Pattern, RidgeStatistics, total_statistics

EXHAUSTIVE = 512
"""Up to this feature length every penalty is tried; see :func:`fit_reward_head`."""

MOST_ITERATIONS = 15
"""Iterations after which factorisations take over where the features are wide."""

TRIED_AT_ONCE = 3
"""Penalties solved together, from the largest down, where not all are tried."""


@runtime_checkable
class StoredFeatures(Protocol):
    """Features of responses as :class:`armorm.FeatureStore` gives them."""

    def responses(self) -> Any:
        """Return an Arrow table with a column held_out."""

    def response_features(self) -> Iterator[Any]:
        """Yield tensors of shape (responses, features)."""


@dataclass(frozen=True, slots=True)
class RewardHead:
    """Regression layer of a reward model: rewards = weight @ feature.

    Attributes:
        weight: W. Shape (objectives, features).
        alphas: The penalty chosen for each objective.
        rows: Number of rows that each objective was fitted on.
        selection_errors: Cross-validated mean squared error of each penalty, NaN where it was not
            tried; empty for a single penalty. Shape (objectives, penalties).

    Example:
        >>> import numpy as np
        >>> head = RewardHead(np.array([[1.0, 2.0]]), alphas=(0.1,), rows=(10,))
        >>> head.rewards(np.array([[3.0, 4.0]]))
        array([[11.]], dtype=float32)
    """

    weight: Float[np.ndarray, "objectives features"]
    alphas: tuple[float, ...]
    rows: tuple[int, ...]
    selection_errors: list[list[float]] = field(default_factory=list)

    def mirrored(self, column: int) -> RewardHead:
        """Return the head with another objective at the end, the reverse of one of its own."""
        errors = self.selection_errors
        return RewardHead(
            np.concatenate([self.weight, -self.weight[[column]]]),
            (*self.alphas, self.alphas[column]),
            (*self.rows, self.rows[column]),
            [*errors, errors[column]] if errors else [],
        )

    def rewards(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows objectives"]:
        """Return predicted unit rewards, in float32."""
        weight = self.weight.astype(np.float32)
        rewards: npt.NDArray[np.float32] = np.asarray(features, np.float32) @ weight.T
        return rewards

    def rewards_of(
        self, store: StoredFeatures, *, held_out: bool | None = None
    ) -> Float[np.ndarray, "responses objectives"]:
        """Return predicted unit rewards of the responses of a feature store, read shard by shard.

        Args:
            store: Features of responses.
            held_out: Keep only responses that are held out (true) or not (false); default all.
        """
        shards = [self.rewards(shard.float().numpy()) for shard in store.response_features()]
        rewards: npt.NDArray[np.float64] = np.concatenate(shards).astype(np.float64)
        if held_out is None:
            return rewards
        rows = np.asarray(store.responses()["held_out"].to_numpy()) == held_out
        return np.asarray(rewards[rows])


def fit_reward_head(
    statistics: RidgeStatistics,
    options: HeadOptions | None = None,
    *,
    names: Sequence[str] | None = None,
) -> RewardHead:
    """Fit a ridge regression per objective, its penalty cross-validated on the folds.

    Each objective takes the penalty with the least squared error on held-out folds, pooled over
    the folds, and is then fitted on all rows.  With features longer than 512 numbers, penalties
    are tried from the largest down, and the smaller ones are skipped once every objective's error
    has risen twice: systems with small penalties are the ill-conditioned, expensive ones.

    Args:
        statistics: Sums over the rated rows, by fold (:meth:`RidgeStatistics.of`).
        options: Penalties to choose from; default the paper's nine.
        names: Names of the objectives, for errors.

    Raises:
        ArmormError: an objective has no rating at all, or all in one fold where there are several
            penalties (the message names it).

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> x = generator.normal(size=(200, 4))
        >>> y = x @ [[1.0], [0.0], [-2.0], [0.5]] + 0.1 * generator.normal(size=(200, 1))
        >>> statistics = RidgeStatistics(features=4, objectives=1)
        >>> statistics.update(x, y, folds=np.arange(200) % 5)
        >>> head = fit_reward_head(statistics)
        >>> head.alphas, head.weight.round(2)
        ((0.0001,), array([[ 0.99,  0.  , -1.99,  0.5 ]]))
    """
    alphas = (options or HeadOptions()).alphas
    names = names or [f"objective {i}" for i in range(statistics.objectives)]
    for name, rated in zip(names, _rows(statistics), strict=True):
        if rated == 0:
            raise ArmormError(
                f"{name} has no rating in the data. Remove it from the recipe's objectives, or add "
                "data that rates it."
            )
    weight = np.zeros((statistics.objectives, statistics.features))
    errors = np.full((statistics.objectives, len(alphas)), np.nan)
    chosen = np.full(statistics.objectives, float(alphas[0]))
    folds = statistics.folds() if len(alphas) > 1 else []
    for patterns, members in _objectives_by_patterns(statistics).items():
        whole = _NormalEquations.of(statistics, patterns, members)
        if folds:
            held = whole.parts_of(folds, patterns, members)
            if not held:
                raise ArmormError(
                    f"{names[members[0]]} has {whole.rows} rated rows, all in one fold: too few "
                    "prompts to choose a penalty. Rate more prompts, drop the objective, or give a "
                    "single alpha."
                )
            narrow = statistics.features <= EXHAUSTIVE
            errors[members] = _pooled_errors(whole, held, alphas, narrow, statistics.device)
            chosen[members] = np.asarray(alphas)[np.nanargmin(errors[members], axis=1)]
        weight[members] = whole.solutions(chosen[members], statistics.device)
    tried = errors.tolist() if folds else []
    return RewardHead(weight, tuple(chosen.tolist()), tuple(_rows(statistics).tolist()), tried)


def held_out_errors(
    parts: Sequence[RidgeStatistics],
    alphas: Sequence[float] = PAPER_ALPHAS,
    *,
    exhaustive: bool = True,
) -> Float[np.ndarray, "objectives alphas"]:
    """Return the mean squared error on each part of a fit to all the others, pooled over the parts.

    With folds as parts it is cross-validation; with one part per data set, leave-one-data-set-out.
    A part that holds all of an objective's ratings cannot be predicted from the others; an
    objective that no part can be held out for has NaN.

    Args:
        parts: Disjoint sets of rows.
        alphas: Penalties.
        exhaustive: Try every penalty; otherwise the small ones have NaN where every objective's
            error has risen twice before them.
    """
    total = total_statistics(parts)
    errors = np.full((total.objectives, len(alphas)), np.nan)
    for patterns, members in _objectives_by_patterns(total).items():
        whole = _NormalEquations.of(total, patterns, members)
        if held := whole.parts_of(parts, patterns, members):
            errors[members] = _pooled_errors(whole, held, alphas, exhaustive, total.device)
    return errors


class _NormalEquations(NamedTuple):
    """Sums over the rows that rate some objectives, all of them in the same rows."""

    rows: int
    gram: Float[np.ndarray, "features features"]  # lower triangle, in Fortran order
    moments: Float[np.ndarray, "features members"]
    squares: Float[np.ndarray, " members"]

    @classmethod
    def of(
        cls, statistics: RidgeStatistics, patterns: tuple[Pattern, ...], members: Sequence[int]
    ) -> _NormalEquations:
        return cls(
            statistics.rows_rating(members[0]),
            statistics.gram(patterns),
            np.stack([statistics.moment(i) for i in members], axis=1),
            np.array([statistics.squares(i) for i in members]),
        )

    def parts_of(
        self,
        parts: Sequence[RidgeStatistics],
        patterns: tuple[Pattern, ...],
        members: Sequence[int],
    ) -> list[_NormalEquations]:
        """Return those of the parts that hold some of the rows but not all."""
        return [
            _NormalEquations.of(part, patterns, members)
            for part in parts
            if 0 < part.rows_rating(members[0]) < self.rows
        ]

    def solutions(
        self, alphas: Float[np.ndarray, " members"], device: str | None
    ) -> Float[np.ndarray, "members features"]:
        """Return each objective's solution, with one factorisation for those of one penalty."""
        solutions = np.empty(self.moments.T.shape)
        for alpha in np.unique(alphas):
            moments = self.moments[:, alphas == alpha]
            path = _solve_path(self.gram, moments, [float(alpha)], device)
            solutions[alphas == alpha] = path[0].T
        return solutions

    def squared_errors(
        self, solutions: Float[np.ndarray, "alphas features members"]
    ) -> Float[np.ndarray, "members alphas"]:
        """Return |Xw - r|^2 = w'X'Xw - 2 w'X'r + r'r of every solution w."""
        columns = np.ascontiguousarray(solutions.transpose(2, 0, 1))
        quadratic = _dot(columns, _symmetric_product(self.gram, columns))
        linear = np.einsum("fm,afm->ma", self.moments, solutions)
        errors: Float[np.ndarray, "members alphas"] = quadratic - 2 * linear + self.squares[:, None]
        return errors


def _pooled_errors(
    whole: _NormalEquations,
    held: Sequence[_NormalEquations],
    alphas: Sequence[float],
    exhaustive: bool,
    device: str | None,
) -> Float[np.ndarray, "members alphas"]:
    """Return the mean squared error of every penalty over parts, each fitted to all others."""
    errors = np.full((len(whole.squares), len(alphas)), np.nan)
    rows = sum(part.rows for part in held)
    downwards = sorted(range(len(alphas)), key=lambda i: -alphas[i])
    step = len(alphas) if exhaustive else TRIED_AT_ONCE
    for start in range(0, len(alphas), step):
        chunk = downwards[start : start + step]
        tried = [alphas[i] for i in chunk]
        errors[:, chunk] = _errors_on_parts(whole, held, tried, device) / rows
        done = errors[:, downwards[: start + len(chunk)]]
        if (done.argmin(axis=1) < done.shape[1] - 2).all():
            break
    return errors


def _errors_on_parts(
    whole: _NormalEquations,
    held: Sequence[_NormalEquations],
    alphas: Sequence[float],
    device: str | None,
) -> Float[np.ndarray, "members alphas"]:
    """Return squared errors, summed over parts, of the solutions of all other rows.

    Those of wide features are found by iteration, which is right to about 1e-5, where that
    converges quickly; the others by a factorisation for each part and penalty.
    """
    errors = np.zeros((len(whole.squares), len(alphas)))
    left = np.ones(len(alphas), bool)
    if device is None and len(whole.gram) > EXHAUSTIVE:
        errors, accurate = _iterated_errors(whole, held, alphas)
        errors[:, left := ~accurate] = 0
    if left.any():
        for part in held:
            gram, moments = whole.gram - part.gram, whole.moments - part.moments
            solutions = _solve_path(gram, moments, np.asarray(alphas)[left].tolist(), device)
            errors[:, left] += part.squared_errors(solutions)
    return errors


def _iterated_errors(
    whole: _NormalEquations, held: Sequence[_NormalEquations], alphas: Sequence[float]
) -> tuple[Float[np.ndarray, "members alphas"], npt.NDArray[np.bool_]]:
    """Return squared errors as :func:`_errors_on_parts` does, by conjugate gradients.

    All parts share the preconditioners, float32 factors of the sums over all rows, which differ
    little from the sums without a part: a factor for each part would take most of the time.  Parts
    and penalties are iterated side by side, so that each matrix is read once an iteration.

    An error delta of a solution w moves |Xw - r| by at most |X delta|, which is about its energy
    norm.  Every iteration lowers the energy of the error, and the last two reductions tell how much
    is left, unless some direction has not been reached yet: one that has data in the held part
    alone is reached late.  So a made-up solution with a share of every direction is iterated too.

    Returns:
        The errors, and for each penalty whether they are accurate.
    """
    generator = np.random.default_rng(0)
    features, members = whole.moments.shape
    shape = (len(held), len(alphas), members + 1, features)  # the made-up solution comes last
    penalties = np.asarray(alphas)[:, None, None]
    factors = [_narrow_factor(whole.gram, alpha) for alpha in alphas]
    grams = [part.gram for part in held]
    moments = np.stack([part.moments.T for part in held])[:, None]
    squares = np.stack([part.squares for part in held])[:, None]

    def products(columns: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """Return the products with the sums over each part, and with the damped ones of others."""
        on_parts = np.stack(list(map(_symmetric_product, grams, columns)))
        return on_parts, _symmetric_product(whole.gram, columns) + penalties * columns - on_parts

    with np.errstate(all="ignore"):  # a factor that failed ends as NaN, which is not accurate
        # The objectives start from the solution of all rows, the made-up one from zero.
        noise = generator.standard_normal((1, features))
        made_up = np.stack([_solve_narrow(factor, noise, half=True) for factor in factors])
        of_all = np.stack([_solve_narrow(factor, whole.moments.T) for factor in factors])
        solutions = np.broadcast_to(np.concatenate([of_all, made_up], axis=1), shape).copy()
        on_parts, residuals = products(solutions)
        residuals[..., :-1, :] = whole.moments.T - moments - residuals[..., :-1, :]
        made_up_on_parts = on_parts[..., -1, :].copy()
        solutions[..., -1, :] = on_parts[..., -1, :] = 0
        directions = np.zeros(shape)
        slopes, drops = np.full(shape[:-1], np.inf), np.zeros(shape[:-1])
        for _ in range(MOST_ITERATIONS):
            steepest = np.stack(
                [_solve_narrow(one, residuals[:, i]) for i, one in enumerate(factors)], axis=1
            )
            before, slopes = slopes, _dot(steepest, residuals)
            directions = steepest + (slopes / before)[..., None] * directions
            change_on_parts, change = products(directions)
            steps = slopes / _dot(directions, change)
            solutions += steps[..., None] * directions
            on_parts += steps[..., None] * change_on_parts
            residuals -= steps[..., None] * change
            before, drops = drops, steps * slopes
            errors = _dot(solutions[..., :-1, :], on_parts[..., :-1, :] - 2 * moments) + squares
            left = np.where(drops < before, drops**2 / (before - drops), np.inf)[..., :-1]
            missed = _dot(
                made_up[:, 0] - solutions[..., -1, :], made_up_on_parts - on_parts[..., -1, :]
            )
            reached = missed <= 1e-7 * _dot(made_up[:, 0], made_up_on_parts)
            accurate = ((left <= 1e-9 * errors).all(axis=2) & reached).all(axis=0)
            if accurate.all():
                break
    return errors.sum(axis=0).T, accurate


def _rows(statistics: RidgeStatistics) -> npt.NDArray[np.int64]:
    return np.array([statistics.rows_rating(i) for i in range(statistics.objectives)])


def _objectives_by_patterns(
    statistics: RidgeStatistics,
) -> dict[tuple[Pattern, ...], list[int]]:
    """Group objectives that are rated in the same rows: they share one X'X, one factorisation."""
    groups: dict[tuple[Pattern, ...], list[int]] = {}
    for objective in range(statistics.objectives):
        if patterns := statistics.patterns_rating(objective):
            groups.setdefault(patterns, []).append(objective)
    return groups


def _solve_path(
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
    device: str | None = None,
) -> Float[np.ndarray, "alphas features members"]:
    """Return (X'X + alpha I)^-1 X'r for every penalty.

    A Cholesky factorisation per penalty costs a fraction of one eigendecomposition, which is
    kept for penalties that leave the matrix near singular.

    Args:
        gram: Lower triangle of X'X, in Fortran order.
        moments: X'r of several objectives.
        alphas: Penalties.
        device: Device that solves; default the CPU.
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


def _narrow_factor(
    gram: Float[np.ndarray, "features features"], alpha: float
) -> Float[np.ndarray, "features features"]:
    """Return the lower Cholesky factor of X'X + alpha I in float32, NaN if there is none.

    It takes a quarter of the time of one in float64.
    """
    with np.errstate(over="ignore"):
        damped = gram.astype(np.float32, order="F")
    damped[np.diag_indices(len(gram))] += np.float32(alpha)
    factor, failed = lapack.spotrf(damped, lower=True, clean=False, overwrite_a=True)
    if failed:
        factor[:] = np.nan
    return np.asarray(factor)


def _solve_narrow(
    factor: Float[np.ndarray, "features features"],
    targets: Float[np.ndarray, "*columns features"],
    *,
    half: bool = False,
) -> Float[np.ndarray, "*columns features"]:
    """Return (LL')^-1 b, or half of it, L'^-1 b, for every b."""
    columns = targets.reshape(-1, len(factor)).T.astype(np.float32)
    if half:
        solved = lapack.strtrs(factor, columns, lower=True, trans=1)[0]
    else:
        solved = lapack.spotrs(factor, columns, lower=True)[0]
    return np.asarray(solved.T.reshape(targets.shape), np.float64)


def _symmetric_product(
    gram: Float[np.ndarray, "features features"], columns: Float[np.ndarray, "*columns features"]
) -> Float[np.ndarray, "*columns features"]:
    """Return X'X w of every w, in one product: the matrix is read once."""
    products = blas.dsymm(1.0, gram, columns.reshape(-1, len(gram)).T, lower=True)
    return np.asarray(products.T.reshape(columns.shape))


def _dot(
    a: Float[np.ndarray, "... features"], b: Float[np.ndarray, "... features"]
) -> npt.NDArray[np.float64]:
    """Return the products of vectors along the last axis."""
    products: npt.NDArray[np.float64] = np.einsum("...i,...i->...", a, b)
    return products


def _regular_solutions(
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
) -> Iterator[Float[np.ndarray, "features members"] | None]:
    """Return a solution per penalty; ``None`` where the matrix is singular in float64."""
    workspace = np.empty_like(gram, order="F")  # fresh memory for every factor costs page faults
    for alpha in alphas:
        factor = cholesky_of_ridge(gram, alpha, workspace)
        yield None if factor is None else lapack.dpotrs(factor, moments, lower=True)[0]


def cholesky_of_ridge(
    gram: Float[np.ndarray, "features features"],
    alpha: float,
    workspace: Float[np.ndarray, "features features"] | None = None,
) -> Float[np.ndarray, "features features"] | None:
    """Return the lower Cholesky factor of X'X + alpha I; ``None`` if that is singular in float64.

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
    """Return the eigendecomposition of X'X, for penalties that do not make it regular."""

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
