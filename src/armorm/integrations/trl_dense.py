"""Advantages per token for TRL's GRPO (1.16), by a subclass.

TRL's reward functions give one number per completion, and no option spreads it over tokens.  But
the loss of ``GRPOTrainer`` takes advantages of shape (batch, tokens) from a subclass, as its source
says; ``RLOOTrainer`` computes one ratio per completion and takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from armorm.integrations.token_credits import TokenCredits


def token_advantages(rewards: Sequence[Tensor], discount: float = 1.0) -> list[Tensor]:
    """Return what follows from each token on: ``sum over k >= t of discount**(k - t) * reward_k``.

    For credits this is generalised advantage estimation with the score of the beginning as the
    value function and ``lambda = discount``.  With 1 it is the score less that of the text before
    the token: a baseline that depends on earlier tokens alone, so that the expected gradient is
    that of the score itself.  Smaller ones trust the scores of beginnings.

    Args:
        rewards: Credits of each response's tokens, without the start. Each of shape (tokens,).
        discount: From 0, each token's own credit alone, to 1.

    Example:
        >>> import torch
        >>> token_advantages([torch.tensor([0.25, -0.5, 1.0])])[0].tolist()
        [0.75, 0.5, 1.0]
        >>> token_advantages([torch.tensor([0.25, -0.5, 1.0])], discount=0.0)[0].tolist()
        [0.25, -0.5, 1.0]
    """
    found = []
    for row in rewards:
        following = torch.zeros((), dtype=row.dtype)
        advantages = torch.empty_like(row)
        for i in range(len(row) - 1, -1, -1):
            following = row[i] + discount * following
            advantages[i] = following
        found.append(advantages)
    return found


def trl_dense_trainer(
    base: type, credits: TokenCredits, *, weight: float = 1.0, discount: float = 1.0
) -> type:
    """Return a subclass of TRL's ``GRPOTrainer`` with advantages per token.

    To the advantage that TRL computes from its reward functions, it adds those of the tokens,
    divided by their standard deviation in the batch.  Other reward functions keep their say; that
    of the score itself is better given ``reward_weights`` 0, which logs it.

    Args:
        base: ``trl.GRPOTrainer``.
        credits: Reward model and the policy's tokenizer, with ``start=False``.
        weight: Factor on the advantages of the tokens.
        discount: See :func:`token_advantages`.
    """

    class ArmoDenseTrainer(base):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            ids, mask = output["completion_ids"], output["completion_mask"]
            lengths = mask.sum(dim=1).tolist()
            real = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
            rows = [i for i, length in enumerate(lengths) if length]
            rewards = credits([inputs[i]["prompt"] for i in rows], [real[i] for i in rows])
            tokens = torch.zeros(ids.shape)
            for i, advantages in zip(rows, token_advantages(rewards, discount), strict=True):
                tokens[i, : lengths[i]] = advantages.float()
            deviation = tokens[mask.bool().cpu()].std()
            if deviation > 0:
                tokens = tokens / (deviation + 1e-4)
            spread = output["advantages"][:, None] + weight * tokens.to(output["advantages"])
            return {**output, "advantages": spread}

    return ArmoDenseTrainer
