"""Fixed weights: the coefficients that suit all prompts alike, the gate's ablation and its prior.

Fitted exactly instead of by gradient steps, so that the gate is compared with the best that
constant coefficients can do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special
import torch
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.heads.gating import GatingNetwork, RewardPairs


@dataclass(frozen=True, slots=True)
class FixedWeights:
    """Coefficients that do not depend on the prompt.

    Attributes:
        logits: Their logits, of mean zero: the coefficients are the softmax. Shape (objectives,).
        beta: Scale of the Bradley–Terry model: P(a over b) = sigmoid(beta (R_a - R_b)).
    """

    logits: Float[np.ndarray, " objectives"]
    beta: float

    @property
    def coefficients(self) -> Float[np.ndarray, " objectives"]:
        """Non-negative coefficients that sum to one."""
        return np.asarray(scipy.special.softmax(self.logits))

    def margins(
        self, differences: Float[np.ndarray, "pairs objectives"]
    ) -> Float[np.ndarray, " pairs"]:
        """Return R(chosen) - R(rejected) of pairs with these differences of rewards."""
        return np.asarray(differences @ self.coefficients)

    def as_gate(self, features: int, temperature: float = 1.0) -> GatingNetwork:
        """Return a gate of the released layout that gives these coefficients to every prompt."""
        gate = GatingNetwork(features, len(self.logits), n_hidden=0, temperature=temperature)
        layer = gate.layers[0]
        torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        layer.bias.data = torch.tensor(temperature * self.logits, dtype=torch.float32)
        return gate.eval().requires_grad_(False)


def fit_fixed_weights(pairs: RewardPairs) -> FixedWeights:
    """Fit coefficients that do not depend on the prompt.

    They minimise, over logits z and log beta, by L-BFGS in float64::

        sum_pairs log(1 + exp(-beta softmax(z) . difference)) + |z|^2 / 2 + log(beta s)^2 / 2

    with s the standard deviation of the differences.  The last two terms, standard normal priors,
    keep the logits of useless objectives finite, and beta where no pair is ranked wrongly; with
    many pairs they do not count.

    Raises:
        ArmormError: There are no pairs.

    Example:
        >>> import torch
        >>> differences = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> differences[:, 0] = differences[:, 0].abs()  # the first objective is always right
        >>> pairs = RewardPairs(torch.zeros(1, 4), torch.zeros(500, dtype=torch.long), differences)
        >>> fit_fixed_weights(pairs).coefficients.round(2)
        array([0.99, 0.01])
    """
    if len(pairs) == 0:
        raise ArmormError("There are no preference pairs to fit fixed weights on.")
    differences = pairs.differences.double().cpu().numpy()
    scale = float(differences.std()) or 1.0

    def objective(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logits, beta = point[:-1], np.exp(point[-1]) / scale
        coefficients = scipy.special.softmax(logits)
        margins = differences @ coefficients
        loss = np.logaddexp(0.0, -beta * margins).sum() + point @ point / 2
        slope = -beta * scipy.special.expit(-beta * margins)  # with respect to the margin
        of_coefficients = slope @ differences
        of_logits = coefficients * (of_coefficients - coefficients @ of_coefficients)
        return float(loss), np.append(of_logits, slope @ margins) + point

    start = np.zeros(differences.shape[1] + 1)
    found = scipy.optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    )
    logits = found.x[:-1]
    return FixedWeights(logits - logits.mean(), float(np.exp(found.x[-1]) / scale))
