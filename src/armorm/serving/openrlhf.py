"""The wire format of OpenRLHF's remote reward model, for the server and for a model in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from armorm.errors import InputError


def openrlhf_texts(request: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return prompts and continuations of a request ``{"query": […], "prompts": […]}``.

    Raises:
        InputError: A field is no list of texts, or a query does not begin with its prompt.
    """
    queries, prompts = _texts(request, "query"), _texts(request, "prompts")
    if len(queries) != len(prompts):
        raise InputError(
            "prompts", len(prompts), f"there are {len(queries)} queries", "Send one for each."
        )
    for row, (query, prompt) in enumerate(zip(queries, prompts, strict=True), start=1):
        if not query.startswith(prompt):
            raise InputError(
                "query",
                query,
                "does not begin with its prompt",
                "Send both decoded in the same way.",
                row=row,
            )
    return prompts, [query[len(prompt) :] for query, prompt in zip(queries, prompts, strict=True)]


def openrlhf_record(
    scores: Sequence[float], components: Mapping[str, Sequence[float | None]]
) -> dict[str, Any]:
    """Return the answer: OpenRLHF trains on ``rewards``, filters by ``scores``, logs the rest."""
    return {"rewards": list(scores), "scores": list(scores), "extra_logs": dict(components)}


def _texts(request: Mapping[str, Any], field: str) -> list[str]:
    value = request.get(field)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            field, value, "not a list of texts", 'Send {"query": […], "prompts": […]}.'
        )
    return list(texts)
