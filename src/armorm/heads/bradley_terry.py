"""Bradley–Terry linear head: logistic regression on differences of response features.

The strongest simple rival of the gate.  It reads the same features and pairs, but no ratings and
no prompt::

    w = argmin_w  sum_pairs log(1 + exp(-w . (f_chosen - f_rejected))) + alpha / 2 |w|^2

without an intercept, so that swapping a pair's responses changes the sign of its margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
import scipy.special
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from armorm.errors import ArmormError, DamagedFileError
from armorm.files import write_atomically

BRADLEY_TERRY_FILE = "bradley_terry_head.safetensors"
"""Name of the file of a run's head."""

RATIOS = tuple(10.0**power for power in range(-5, 4))
"""Penalties to choose from, relative to the mean eigenvalue of Z'Z / 4."""

BLOCK = 8192  # pairs widened to float64 at a time: bounds the memory, not the result


@dataclass(frozen=True, slots=True)
class BradleyTerryHead:
    """Linear reward f -> w . f, fitted on preference pairs.

    Attributes:
        weight: w. Shape (features,).
        alpha: Penalty that was chosen.
        alphas: Penalties that were compared.
        losses: Mean log-loss of each penalty on the held-out folds; empty for a single penalty.
    """

    weight: Float[np.ndarray, " features"]
    alpha: float
    alphas: tuple[float, ...]
    losses: tuple[float, ...]

    def margins(self, differences: Float[np.ndarray, "pairs features"]) -> npt.NDArray[np.float64]:
        """Return w . (f_chosen - f_rejected) of every pair. Shape (pairs,)."""
        return _product(differences, self.weight)

    def save(self, file: Path) -> None:
        """Write the weight, in float64."""
        write_atomically(file, save({"weight": self.weight}))

    @classmethod
    def read_weight(cls, file: Path) -> npt.NDArray[np.float64]:
        """Return the weight of a head that was saved. Shape (features,).

        Raises:
            DamagedFileError: The file holds no such weight.
        """
        try:
            weight = load_file(file)["weight"]
        except (SafetensorError, OSError, KeyError) as error:
            raise DamagedFileError(f"{file} holds no Bradley–Terry head: {error}") from error
        if weight.ndim != 1 or not np.isfinite(weight).all():
            raise DamagedFileError(
                f"{file} holds no Bradley–Terry head: its numbers are not finite."
            )
        return np.asarray(weight, np.float64)


def fit_bradley_terry_head(
    differences: Float[np.ndarray, "pairs features"],
    prompt: Int[np.ndarray, " pairs"],
    *,
    alphas: tuple[float, ...] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> BradleyTerryHead:
    """Fit the head on all pairs, with the penalty that does best on held-out folds of prompts.

    Args:
        differences: Response features, chosen minus rejected.
        prompt: Prompt number of each pair; a prompt is in one fold.
        alphas: Positive penalties to choose from; default nine powers of ten around the mean
            eigenvalue of the Hessian at w = 0.
        folds: Number of folds.
        seed: Seed of the folds.

    Raises:
        ArmormError: there are fewer prompts than folds, or a difference is not finite.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> better = generator.normal(size=(500, 3)) + [1.0, 0.0, 0.0]
        >>> head = fit_bradley_terry_head(better, np.arange(500))
        >>> float((head.margins(better) > 0).mean())
        0.824
    """
    gram = _gram(differences)
    if not np.isfinite(gram).all():
        raise ArmormError("A feature difference is not finite. Extract the features again.")
    if alphas is None:
        mean = float(np.trace(gram)) / 4 / len(gram)
        alphas = tuple(ratio * (mean or 1.0) for ratio in RATIOS)
    losses: npt.NDArray[np.float64] = np.empty(0)
    if len(alphas) > 1:
        losses = np.zeros(len(alphas))
        for held in _folds(prompt, folds, seed):
            fitted = differences[~held]
            rest = gram - _gram(differences[held])
            for number, weight in _path(fitted, rest, alphas):
                margins = _product(differences[held], weight)
                losses[number] += np.logaddexp(0.0, -margins).sum() / len(differences)
    best = int(np.argmin(losses)) if len(losses) else 0
    ((_, weight),) = _path(differences, gram, (alphas[best],))
    return BradleyTerryHead(weight, alphas[best], alphas, tuple(losses.tolist()))


def _folds(prompt: Int[np.ndarray, " pairs"], folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    distinct, number = np.unique(prompt, return_inverse=True)
    if len(distinct) < folds:
        raise ArmormError(
            f"Choosing the penalty of the Bradley–Terry head on {folds} folds needs as many "
            f"prompts; there are {len(distinct)}."
        )
    fold = np.random.default_rng([seed, 2]).permutation(len(distinct)) % folds
    return [fold[number] == one for one in range(folds)]


def _path(
    differences: Float[np.ndarray, "pairs features"],
    gram: Float[np.ndarray, "features features"],
    alphas: tuple[float, ...],
) -> list[tuple[int, Float[np.ndarray, " features"]]]:
    """Weights of each penalty, from the largest down, each starting from the one before.

    L-BFGS runs in u = L' w with L L' = Z'Z / 4 + alpha I, an upper bound of the Hessian (Böhning &
    Lindsay 1988): there the curvature is near 1 in every direction, however unlike the features'
    scales are, and a few iterations do.
    """
    found: list[tuple[int, Float[np.ndarray, " features"]]] = []
    weight = np.zeros(len(gram))
    for number in sorted(range(len(alphas)), key=lambda i: -alphas[i]):
        alpha = alphas[number]
        bound = gram / 4
        bound[np.diag_indices_from(bound)] += alpha
        factor = scipy.linalg.cholesky(bound, lower=True, overwrite_a=True, check_finite=False)

        def objective(
            u: npt.NDArray[np.float64],
            factor: npt.NDArray[np.float64] = factor,
            alpha: float = alpha,
        ) -> tuple[float, npt.NDArray[np.float64]]:
            w = scipy.linalg.solve_triangular(factor, u, lower=True, trans=1, check_finite=False)
            margins = _product(differences, w)
            loss = np.logaddexp(0.0, -margins).sum() + alpha / 2 * (w @ w)
            slope = alpha * w - _product(differences.T, scipy.special.expit(-margins))
            return float(loss), scipy.linalg.solve_triangular(
                factor, slope, lower=True, check_finite=False
            )

        result = scipy.optimize.minimize(
            objective,
            factor.T @ weight,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-7 * len(differences) ** 0.5},
        )
        weight = scipy.linalg.solve_triangular(
            factor, result.x, lower=True, trans=1, check_finite=False
        )
        found.append((number, weight))
    return found


def _product(
    matrix: npt.NDArray[np.floating], vector: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return matrix @ vector in float64; the matrix is widened block by block."""
    if matrix.dtype == np.float64:
        return np.asarray(matrix @ vector)
    if matrix.shape[0] >= matrix.shape[1]:
        starts = range(0, matrix.shape[0], BLOCK)
        return np.concatenate([matrix[i : i + BLOCK].astype(np.float64) @ vector for i in starts])
    total = np.zeros(matrix.shape[0])
    for i in range(0, matrix.shape[1], BLOCK):
        total += matrix[:, i : i + BLOCK].astype(np.float64) @ vector[i : i + BLOCK]
    return total


def _gram(
    differences: Float[np.ndarray, "pairs features"],
) -> Float[np.ndarray, "features features"]:
    total = np.zeros((differences.shape[1], differences.shape[1]))
    for i in range(0, len(differences), BLOCK):
        block = differences[i : i + BLOCK].astype(np.float64)
        total += block.T @ block
    return total
