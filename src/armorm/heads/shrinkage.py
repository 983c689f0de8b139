"""Averaging of gates, and shrinkage towards fixed weights: exact, in the released layout.

Both are linear in the logits::

    logits(x) = t mean_j z_j(x) + (1 - t) z_fixed

A network whose hidden layers are those of all gates side by side has exactly these logits, so no
distillation is needed.  t = 0 is fixed weights, t = 1 the mean of the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import scipy.optimize
import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor, nn

from armorm.heads.gating import Gate, GatingNetwork

SHARES = tuple(step / 10 for step in range(11))
"""Values of t to choose from."""


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """The share of the gate in the logits, and the evidence that it was chosen on.

    Attributes:
        share: t: 0 is fixed weights, 1 the gate as it was trained.
        shares: Values of t that were compared.
        losses: Mean Bradley–Terry loss of each, on pairs that the gates were not trained on.
        beta: Best scale at ``share`` on those pairs.
    """

    share: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]
    beta: float


def choose_shrinkage(
    logits: Float[np.ndarray, "pairs objectives"],
    fixed: Float[np.ndarray, "pairs objectives"],
    differences: Float[np.ndarray, "pairs objectives"],
    shares: Sequence[float] = SHARES,
) -> Shrinkage:
    """Choose t by the likelihood of pairs that neither the gates nor the fixed weights have seen.

    Args:
        logits: The gate's logits for the prompt of each pair.
        fixed: Logits of the fixed weights, from the same training pairs as the gate.
        differences: Rewards of chosen minus rejected.
        shares: Values of t to choose from.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(size=(500, 2))  # a gate that guesses
        >>> differences = np.random.default_rng(1).normal(size=(500, 2)) + [1.0, 0.0]
        >>> choose_shrinkage(3 * noise, np.tile([2.0, -2.0], (500, 1)), differences).share
        0.0
    """
    fitted = []
    for share in shares:
        mixed = scipy.special.softmax(share * logits + (1 - share) * fixed, axis=1)
        fitted.append(_best_scale((mixed * differences).sum(axis=1)))
    losses = tuple(loss for _, loss in fitted)
    best = int(np.argmin(losses))
    return Shrinkage(shares[best], tuple(shares), losses, fitted[best][0])


def _best_scale(margins: Float[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Return the beta > 0 that suits the margins best, and their mean loss at it."""
    size = float(np.abs(margins).mean()) or 1.0

    def loss(log_beta: float) -> float:
        return float(np.logaddexp(0.0, -np.exp(log_beta) * margins).mean())

    middle = -np.log(size)
    found = scipy.optimize.minimize_scalar(
        loss, bounds=(middle - 10.0, middle + 10.0), method="bounded"
    )
    return float(np.exp(found.x)), float(found.fun)


class BlendedGate(Gate):
    """Mean of several gates' logits, shrunk towards fixed ones.

    Args:
        gates: Gates with one number of objectives.
        share: t.
        fixed: Logits of the fixed weights, of shape (objectives,), or 0 for even ones.
    """

    def __init__(self, gates: Sequence[Gate], share: float, fixed: Tensor) -> None:
        super().__init__()
        self.gates = nn.ModuleList(gates)
        self.share = share
        self.fixed = nn.Parameter(fixed, requires_grad=False)

    def logits(self, prompts: Float[Tensor, "prompts features"]) -> Float[Tensor, "prompts k"]:
        """Return the blended logits."""
        gates = cast("list[Gate]", list(self.gates))
        mean = torch.stack([gate.logits(prompts) / gate.temperature for gate in gates]).mean(dim=0)
        return self.share * mean + (1 - self.share) * self.fixed


def blended_gate(
    gates: Sequence[Gate], share: float = 1.0, fixed: Float[np.ndarray, " objectives"] | None = None
) -> Gate:
    """Return one gate with the mean logits of several, shrunk towards fixed logits.

    Args:
        gates: Gates of one shape and temperature.
        share: t, the gates' share.
        fixed: Logits that the rest goes to, before any temperature; default even ones.

    Returns:
        A :class:`GatingNetwork` where all are: as many times as wide, and exactly equal.

    Example:
        >>> import torch
        >>> gates = [GatingNetwork(4, 3, hidden_dim=8, n_hidden=2) for _ in range(3)]
        >>> one = blended_gate(gates)
        >>> one.hidden_dim
        24
        >>> prompts = torch.randn(5, 4)
        >>> mean = sum(gate.logits(prompts) for gate in gates) / 3
        >>> torch.allclose(one.logits(prompts), mean, atol=1e-6)
        True
    """
    target = torch.zeros(()) if fixed is None else torch.tensor(fixed, dtype=torch.float32)
    networks = [gate for gate in gates if isinstance(gate, GatingNetwork)]
    if len(networks) < len(gates):
        return BlendedGate(gates, share, target).eval()
    return _wide_network(networks, share, target)


def _wide_network(gates: Sequence[GatingNetwork], share: float, fixed: Tensor) -> GatingNetwork:
    first, many = gates[0], len(gates)
    by_gate = [cast("list[nn.Linear]", list(gate.layers)) for gate in gates]
    layers = list(zip(*by_gate, strict=True))
    *hidden, last = layers
    wide = GatingNetwork(
        layers[0][0].in_features,
        last[0].out_features,
        hidden_dim=many * first.hidden_dim if hidden else 1,
        n_hidden=len(hidden),
        temperature=first.temperature,
    )
    targets = cast("list[nn.Linear]", list(wide.layers))
    with torch.no_grad():
        for number, (target, parts) in enumerate(zip(targets, layers, strict=True)):
            weights, biases = [part.weight for part in parts], [part.bias for part in parts]
            if number < len(hidden):
                # Behind the first layer a gate reads its own hidden units alone.
                apart = torch.block_diag(*weights)  # type: ignore[no-untyped-call]
                target.weight.copy_(torch.cat(weights) if number == 0 else apart)
                target.bias.copy_(torch.cat(biases))
            else:
                scaled = torch.cat(weights, dim=1) if hidden else torch.stack(weights).sum(dim=0)
                target.weight.copy_(share / many * scaled)
                rest = (1 - share) * first.temperature * fixed
                target.bias.copy_(share * torch.stack(biases).mean(dim=0) + rest)
    return wide.eval().requires_grad_(False)
