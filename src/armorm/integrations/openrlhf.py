"""Rewards for OpenRLHF: its remote reward server, and its reward files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from armorm.conversations import Message
from armorm.conversations.markup import parse_prompt, parse_response
from armorm.errors import InputError
from armorm.integrations.completions import CompletionScorer
from armorm.integrations.components import PerObjective
from armorm.model import RewardModel

PromptParser = Callable[[str], Sequence[Message]]


def openrlhf_answer(
    model: RewardModel,
    components: PerObjective = "contributions",
    parse_prompt: PromptParser = parse_prompt,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function of a remote reward server (``--reward.remote_url http://…``).

    Args:
        model: The reward model. A steered model rewards as it is steered.
        components: Kind of the per-objective values in ``extra_logs``.
        parse_prompt: Parser of prompts in the policy's template.

    Returns:
        A function from the request ``{"query": [text], "prompts": [text], "labels": [...]}`` to
        ``{"rewards": [number], "scores": [number], "extra_logs": {objective: [number]}}``. It
        raises InputError for a query that cannot be scored, since OpenRLHF would train on whatever
        number comes back.
    """
    scorer = CompletionScorer(model)

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        queries, prompts = _texts(request, "query"), _texts(request, "prompts")
        if len(queries) != len(prompts):
            raise InputError(
                "prompts", len(prompts), f"there are {len(queries)} queries", "Send one for each."
            )
        responses = [
            _response(query, prompt, row)
            for row, (query, prompt) in enumerate(zip(queries, prompts, strict=True), start=1)
        ]
        scored = scorer([parse_prompt(prompt) for prompt in prompts], responses)
        scores = scored.all_scores("query")
        parts = scored.components(components).parts
        logs = {name: values.tolist() for name, values in parts.items()}
        return {"rewards": scores, "scores": scores, "extra_logs": logs}

    return answer


def openrlhf_reward_func(
    model: RewardModel,
    components: PerObjective = "contributions",
    parse_prompt: PromptParser = parse_prompt,
) -> Callable[[Sequence[str], Sequence[str], Any], dict[str, Any]]:
    """Return the ``reward_func(queries, prompts, labels)`` of a reward file.

    Arguments and errors are those of :func:`openrlhf_answer`; the values are float32 tensors of
    shape (n,).
    """
    answer = openrlhf_answer(model, components, parse_prompt)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Any = None
    ) -> dict[str, Any]:
        found = answer({"query": queries, "prompts": prompts, "labels": labels})
        logs = {name: torch.tensor(values) for name, values in found["extra_logs"].items()}
        rewards = torch.tensor(found["rewards"])
        return {"rewards": rewards, "scores": rewards, "extra_logs": logs}

    return reward_func


def _texts(request: Mapping[str, Any], field: str) -> list[str]:
    value = request.get(field)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            field, value, "not a list of texts", 'Send {"query": […], "prompts": […]}.'
        )
    return list(texts)


def _response(query: str, prompt: str, row: int) -> str:
    if not query.startswith(prompt):
        raise InputError(
            "query",
            query,
            "does not begin with its prompt",
            "Send both decoded in the same way.",
            row=row,
        )
    return parse_response(query[len(prompt) :])
