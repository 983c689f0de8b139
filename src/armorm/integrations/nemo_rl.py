"""Rewards for the environments of NeMo-RL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from armorm.integrations.completions import CompletionScorer, Component
from armorm.model import RewardModel


def nemo_rl_rewards(
    model: RewardModel, component: Component | None = "contributions"
) -> Callable[[Sequence[Sequence[Mapping[str, Any]]]], Tensor | dict[str, Tensor]]:
    """Return the rewards of an environment's ``step``.

    Args:
        model: The reward model. A steered model rewards as it is steered.
        component: Reward components ``{"reward/<objective>": tensor}`` for multi-reward algorithms;
            ``None`` for one tensor of scores, which GRPO needs. GDPO normalises every component
            within its prompt's group, which erases the gate: see docs/integrations.md.

    Returns:
        A function of message logs (lists of ``{"role", "content", …}`` that end with the
        assistant's turn), which answers float32 tensors of shape (n,) for
        ``EnvironmentReturn.rewards``. It raises InputError for a log that cannot be scored.
    """
    scorer = CompletionScorer(model)

    def rewards(
        message_logs: Sequence[Sequence[Mapping[str, Any]]],
    ) -> Tensor | dict[str, Tensor]:
        turns = [
            [{"role": m["role"], "content": m["content"]} for m in log] for log in message_logs
        ]
        scored = scorer([log[:-1] for log in turns], [log[-1:] for log in turns])
        scores = scored.all_scores("message_log")
        if component is None:
            return torch.tensor(scores)
        return {
            f"reward/{name}": torch.tensor(values)
            for name, values in scored.components(component).items()
        }

    return rewards
