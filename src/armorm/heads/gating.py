"""Stage 2: the gate that decides, from the prompt alone, how much each objective counts.

Paper, section 3.2: R = g(f(x)) . r', trained on preference pairs with the Bradley–Terry loss
-log sigmoid(beta (R_chosen - R_rejected)), backbone and regression layer frozen, beta learned.

Both responses of a pair share the prompt, so one gate evaluation serves the pair, and all the
loss needs of the responses is the difference of their k rewards.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from armorm.errors import ArmormError


class GatingNetwork(nn.Module):
    """ReLU network with a softmax output: prompt feature in, k non-negative coefficients out.

    Parameter names are those of the released checkpoint (``layers.<i>``, ``logit_scale``).

    Args:
        features: Length d of a prompt feature.
        objectives: Number k of coefficients.
        hidden_dim: Width of the hidden layers.
        n_hidden: Number of hidden layers.
        temperature: Logits are divided by it before the softmax (10 in the released model).
    """

    def __init__(
        self,
        features: int,
        objectives: int,
        hidden_dim: int = 1024,
        n_hidden: int = 3,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [features, *[hidden_dim] * n_hidden, objectives]
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in itertools.pairwise(widths)
        )
        self.logit_scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.temperature = temperature

    def forward(self, prompts: Float[Tensor, "prompts features"]) -> Float[Tensor, "prompts k"]:
        """Coefficients of each prompt; rows sum to ``logit_scale``."""
        hidden = prompts
        for layer in self.layers[:-1]:
            hidden = functional.relu(layer(hidden))
        logits = self.layers[-1](hidden) / self.temperature
        return functional.softmax(logits, dim=-1) * self.logit_scale

    @property
    def hidden_dim(self) -> int:
        return int(self.layers[0].out_features)  # type: ignore[arg-type]

    @property
    def n_hidden(self) -> int:
        return len(self.layers) - 1


@dataclass(frozen=True, slots=True)
class RewardPairs:
    """Preference pairs as the gate sees them.

    Attributes:
        prompts: Feature of each distinct prompt. Shape (prompts, features).
        prompt: Prompt number of each pair. Shape (pairs,).
        differences: r'(chosen) - r'(rejected), after debiasing. Shape (pairs, objectives).
    """

    prompts: Float[Tensor, "prompts features"]
    prompt: Int[Tensor, " pairs"]
    differences: Float[Tensor, "pairs objectives"]

    def __len__(self) -> int:
        return len(self.prompt)

    def where(self, mask: np.ndarray) -> RewardPairs:
        """The pairs where ``mask`` holds; prompt features are shared, not copied."""
        keep = torch.from_numpy(np.flatnonzero(mask))
        return RewardPairs(self.prompts, self.prompt[keep], self.differences[keep])

    def split(self, fraction: float, seed: int) -> tuple[RewardPairs, RewardPairs]:
        """Return training and validation pairs that share no prompt.

        Args:
            fraction: Share of the prompts whose pairs validate.
            seed: Seed of the draw.

        Raises:
            ArmormError: one of the two would have no pair.
        """
        drawn = np.random.default_rng([seed, 1]).random(len(self.prompts)) < fraction
        validates = drawn[self.prompt.numpy()]
        if validates.all() or not validates.any():
            raise ArmormError(
                f"A validation fraction of {fraction} puts all {len(self)} pairs on one side. "
                "Choose another fraction, or add preference data."
            )
        return self.where(~validates), self.where(validates)

    def without_prompts(self) -> RewardPairs:
        """The same pairs with one constant prompt: what the fixed-weights ablation sees."""
        return RewardPairs(torch.ones(1, 1), torch.zeros_like(self.prompt), self.differences)


def margins(
    gate: nn.Module, pairs: RewardPairs, batch: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    """R(chosen) - R(rejected) of some pairs, or of all: one gate evaluation per distinct prompt."""
    prompt = pairs.prompt if batch is None else pairs.prompt[batch]
    differences = pairs.differences if batch is None else pairs.differences[batch]
    distinct, place = torch.unique(prompt, return_inverse=True)
    # Where the features did not fit on the device, a batch of them is brought there.
    features = pairs.prompts[distinct.to(pairs.prompts.device)].to(differences.device)
    coefficients: Tensor = gate(features.float())
    return (coefficients[place].float() * differences).sum(dim=-1)


def bradley_terry_loss(
    margin: Float[Tensor, " pairs"], beta: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean of -log sigmoid(beta * margin)."""
    return functional.softplus(-beta * margin).mean()
