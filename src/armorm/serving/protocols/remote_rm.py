"""slime's and miles' remote reward model: ``--rm-type remote_rm --rm-url http://HOST:PORT/remote_rm``.

Both post one sample and take the JSON that comes back for its reward: a number, or an object of
which ``--reward-key`` names an entry.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from armorm.conversations.markup import parse_continuation, parse_response
from armorm.conversations.own_template import template_parser
from armorm.model import PerObjective
from armorm.serving.routing import protocol_router
from armorm.serving.rows import Parsed, rows_as_requests, score_rows
from armorm.serving.service import Service


class SampleBody(BaseModel):
    """One sample."""

    prompt: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(
        examples=[[{"role": "user", "content": "What is 2 plus 3?"}]]
    )
    """Text in the policy's template, or messages."""
    response: str = Field(examples=["2 plus 3 is 5."])
    """Text that the policy wrote."""
    label: Any = None
    """Ignored."""


def router(service: Service) -> APIRouter:
    """Return the route ``/remote_rm``."""
    api = protocol_router(tags=["slime, miles"])

    @api.post("/remote_rm")
    async def remote_rm(
        body: SampleBody,
        request: Request,
        components: PerObjective | None = None,
        prompt: Literal["template", "plain"] = "template",
    ) -> float | dict[str, float]:
        """Score one sample: a bare number, or with `components` an object with `score` in it.

        `prompt=plain` takes a prompt that is text for the words of one user turn.
        """
        own = template_parser(service.model.backbone.encoder)

        def parse(sample: SampleBody) -> Parsed:
            if isinstance(sample.prompt, str) and prompt == "template":
                return parse_continuation(sample.prompt, sample.response, own)
            messages: Any = sample.prompt
            return messages, parse_response(sample.response)

        rows = await rows_as_requests(service, [body], parse, service.deadline(request))
        scored = await score_rows(service, rows)
        if components is None:
            return scored.scores[0]
        values = scored.rewards.by_objective(components)
        return {**{name: value for name, (value,) in values.items()}, "score": scored.scores[0]}

    return api
