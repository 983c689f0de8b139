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
    if len(alphas) == 1:
        return _fit(statistics, [float(alphas[0])] * statistics.objectives, [])
    narrow = statistics.features <= EXHAUSTIVE
    errors = held_out_errors(statistics.folds(), alphas, exhaustive=narrow)
    for name, tried, rated in zip(names, ~np.isnan(errors), _rows(statistics), strict=True):
        if not tried.any():
            raise ArmormError(
                f"{name} has {rated} rated rows, all in one fold: too few prompts to choose a "
                "penalty. Rate more prompts, drop the objective, or give a single alpha."
            )
    chosen = [float(alphas[int(np.nanargmin(row))]) for row in errors]
    return _fit(statistics, chosen, errors.tolist())


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
        held = [
            _NormalEquations.of(part, patterns, members)
            for part in parts
            if 0 < part.rows_rating(members[0]) < whole.rows
        ]
        if held:
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

    def squared_errors(
        self, solutions: Float[np.ndarray, "alphas features members"]
    ) -> Float[np.ndarray, "members alphas"]:
        """Return |Xw - r|^2 = w'X'Xw - 2 w'X'r + r'r of every solution w."""
        products = _symmetric_product(self.gram, solutions)
        quadratic = np.einsum("afm,afm->ma", solutions, products)
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
    others = [(whole.gram - part.gram, whole.moments - part.moments) for part in held]
    rows = sum(part.rows for part in held)
    downwards = sorted(range(len(alphas)), key=lambda i: -alphas[i])
    step = len(alphas) if exhaustive else TRIED_AT_ONCE
    for start in range(0, len(alphas), step):
        chunk = downwards[start : start + step]
        tried = [alphas[i] for i in chunk]
        squares = np.zeros((len(whole.squares), len(chunk)))
        for (gram, moments), part in zip(others, held, strict=True):
            squares += _errors_on(part, gram, moments, tried, device)
        errors[:, chunk] = squares / rows
        done = errors[:, downwards[: start + len(chunk)]]
        if (done.argmin(axis=1) < done.shape[1] - 2).all():
            break
    return errors


def _errors_on(
    part: _NormalEquations,
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
    device: str | None,
) -> Float[np.ndarray, "members alphas"]:
    """Return the squared errors on a part of the solutions of other rows, right to about 1e-5.

    An error delta of a solution w moves |Xw - r| by at most |X delta|, which is less than its
    energy norm: float32 factors serve where that is small, and float64 ones elsewhere.
    """
    if device is not None or len(gram) <= EXHAUSTIVE:
        return part.squared_errors(_solve_path(gram, moments, alphas, device))
    solutions, energies = _refined_solutions(gram, moments, alphas)
    errors = part.squared_errors(solutions)
    accurate = (1e-10 * errors >= energies.T).all(axis=0)
    if not accurate.all():
        rest = np.flatnonzero(~accurate)
        exact = _solve_path(gram, moments, [alphas[int(i)] for i in rest])
        errors[:, rest] = part.squared_errors(exact)
    return errors


def _rows(statistics: RidgeStatistics) -> npt.NDArray[np.int64]:
    return np.array([statistics.rows_rating(i) for i in range(statistics.objectives)])


def _fit(
    statistics: RidgeStatistics, alphas: Sequence[float], errors: list[list[float]]
) -> RewardHead:
    """Solve every objective with its own penalty, with one factorisation where both are shared."""
    weight = np.zeros((statistics.objectives, statistics.features))
    for patterns, members in _objectives_by_patterns(statistics).items():
        gram = statistics.gram(patterns)
        for alpha in sorted({alphas[i] for i in members}):
            together = [i for i in members if alphas[i] == alpha]
            moments = np.stack([statistics.moment(i) for i in together], axis=1)
            weight[together] = _solve_path(gram, moments, [alpha], statistics.device)[0].T
    return RewardHead(weight, tuple(alphas), tuple(_rows(statistics).tolist()), errors)


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


def _refined_solutions(
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
) -> tuple[Float[np.ndarray, "alphas features members"], Float[np.ndarray, "alphas members"]]:
    """Solve with float32 factors, which take a quarter of the time, refined twice in float64.

    Returns:
        The solutions, and an estimate of the energy delta' A delta of what each is off by. A
        refinement w + A32^-1 (b - A w) shrinks the error by about the same share each time, so
        the sizes of two corrections tell what a third would be. Infinite where float32 fails.
    """
    diagonal = np.diag_indices(len(gram))
    penalties = np.asarray(alphas)[:, None, None]
    solutions = np.zeros((len(alphas), *moments.shape))
    energies = np.ones((3, len(alphas), moments.shape[1]))
    with np.errstate(all="ignore"):  # an overflow ends as NaN, and NaN as infinite
        narrow = gram.astype(np.float32, order="F")
        factors = []
        for alpha in alphas:
            damped = narrow.copy(order="F")
            damped[diagonal] += np.float32(alpha)
            factors.append(lapack.spotrf(damped, lower=True, clean=False, overwrite_a=True))
        residuals = np.broadcast_to(moments, solutions.shape)
        for energy in energies:
            for number, (factor, _) in enumerate(factors):
                residual = residuals[number]
                correction = lapack.spotrs(factor, residual.astype(np.float32), lower=True)[0]
                solutions[number] += correction
                energy[number] = np.einsum("fm,fm->m", correction, residual)
            residuals = moments - _symmetric_product(gram, solutions) - penalties * solutions
        before, after = np.abs(energies[1:])
        left = np.where(after < 0.25 * before, after**2 / before, np.where(after == 0, 0.0, np.inf))
    left[[failed > 0 for _, failed in factors]] = np.inf
    return solutions, left


def _symmetric_product(
    gram: Float[np.ndarray, "features features"],
    solutions: Float[np.ndarray, "alphas features members"],
) -> Float[np.ndarray, "alphas features members"]:
    """Return X'X w of every solution w, in one product: the matrix is read once."""
    alphas, features, members = solutions.shape
    columns = np.asfortranarray(solutions.transpose(1, 0, 2).reshape(features, -1))
    products = blas.dsymm(1.0, gram, columns, lower=True)
    return np.asarray(products.reshape(features, alphas, members).transpose(1, 0, 2))


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
