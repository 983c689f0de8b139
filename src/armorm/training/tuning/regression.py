"""Stage 1 with the backbone in it: rewards = W f(x, y), and both W and f learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from armorm.conversations import EncodedPrompt


def masked_squared_error(
    rewards: Float[Tensor, "rows objectives"], targets: Float[Tensor, "rows objectives"]
) -> Float[Tensor, ""]:
    """Return the loss of stage 1: the sum of squared errors of existing ratings, over the rows.

    Dividing by the rows, not by the ratings, gives every rating the same weight in any batch.

    Args:
        rewards: Predictions.
        targets: Unit rewards, NaN where a row is not rated.
    """
    rated = ~torch.isnan(targets)
    # Missing targets are replaced before the difference is taken, because NaN times zero is NaN.
    errors = torch.where(rated, rewards - torch.where(rated, targets, 0.0), 0.0)
    return errors.square().sum() / len(rewards)


class RewardRegression(nn.Module):
    """A decoder with a linear layer on its last token's state, in the form of the Trainer.

    Attributes:
        decoder: The backbone's decoder, or its PEFT model with adapters.
        head: W, without intercept, in float32 whatever the decoder computes in.
    """

    # The Trainer reads this attribute of every model that it resumes.
    _keys_to_ignore_on_save: ClassVar[None] = None

    def __init__(self, decoder: nn.Module, weight: Float[np.ndarray, "objectives hidden"]) -> None:
        super().__init__()
        self.decoder = decoder
        objectives, hidden = weight.shape
        self.head = nn.Linear(hidden, objectives, bias=False, dtype=torch.float32)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(np.asarray(weight, np.float32)))
        # A checkpoint holds only weights that learn: of adapters on frozen 8B, the adapters.
        self.register_state_dict_post_hook(_drop_frozen)  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        ends: Int[Tensor, " rows"],
        targets: Float[Tensor, "rows objectives"],
    ) -> dict[str, Tensor]:
        """Return loss and rewards of a right-padded batch.

        As in :meth:`Backbone.features`, attention is causal and no mask is needed.

        Args:
            input_ids: Conversations.
            ends: Index of each one's last token.
            targets: Unit rewards, NaN where missing.
        """
        states = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ends), device=states.device), ends]
        with torch.autocast(last.device.type, enabled=False):
            rewards = self.head(last.float())
        return {"loss": masked_squared_error(rewards, targets), "rewards": rewards}


def _drop_frozen(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]
) -> None:
    del metadata
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


class RatedConversations(torch.utils.data.Dataset[dict[str, Any]]):
    """Dataset of token ids and unit rewards of rated responses; ids are read on demand."""

    def __init__(
        self,
        rows: Sequence[tuple[Any, EncodedPrompt]],
        targets: Float[np.ndarray, "rows objectives"],
    ) -> None:
        self.rows = rows
        self.targets = targets.astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        _, encoded = self.rows[row]
        ids = np.asarray(encoded.sequences[0], np.int32)
        return {"input_ids": ids, "targets": self.targets[row]}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a right-padded batch. Attention is causal, so no token sees the padding."""
    lengths = [len(row["input_ids"]) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row["input_ids"])] = row["input_ids"]
    return {
        "input_ids": torch.from_numpy(ids),
        "ends": torch.tensor(lengths) - 1,
        "targets": torch.from_numpy(np.stack([row["targets"] for row in rows])),
    }
