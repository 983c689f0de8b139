"""Uncertainty of the predictions of stage 1, from the sufficient statistics alone.

Ridge regression is Bayesian linear regression with a Gaussian prior.  With A = X'X + alpha I::

    leverage            h(x) = x' A^-1 x
    degrees of freedom  dof  = tr(X'X A^-1) = d - alpha tr(A^-1)
    noise               s^2  = |Xw - r|^2 / (n - dof)
    epistemic           s sqrt(h(x))                  deviation of the prediction itself
    deviation           sqrt(s^2 (1 + h(x)))          of the rating that a rater would give to x

More ratings shrink the epistemic deviation to nothing; the noise of the raters remains.

A response unlike anything rated has a leverage far above that of the rated rows, whose mean is
dof / n: their ratio is the *novelty* of a response, 1 for a typical rated row.

A score adds up rewards, so its deviation needs how their errors go together.  The noise of two
objectives is correlated as their residuals are over the rows that rate both, which the statistics
also give, and not at all where no row does; the coefficients are taken as known.  The weights are
Gaussian together::

    w_i = w^_i + s_i L_i^-T e_i,    A_i = L_i L_i',    Cov(e_i, e_j) = rho_ij n_ij / sqrt(n_i n_j) I

with the correlation rho_ij of the noise, and n_ij rows that rate both of i and j.  For objectives
that the same rows rate with the same penalty this is the exact posterior, and objectives without a
common row are independent, as they are; for others it is an approximation between the two.

The prediction for a difference of responses is linear too: its deviation is that at the difference
of their features, in which the error they share cancels.

Normal intervals hold what they say only where errors are normal and of one spread.  The *conformal*
factor of an objective is the quantile of ``|rating - prediction| / deviation`` over held-out
ratings of prompts that the head has not seen: that many deviations hold 90 % of new ratings
whatever the distribution (split conformal prediction).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from scipy.linalg import blas, lapack

from armorm.errors import ArmormError, StoreError
from armorm.heads.regression import RewardHead, cholesky_of_ridge
from armorm.heads.statistics import RidgeStatistics
from armorm.heads.triangles import pack_triangle, unpack_triangle

FORMAT_VERSION = 2
"""Version of the file; another one is refused."""

USUAL_SHARE = 0.99
"""Share of the held-out rated rows whose novelty is called usual."""

CONFORMAL_LEVEL = 0.9
"""Share of new ratings that a conformal interval holds."""

ROWS_AT_ONCE = 256
"""Rows whose whitened features are in memory together, once for each factor."""


@dataclass(frozen=True, slots=True)
class HeadUncertainty:
    """Factors from which the uncertainty of a prediction is computed.

    Objectives that are rated in the same rows and have the same penalty share a factor.

    Attributes:
        factors: Lower Cholesky factors of A, one per group. Shape (groups, features, features).
        group: Factor of each objective. Shape (objectives,).
        noise: s of each objective, in unit rewards. Shape (objectives,).
        correlation: Of the noise of each two objectives. Shape (objectives, objectives).
        overlap: Rows that rate both of two objectives, over the geometric mean of the rows that
            rate each. Shape (objectives, objectives).
        novelty_factor: The factor over all rated rows together. Shape (features, features).
        typical_leverage: Mean leverage of the rated rows under ``novelty_factor``.
        weight_sha256: Fingerprint of the weights whose uncertainty this is.
        usual_novelty: What the novelty of 99 % of held-out rated rows stays below; ``None`` where
            none were held out.
        conformal: Deviations on either side of a prediction that hold 90 % of the ratings; NaN for
            an objective with too few held-out ratings; ``None`` where none were held out. Shape
            (objectives,).
        missing: Reason of each objective whose noise is NaN, since too few rows rate it; not in
            the file.
    """

    factors: Float[np.ndarray, "groups features features"]
    group: npt.NDArray[np.int64]
    noise: Float[np.ndarray, " objectives"]
    correlation: Float[np.ndarray, "objectives objectives"]
    overlap: Float[np.ndarray, "objectives objectives"]
    novelty_factor: Float[np.ndarray, "features features"]
    typical_leverage: float
    weight_sha256: str
    usual_novelty: float | None = None
    conformal: Float[np.ndarray, " objectives"] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def deviations(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows objectives"]:
        """Return the standard deviation of a new rating around the prediction, in unit rewards."""
        return self.with_noise(self.epistemic(self.leverages(features)))

    def with_noise(
        self, epistemic: Float[np.ndarray, "rows objectives"]
    ) -> Float[np.ndarray, "rows objectives"]:
        """Return the deviation of a new rating, from that of the prediction."""
        deviations: Float[np.ndarray, "rows objectives"] = np.hypot(self.noise, epistemic)
        return deviations

    def leverages(
        self, features: Float[np.ndarray, "rows features"]
    ) -> Float[np.ndarray, "rows groups groups"]:
        """Return x' L_g^-T L_h^-1 x of every row and two factors: their leverages, if one twice.

        Args:
            features: Features of responses; or differences of features, for the deviations of
                differences of scores.
        """
        found: Float[np.ndarray, "rows groups groups"] = np.empty(
            (len(features), len(self.factors), len(self.factors))
        )
        for start in range(0, len(features), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            whitened = np.stack([_whitened(factor, features[rows]) for factor in self.factors])
            found[rows] = np.einsum("gfr,hfr->rgh", whitened, whitened, optimize=True)
        return found

    def epistemic(
        self, leverages: Float[np.ndarray, "rows groups groups"]
    ) -> Float[np.ndarray, "rows objectives"]:
        """Return the standard deviation of the prediction itself, in unit rewards."""
        own = leverages[:, self.group, self.group]
        epistemic: Float[np.ndarray, "rows objectives"] = self.noise * np.sqrt(own)
        return epistemic

    def score_noise(
        self, coefficients: Float[np.ndarray, "rows objectives"]
    ) -> Float[np.ndarray, " rows"]:
        """Return the standard deviation of sum_i c_i r_i over raters of one response, for given c.

        It is NaN where an objective counts that has no noise.
        """
        parts = self._parts(coefficients)
        return _root(np.einsum("ri,ij,rj->r", parts, self.correlation, parts))

    def score_epistemic(
        self,
        leverages: Float[np.ndarray, "rows groups groups"],
        coefficients: Float[np.ndarray, "rows objectives"],
    ) -> Float[np.ndarray, " rows"]:
        """Return the standard deviation of the predicted score c . r, for given c.

        Args:
            leverages: What :meth:`leverages` says of the rows.
            coefficients: What each objective counts.
        """
        parts = self._parts(coefficients)
        correlation = self.correlation * self.overlap
        covariance = correlation * leverages[:, self.group[:, None], self.group]
        return _root(np.einsum("ri,rij,rj->r", parts, covariance, parts))

    def _parts(
        self, coefficients: Float[np.ndarray, "rows objectives"]
    ) -> Float[np.ndarray, "rows objectives"]:
        # An objective that does not count needs no deviation.
        parts: Float[np.ndarray, "rows objectives"] = np.where(
            coefficients == 0, 0.0, coefficients * self.noise
        )
        return parts

    def novelty(self, features: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """Return the leverage relative to a typical rated row: 1 is typical."""
        novelty: Float[np.ndarray, " rows"] = (
            leverage(self.novelty_factor, features) / self.typical_leverage
        )
        return novelty

    def with_usual_novelty(self, novelty: Float[np.ndarray, " rows"]) -> HeadUncertainty:
        """Return a copy with the usual novelty, that of held-out rated rows."""
        usual = float(np.quantile(novelty, USUAL_SHARE)) if len(novelty) else None
        return replace(self, usual_novelty=usual)

    def with_conformal(
        self,
        predicted: Float[np.ndarray, "rows objectives"],
        deviations: Float[np.ndarray, "rows objectives"],
        ratings: Float[np.ndarray, "rows objectives"],
    ) -> HeadUncertainty:
        """Return a copy with the conformal factors of held-out ratings.

        Args:
            predicted: Predicted unit rewards of rows whose prompts the head has not seen.
            deviations: What :meth:`deviations` says of them.
            ratings: Their ratings as unit rewards, NaN where there is none.
        """
        if not len(ratings):
            return replace(self, conformal=None)
        distances = np.abs(ratings - predicted) / deviations
        return replace(self, conformal=np.array([conformal_factor(d) for d in distances.T]))

    def mirrored(
        self, column: int, weight: Float[np.ndarray, "objectives features"]
    ) -> HeadUncertainty:
        """Return the uncertainty of the head that :meth:`RewardHead.mirrored` returns.

        Args:
            column: The objective whose reverse is added.
            weight: Weights of the new head.
        """
        row = self.correlation[[column]]
        correlation = np.block([[self.correlation, -row.T], [-row, np.ones((1, 1))]])
        shared, conformal = self.overlap[[column]], self.conformal
        return replace(
            self,
            group=np.append(self.group, self.group[column]),
            noise=np.append(self.noise, self.noise[column]),
            correlation=correlation,
            overlap=np.block([[self.overlap, shared.T], [shared, np.ones((1, 1))]]),
            weight_sha256=fingerprint_of_weight(weight),
            conformal=None if conformal is None else np.append(conformal, conformal[column]),
        )

    def to_bytes(self) -> bytes:
        """Return a safetensors file with the attributes by name.

        Of the factors it holds the lower triangles, row by row, in float32: d (d + 1) * 2 bytes
        each.
        """
        usual = np.nan if self.usual_novelty is None else self.usual_novelty
        conformal = np.empty(0) if self.conformal is None else self.conformal
        content: bytes = save_safetensors(
            {
                "factors": np.stack([pack_triangle(f.astype(np.float32)) for f in self.factors]),
                "group": self.group,
                "noise": self.noise,
                "correlation": self.correlation,
                "overlap": self.overlap,
                "conformal": conformal,
                "novelty_factor": pack_triangle(self.novelty_factor.astype(np.float32)),
                "typical_leverage": np.array([self.typical_leverage]),
                "usual_novelty": np.array([usual]),
                "features": np.array([self.novelty_factor.shape[0]]),
                "format_version": np.array([FORMAT_VERSION]),
                "weight_sha256": np.frombuffer(bytes.fromhex(self.weight_sha256), np.uint8),
            }
        )
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> HeadUncertainty:
        """Return the uncertainty that :meth:`to_bytes` wrote.

        Raises:
            StoreError: it is something else, or damaged.
        """
        try:
            tensors = load_safetensors(content)
            if (version := format_of(tensors)) != FORMAT_VERSION:
                raise StoreError(
                    f"It has format {version}, and this version of armorm reads {FORMAT_VERSION}. "
                    "Run `armorm migrate` on its folder."
                )
            features, usual = int(tensors["features"][0]), float(tensors["usual_novelty"][0])
            return cls(
                factors=np.stack([unpack_triangle(f, features) for f in tensors["factors"]]),
                group=tensors["group"],
                noise=tensors["noise"],
                correlation=tensors["correlation"],
                overlap=tensors["overlap"],
                novelty_factor=unpack_triangle(tensors["novelty_factor"], features),
                typical_leverage=float(tensors["typical_leverage"][0]),
                weight_sha256=tensors["weight_sha256"].tobytes().hex(),
                usual_novelty=None if np.isnan(usual) else usual,
                conformal=tensors["conformal"] if len(tensors["conformal"]) else None,
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(
                f"The uncertainty of a head cannot be read: {error}. Export the model again."
            ) from error


def format_of(tensors: Mapping[str, npt.NDArray[np.generic]]) -> int:
    """Return the version of a file from its tensors; the first two versions do not say theirs."""
    if "format_version" in tensors:
        return int(tensors["format_version"][0])
    return 1 if "noise" in tensors and "overlap" not in tensors else 2


def fit_uncertainty(
    statistics: RidgeStatistics, head: RewardHead, names: Sequence[str] | None = None
) -> HeadUncertainty:
    """Return the uncertainty of a head that was fitted on these statistics.

    Args:
        statistics: Of all rows the head was fitted on, selection rows included.
        head: The fitted head; its penalties are used.
        names: Names of the objectives, for errors.

    An objective with too few rows for its noise to be estimated, or whose penalty leaves its
    system singular, has no deviation; the others keep theirs.

    Raises:
        ArmormError: No objective has a deviation, or all rated rows together leave the system
            singular.
    """
    names = names or [f"objective {i}" for i in range(statistics.objectives)]
    squares, correlation = _residuals(statistics, head.weight)
    numbers: dict[object, int] = {}
    factors: list[npt.NDArray[np.float64]] = []
    freedoms: list[float] = []
    group = np.empty(statistics.objectives, np.int64)
    noise = np.empty(statistics.objectives)
    missing: dict[str, str] = {}
    for objective, alpha in enumerate(head.alphas):
        patterns = statistics.patterns_rating(objective)
        if (patterns, alpha) not in numbers:
            try:
                factor = ridge_factor(statistics, objective, alpha, names[objective])
            except ArmormError as error:
                missing[names[objective]] = str(error)
                noise[objective], group[objective] = np.nan, 0
                continue
            numbers[patterns, alpha] = len(factors)
            factors.append(factor)
            freedoms.append(degrees_of_freedom(factor, alpha))
        group[objective] = numbers[patterns, alpha]
        freedom = freedoms[group[objective]]
        spare = statistics.rows_rating(objective) - freedom
        if spare < 1:
            missing[names[objective]] = (
                f"{names[objective]} has {statistics.rows_rating(objective)} rows for {freedom:.0f}"
                " degrees of freedom: its noise cannot be told from the fit. Rate more rows."
            )
            noise[objective] = np.nan
            continue
        noise[objective] = np.sqrt(squares[objective] / spare)
    if len(missing) == statistics.objectives:
        raise ArmormError(" ".join(missing.values()))
    alpha = float(np.median(head.alphas))
    together = _factor(statistics.gram(statistics.patterns), alpha, "the rated rows together")
    typical = degrees_of_freedom(together, alpha) / statistics.rows
    return HeadUncertainty(
        np.stack(factors),
        group,
        noise,
        correlation,
        _overlap(statistics),
        together,
        typical,
        fingerprint_of_weight(head.weight),
        missing=missing,
    )


def fingerprint_of_weight(weight: npt.NDArray[np.floating]) -> str:
    """Return a hash of a regression layer, in the float32 that a model folder keeps it in."""
    return hashlib.sha256(np.ascontiguousarray(weight, np.float32).tobytes()).hexdigest()


def ridge_factor(
    statistics: RidgeStatistics, objective: int, alpha: float, name: str
) -> Float[np.ndarray, "features features"]:
    """Return the lower Cholesky factor of A = X'X + alpha I over the rows that rate an objective.

    Raises:
        ArmormError: A is singular; ``name`` says whose.
    """
    return _factor(statistics.gram(statistics.patterns_rating(objective)), alpha, name)


def conformal_factor(
    distances: Float[np.ndarray, " rows"], level: float = CONFORMAL_LEVEL
) -> float:
    """Return the distance that a new one stays below with the probability ``level``, or NaN.

    It is the ``ceil((n + 1) level)``-th smallest of n distances, which makes the promise exact for
    exchangeable rows (Vovk et al. 2005); NaN distances do not count.
    """
    known = np.sort(distances[~np.isnan(distances)])
    rank = math.ceil((len(known) + 1) * level)
    return float(known[rank - 1]) if rank <= len(known) else math.nan


def leverage(
    factor: Float[np.ndarray, "features features"], features: Float[np.ndarray, "rows features"]
) -> Float[np.ndarray, " rows"]:
    """Return x' A^-1 x of every row, from the lower Cholesky factor of A."""
    whitened = _whitened(factor, features)
    leverages: Float[np.ndarray, " rows"] = np.einsum("fr,fr->r", whitened, whitened)
    return leverages


