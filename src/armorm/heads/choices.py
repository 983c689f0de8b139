"""Weights of a user's own choices: Bayesian logistic regression, shrunk to the gate.

The margin of a pair is linear in the coefficients of the rewards, so a user's own coefficients
``a T g(x) + b`` (the gate's, times a, and an addition for each objective) are a logistic regression
on the gate's margin and the k differences of rewards::

    P(chosen over rejected) = sigmoid(beta (a m + b . d)),    m = (T g) . d

with beta of the trained model.  Every column is divided by its root mean square; the weights of the
columns are Gaussian around the gate (a = 1, b = 0) with one deviation tau, chosen by the evidence.
With no choices, or with choices that the gate explains, tau is small and the gate remains.  The
posterior is Laplace's: Gaussian around the mode (MacKay 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from jaxtyping import Float
from scipy.special import expit, log_expit

TAUS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Prior deviations to choose from, in log-odds of a typical difference."""


@dataclass(frozen=True, slots=True)
class ChoicePosterior:
    """Posterior of a user's coefficients.

    Attributes:
        mean: The gate's multiplier a, then the additions b. Shape (1 + objectives,).
        covariance: Of these. Shape (1 + objectives, 1 + objectives).
        tau: Prior deviation that the evidence chose.
    """

    mean: Float[np.ndarray, " weights"]
    covariance: Float[np.ndarray, "weights weights"]
    tau: float

    def margins(
        self, gate: Float[np.ndarray, " pairs"], differences: Float[np.ndarray, "pairs objectives"]
    ) -> Float[np.ndarray, " pairs"]:
        """Return the margins of pairs under the posterior's mean."""
        margins: Float[np.ndarray, " pairs"] = np.column_stack([gate, differences]) @ self.mean
        return margins


def fit_choices(
    gate: Float[np.ndarray, " pairs"],
    differences: Float[np.ndarray, "pairs objectives"],
    beta: float,
    taus: Sequence[float] = TAUS,
) -> ChoicePosterior:
    """Fit a user's coefficients to pairs.

    Args:
        gate: Margin of each pair under the gate's coefficients.
        differences: Unit rewards of the chosen response less those of the rejected one.
        beta: Log-odds of one unit of margin.
        taus: Prior deviations to choose from.
    """
    columns = beta * np.column_stack([gate, differences])
    sizes = np.sqrt(np.mean(columns**2, axis=0))
    sizes[sizes == 0] = 1.0  # such a column says nothing, and its weight keeps its prior
    fits = [_fit(columns[:, 0], columns / sizes, tau) for tau in taus]
    _, weights, covariance, tau = max(fits, key=lambda fit: fit[0])
    mean = weights / sizes
    mean[0] += 1.0
    return ChoicePosterior(mean, covariance / np.outer(sizes, sizes), tau)


def _fit(
    offset: Float[np.ndarray, " pairs"], columns: Float[np.ndarray, "pairs weights"], tau: float
) -> tuple[float, Float[np.ndarray, " weights"], Float[np.ndarray, "weights weights"], float]:
    """Return the log evidence, the mode, its covariance and tau."""

    def loss(weights: Float[np.ndarray, " weights"]) -> tuple[float, Float[np.ndarray, " weights"]]:
        logits = offset + columns @ weights
        value = -log_expit(logits).sum() + weights @ weights / (2 * tau**2)
        return value, -columns.T @ expit(-logits) + weights / tau**2

    found = scipy.optimize.minimize(
        loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    chance = expit(offset + columns @ found.x)
    precision = (columns.T * (chance * (1 - chance))) @ columns + np.eye(len(found.x)) / tau**2
    _, volume = np.linalg.slogdet(precision * tau**2)
    return -float(found.fun) - volume / 2, found.x, np.linalg.inv(precision), tau
