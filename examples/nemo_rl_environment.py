"""The reward step of a NeMo-RL environment, with reward components: one per objective by default.

In NeMo-RL the class is wrapped with ``@ray.remote`` and the step's answer is its
``EnvironmentReturn``; here it is a plain dictionary of the same fields, so that the example runs
without NeMo-RL.
"""

from __future__ import annotations

from typing import Any

import torch

from armorm import RewardModel
from armorm.integrations import ComponentKind, nemo_rl_rewards


class ArmoRMEnvironment:
    """Single-turn: every conversation ends after the policy's answer has been scored."""

    def __init__(self, model: str, components: ComponentKind | None = "contributions") -> None:
        self._rewards = nemo_rl_rewards(RewardModel.from_pretrained(model), components)

    def step(
        self, message_logs: list[list[dict[str, Any]]], env_infos: list[Any]
    ) -> dict[str, Any]:
        n = len(message_logs)
        return {
            "observations": [{"role": "environment", "content": ""}] * n,
            "metadata": env_infos,
            "next_stop_strings": [None] * n,
            "rewards": self._rewards(message_logs),
            "terminateds": torch.ones(n, dtype=torch.bool),
            "answers": None,
        }
