"""Rewards for the environments of NeMo-RL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from armorm.integrations.components import ComponentKind
from armorm.integrations.remote import RewardSource, scorer_of


def nemo_rl_rewards(
    model: RewardSource, components: ComponentKind | None = "contributions"
) -> Callable[[Sequence[Sequence[Mapping[str, Any]]]], Tensor | dict[str, Tensor]]:
    """Return the rewards of an environment's ``step``.

    Args:
        model: The reward model, a :class:`RewardServer`, or addresses of one. A steered model
            rewards as it is steered.
        components: Reward components ``{"reward/<name>": tensor}`` for multi-reward algorithms;
            ``None`` for one tensor of scores, which GRPO needs. GDPO erases the gate from a
            component per objective: see
            :data:`~armorm.integrations.components.ComponentKind`.

    Returns:
        A function of message logs (lists of ``{"role", "content", …}`` that end with the
        assistant's turn), which answers float32 tensors of shape (n,) for
        ``EnvironmentReturn.rewards``. It raises InputError for a log that cannot be scored.
    """
    scorer = scorer_of(model)

    def rewards(
        message_logs: Sequence[Sequence[Mapping[str, Any]]],
    ) -> Tensor | dict[str, Tensor]:
        turns = [
            [{"role": m["role"], "content": m["content"]} for m in log] for log in message_logs
        ]
        scored = scorer([log[:-1] for log in turns], [log[-1:] for log in turns])
        scores = scored.all_scores("message_log")
        if components is None:
            return torch.tensor(scores)
        found = scored.components(components).optimised
        return {f"reward/{name}": values.float() for name, values in found.items()}

    return rewards
