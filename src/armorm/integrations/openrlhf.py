"""Rewards for OpenRLHF: its remote reward server, and its reward files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from armorm.conversations import Message
from armorm.conversations.markup import parse_continuation, parse_response
from armorm.conversations.own_template import template_parser
from armorm.integrations.remote import RewardSource, scorer_of
from armorm.model import PerObjective, RewardModel
from armorm.serving.openrlhf import openrlhf_record, openrlhf_texts

PromptParser = Callable[[str], Sequence[Message]]


def openrlhf_answer(
    model: RewardSource,
    components: PerObjective = "contributions",
    parse_prompt: PromptParser | None = None,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function of a remote reward server (``--reward.remote_url http://…``).

    Args:
        model: The reward model, a :class:`RewardServer`, or addresses of one. A steered model
            rewards as it is steered.
        components: Kind of the per-objective values in ``extra_logs``.
        parse_prompt: Parser of prompts in the policy's template. Default: the model's own
            template and those of :mod:`armorm.conversations.markup`.

    Returns:
        A function from the request ``{"query": [text], "prompts": [text], "labels": [...]}`` to
        ``{"rewards": [number], "scores": [number], "extra_logs": {objective: [number]}}``. It
        raises InputError for a query that cannot be scored, since OpenRLHF would train on whatever
        number comes back.
    """
    scorer = scorer_of(model)
    # A server does not tell its template; the markups that are known are tried.
    own = template_parser(model.backbone.encoder) if isinstance(model, RewardModel) else None

    def parsed(prompt: str, text: str) -> tuple[Sequence[Message], str]:
        if parse_prompt is not None:
            return parse_prompt(prompt), parse_response(text)
        return parse_continuation(prompt, text, own)

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        rows = [parsed(*texts) for texts in zip(*openrlhf_texts(request), strict=True)]
        scored = scorer([prompt for prompt, _ in rows], [response for _, response in rows])
        parts = scored.components(components).parts
        logs = {name: values.tolist() for name, values in parts.items()}
        return openrlhf_record(scored.all_scores("query"), logs)

    return answer


def openrlhf_reward_func(
    model: RewardSource,
    components: PerObjective = "contributions",
    parse_prompt: PromptParser | None = None,
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
