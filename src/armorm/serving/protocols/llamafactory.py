"""LLaMA-Factory's reward model API: ``POST /v1/score/evaluation``, which its trainers post to."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from armorm.errors import InputError
from armorm.serving.protocols.vllm import TextList
from armorm.serving.routing import protocol_router
from armorm.serving.rows import score_rows, texts_as_requests
from armorm.serving.service import Service


class EvaluationBody(BaseModel):
    """Conversations to score."""

    model: str | None = None
    """Ignored: one model is served."""
    messages: TextList
    """Rendered conversations, in the model's own template or in a known one."""
    max_length: int | None = None
    """Refused: nothing is cut."""


def router(service: Service) -> APIRouter:
    """Return the route ``/v1/score/evaluation``."""
    api = protocol_router(tags=["LLaMA-Factory"])

    @api.post("/v1/score/evaluation")
    async def evaluation(body: EvaluationBody, request: Request) -> dict[str, Any]:
        """Score rendered conversations, all or none."""
        if body.max_length is not None:
            raise InputError(
                "max_length",
                body.max_length,
                "a score of a cut text is another score",
                "Leave it out.",
            )
        rows = await texts_as_requests(service, body.messages, service.deadline(request))
        scored = await score_rows(service, rows)
        return {
            "id": "scoreval",
            "object": "score.evaluation",
            "model": service.model_name,
            "scores": scored.scores,
        }

    return api
