"""Stage 2: the gate, which weighs the objectives from the prompt alone.

Paper, section 3.2: R = g(f(x)) . r', trained on preference pairs with the Bradley–Terry loss
-log sigmoid(beta (R_chosen - R_rejected)), backbone and regression layer frozen, beta learned.

Both responses of a pair share the prompt, so one gate evaluation serves the pair, and all the
loss needs of the responses is the difference of their k rewards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from armorm.errors import ArmormError, CheckpointError
from armorm.heads.debiasing import VerbosityDebiasing
from armorm.heads.regression import RewardHead


class Gate(nn.Module):
    """Base class of gates: prompt features in, k non-negative coefficients out.

    A gate of another shape is one class that defines :meth:`logits`, given to ``fit_gate(...,
    gate=MyGate)``; it is called with the numbers of features and objectives.  It trains and scores
    like the released one; the released checkpoint's layout holds a :class:`GatingNetwork` only.

    Args:
        temperature: Divisor of the logits before the softmax (10 in the released model).

    Attributes:
        logit_scale: Sum of the coefficients of a prompt. Shape (1,).

    Example:
        >>> import torch
        >>> class LinearGate(Gate):
        ...     def __init__(self, features, objectives):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(features, objectives)
        ...     def logits(self, prompts):
        ...         return self.linear(prompts)
        >>> LinearGate(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.logit_scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def logits(self, prompts: Float[Tensor, "prompts features"]) -> Float[Tensor, "prompts k"]:
        """Return the logits of each prompt's coefficients."""
        raise NotImplementedError

    def forward(self, prompts: Float[Tensor, "prompts features"]) -> Float[Tensor, "prompts k"]:
        """Return the coefficients of each prompt; rows sum to ``logit_scale``."""
        weights = functional.softmax(self.logits(prompts) / self.temperature, dim=-1)
        return weights * self.logit_scale


class GatingNetwork(Gate):
    """ReLU network with a softmax output, the paper's gate.

    Parameter names are those of the released checkpoint (``layers.<i>``, ``logit_scale``).

    Args:
        features: Length d of a prompt feature.
        objectives: Number k of coefficients.
        hidden_dim: Width of the hidden layers.
        n_hidden: Number of hidden layers; 0 gives a linear gate.
        temperature: Divisor of the logits before the softmax (10 in the released model).

    Example:
        >>> import torch
        >>> gate = GatingNetwork(features=4, objectives=3, hidden_dim=8, n_hidden=1)
        >>> coefficients = gate(torch.ones(2, 4))
        >>> coefficients.shape, bool((coefficients >= 0).all())
        (torch.Size([2, 3]), True)
        >>> torch.allclose(coefficients.sum(dim=1), torch.ones(2))
        True
    """

    def __init__(
        self,
        features: int,
        objectives: int,
        hidden_dim: int = 1024,
        n_hidden: int = 3,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(temperature)
        widths = [features, *[hidden_dim] * n_hidden, objectives]
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in itertools.pairwise(widths)
        )

    def logits(self, prompts: Float[Tensor, "prompts features"]) -> Float[Tensor, "prompts k"]:
        """Return the logits of each prompt's coefficients."""
        hidden = prompts
        for layer in self.layers[:-1]:
            hidden = functional.relu(layer(hidden))
        logits: Tensor = self.layers[-1](hidden)
        return logits

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden layers."""
        return int(self.layers[0].out_features)  # type: ignore[arg-type]

    @property
    def n_hidden(self) -> int:
        """Number of hidden layers."""
        return len(self.layers) - 1


def released_gate(gate: Gate) -> GatingNetwork:
    """Return the gate if the released checkpoint's layout can hold it.

    Raises:
        CheckpointError: it has another shape; it can score in this process, but not be saved.
    """
    if isinstance(gate, GatingNetwork):
        return gate
    raise CheckpointError(
        f"A model folder in the released layout holds a GatingNetwork, not a {type(gate).__name__}."
        " The model scores in this process; save the gate's state_dict yourself to keep it."
    )


@runtime_checkable
class PreferenceFeatures(Protocol):
    """Features of preference pairs as :class:`armorm.FeatureStore` gives them."""

    def pairs(self) -> Any:
        """Return numbers of chosen, rejected and prompt, and held_out."""

    def prompt_features(self) -> Tensor:
        """Return the features of the prompts."""

    def responses(self) -> Any:
        """Return an Arrow table with a column held_out."""

    def response_features(self) -> Iterator[Any]:
        """Yield tensors of shape (responses, features)."""


@dataclass(frozen=True, slots=True)
class RewardPairs:
    """Preference pairs as the gate sees them.

    Attributes:
        prompts: Feature of each distinct prompt. Shape (prompts, features).
        prompt: Prompt number of each pair. Shape (pairs,).
        differences: r'(chosen) - r'(rejected), after debiasing. Shape (pairs, objectives).

    Example:
        >>> import torch
        >>> pairs = RewardPairs(torch.zeros(2, 4), torch.tensor([0, 0, 1]), torch.ones(3, 5))
        >>> len(pairs)
        3
    """

    prompts: Float[Tensor, "prompts features"]
    prompt: Int[Tensor, " pairs"]
    differences: Float[Tensor, "pairs objectives"]

    @classmethod
    def of(
        cls,
        store: PreferenceFeatures,
        head: RewardHead,
        debiasing: VerbosityDebiasing | None = None,
        *,
        held_out: bool = False,
    ) -> RewardPairs:
        """Read the pairs of a feature store.

        Args:
            store: Features of preference pairs.
            head: Regression layer that rewards the responses.
            debiasing: Transform of the rewards; default none.
            held_out: Take the pairs that are held out instead of the training pairs.
        """
        pairs = store.pairs()
        rewards = head.rewards_of(store)
        if debiasing is not None:
            rewards = rewards @ debiasing.transform
        differences = (rewards[pairs.chosen] - rewards[pairs.rejected]).astype(np.float32)
        prompt = torch.tensor(pairs.prompt)
        every = cls(store.prompt_features(), prompt, torch.from_numpy(differences))
        return every.where(pairs.held_out == held_out)

    def __len__(self) -> int:
        return len(self.prompt)

    def where(self, mask: np.ndarray) -> RewardPairs:
        """Return the pairs where ``mask`` holds; prompt features are shared, not copied."""
        keep = torch.from_numpy(np.flatnonzero(mask))
        return RewardPairs(self.prompts, self.prompt[keep], self.differences[keep])

    def folds(self, count: int, seed: int) -> list[tuple[RewardPairs, RewardPairs]]:
        """Return training and validation pairs of each fold; they share no prompt.

        Args:
            count: Number of folds; fewer where there are fewer prompts.
            seed: Seed of the draw.

        Raises:
            ArmormError: All pairs have the same prompt.
        """
        prompts, number = np.unique(self.prompt.numpy(), return_inverse=True)
        if len(prompts) < 2:
            raise ArmormError(
                f"Choosing the gate on unseen prompts needs pairs of at least 2; these have "
                f"{len(prompts)}. Add preference data, or set gate.folds: 0 and gate.shrinkage: "
                "none."
            )
        count = min(count, len(prompts))
        fold = (np.random.default_rng([seed, 1]).permutation(len(prompts)) % count)[number]
        return [(self.where(fold != one), self.where(fold == one)) for one in range(count)]


def margins(
    gate: nn.Module, pairs: RewardPairs, batch: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch"]:
    """Return R(chosen) - R(rejected) of some pairs, or of all.

    The gate is evaluated once per distinct prompt.
    """
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
    """Return the mean of -log sigmoid(beta * margin)."""
    return functional.softplus(-beta * margin).mean()
