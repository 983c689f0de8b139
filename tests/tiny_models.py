"""Random heads with three objectives, and conversations for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from armorm import Objective, ObjectiveSet
from armorm.heads import GatingNetwork
from armorm.model import Heads

OBJECTIVES = ObjectiveSet(
    [
        Objective(name="tone", minimum=0, maximum=4, unit_zero=-0.5, unit_one=4.5),
        Objective(name="safe", dataset="panel"),
        Objective(name="verbosity", minimum=0, maximum=4, direction="neutral"),
    ]
)
PROMPT = [{"role": "user", "content": "what is the capital of France ?"}]


def make_heads(hidden: int = 32, seed: int = 0, objectives: ObjectiveSet = OBJECTIVES) -> Heads:
    """Return random heads; the third objective is taken out of all others."""
    torch.manual_seed(seed)
    k = len(objectives)
    transform = torch.eye(k)
    transform[2] -= torch.linspace(0.1, 0.9, k)
    gate = GatingNetwork(hidden, k, 16, 2, temperature=2.0).eval().requires_grad_(False)
    return Heads(objectives, 0.1 * torch.randn(k, hidden), transform, gate, beta=7.0)


def conversation(
    response: str, prompt: Sequence[Mapping[str, str]] = PROMPT
) -> list[Mapping[str, str]]:
    """Return the prompt with one answer."""
    return [*prompt, {"role": "assistant", "content": response}]