def _whitened(
    factor: Float[np.ndarray, "features features"], features: Float[np.ndarray, "rows features"]
) -> Float[np.ndarray, "features rows"]:
    whitened: Float[np.ndarray, "features rows"] = scipy.linalg.solve_triangular(
        factor, np.asarray(features, np.float64).T, lower=True, check_finite=False
    )
    return whitened


def _root(variance: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    roots: Float[np.ndarray, " rows"] = np.sqrt(np.maximum(variance, 0.0))
    return roots


def degrees_of_freedom(factor: Float[np.ndarray, "features features"], alpha: float) -> float:
    """Return tr(X'X A^-1) = d - alpha |L^-1|^2, between 0 and d."""
    inverse, _ = lapack.dtrtri(factor, lower=True)
    return float(len(factor) - alpha * np.sum(np.tril(inverse) ** 2))


def _factor(
    gram: Float[np.ndarray, "features features"], alpha: float, name: str
) -> Float[np.ndarray, "features features"]:
    factor = cholesky_of_ridge(gram, alpha)
    if factor is None:
        raise ArmormError(
            f"The penalty {alpha:g} leaves {name} singular, so nothing can be said of its "
            "uncertainty. Take larger alphas, or rate more rows."
        )
    return np.tril(factor)


def _residuals(
    statistics: RidgeStatistics, weight: Float[np.ndarray, "objectives features"]
) -> tuple[Float[np.ndarray, " objectives"], Float[np.ndarray, "objectives objectives"]]:
    """Return sums of squared residuals per objective, and correlations of their residuals."""
    objectives = statistics.objectives
    products = np.zeros((objectives, objectives))
    squares = np.zeros((objectives, objectives))  # of the row's objective, over the common rows
    for pattern, sums in statistics.sums():
        w = np.asfortranarray(weight[list(pattern)].T)
        crossed = w.T @ sums.moments
        predicted = w.T @ blas.dsymm(1.0, sums.gram, w, lower=True)
        found = sums.products - crossed - crossed.T + predicted
        place = np.ix_(pattern, pattern)
        products[place] += found
        squares[place] += np.maximum(np.diag(found), 0.0)[:, None]
    scale = np.sqrt(squares * squares.T)
    correlation = np.divide(products, scale, out=np.eye(objectives), where=scale > 0)
    return np.maximum(np.diag(products), 0.0), _nearest_correlation(correlation)


def _overlap(statistics: RidgeStatistics) -> Float[np.ndarray, "objectives objectives"]:
    rows = np.zeros((statistics.objectives, statistics.objectives))
    for pattern, sums in statistics.sums():
        rows[np.ix_(pattern, pattern)] += sums.rows
    scale = np.sqrt(np.outer(np.diag(rows), np.diag(rows)))
    overlap: Float[np.ndarray, "objectives objectives"] = np.divide(
        rows, scale, out=np.eye(len(rows)), where=scale > 0
    )
    return overlap


def _nearest_correlation(
    matrix: Float[np.ndarray, "objectives objectives"],
) -> Float[np.ndarray, "objectives objectives"]:
    """Make estimates from different rows, which may contradict each other, a correlation matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    positive = (vectors * np.maximum(values, 0.0)) @ vectors.T
    scale = np.sqrt(np.diag(positive))
    correlation: Float[np.ndarray, "objectives objectives"] = positive / np.outer(scale, scale)
    return correlation
