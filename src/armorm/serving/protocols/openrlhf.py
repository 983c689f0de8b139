"""OpenRLHF's remote reward model: ``--reward.remote_url http://HOST:PORT/get_reward``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from armorm.conversations.markup import parse_continuation
from armorm.conversations.own_template import template_parser
from armorm.model import PerObjective
from armorm.serving.openrlhf import openrlhf_record, openrlhf_texts
from armorm.serving.protocols.vllm import TextList
from armorm.serving.routing import protocol_router
from armorm.serving.rows import rows_as_requests, score_rows, texts_as_requests
from armorm.serving.service import Service


class OpenRlhfBody(BaseModel):
    """Queries, as the policy read and wrote them."""

    query: str | TextList = Field(
        examples=[["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>"]]
    )
    """Rendered prompts with their responses, control tokens included."""
    prompts: str | TextList | None = Field(
        default=None, examples=[["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"]]
    )
    """Rendered prompts, each the beginning of its query. Old versions send none."""
    labels: Any = None
    """Ignored."""


class OpenRlhfAnswer(BaseModel):
    """Rewards, one for each query."""

    rewards: list[float]
    """What OpenRLHF trains on."""
    scores: list[float]
    """What its dynamic filtering reads: the same raw numbers."""
    extra_logs: dict[str, list[float]]
    """One value of each objective for each query, which OpenRLHF logs."""


def router(service: Service) -> APIRouter:
    """Return the route ``/get_reward``."""
    api = protocol_router(tags=["OpenRLHF"])

    @api.post("/get_reward")
    async def get_reward(
        body: OpenRlhfBody, request: Request, components: PerObjective = "contributions"
    ) -> OpenRlhfAnswer:
        """Score queries in the policy's template, all or none."""
        deadline = service.deadline(request)
        if body.prompts is None:
            queries = [body.query] if isinstance(body.query, str) else body.query
            rows = await texts_as_requests(service, queries, deadline)
        else:
            own = template_parser(service.model.backbone.encoder)
            texts = list(zip(*openrlhf_texts(body.model_dump()), strict=True))
            rows = await rows_as_requests(
                service, texts, lambda one: parse_continuation(*one, own), deadline
            )
        scored = await score_rows(service, rows)
        return OpenRlhfAnswer.model_validate(
            openrlhf_record(scored.scores, scored.rewards.by_objective(components))
        )

    return api
