"""Chat completions whose message is the score: reward models of ms-swift and of NVIDIA's NIM.

The name of the model chooses the form: ``NAME`` answers the score as text (ms-swift), and
``NAME:rewards`` or ``NAME:contributions`` pairs of objective and value with the score last (NIM),
which stand in ``logprobs`` too, where NIM's clients read them.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from armorm.errors import InputError
from armorm.model import PerObjective
from armorm.serving.protocols.vllm import usage_of
from armorm.serving.routing import protocol_router
from armorm.serving.rows import conversations_as_requests, score_rows
from armorm.serving.service import Service

COMPONENTS: tuple[PerObjective, ...] = get_args(PerObjective)


class ChatBody(BaseModel):
    """A conversation to judge. Settings of sampling are ignored: nothing is generated."""

    model: str | None = Field(default=None, examples=["model", "model:rewards"])
    """Name of the model, which chooses the form of the answer."""
    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)] = Field(
        examples=[[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi."}]]
    )
    """Messages that end with the assistant's, which is judged."""
    stream: bool | None = None
    """An answer is one number: true is refused."""
    n: int | None = None
    """An answer is one number: more than 1 is refused."""


def router(service: Service) -> APIRouter:
    """Return the routes ``/v1/chat/completions`` and ``/v1/models``."""
    api = protocol_router(tags=["ms-swift, NIM"])

    @api.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> dict[str, Any]:
        """Answer a conversation with its score."""
        if body.stream or (body.n or 1) > 1:
            field = "stream" if body.stream else "n"
            raise InputError(
                field, getattr(body, field), "an answer is one number", "Leave it out."
            )
        component = _component(body.model)
        rows = await conversations_as_requests(service, [body.messages], service.deadline(request))
        scored = await score_rows(service, rows)
        [score] = scored.scores
        values = {"score": score}
        if component is not None:
            found = scored.rewards.by_objective(component)
            values = {**{name: value for name, (value,) in found.items()}, **values}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.model or service.model_name,
            "choices": [_choice(values, as_pairs=component is not None)],
            "usage": usage_of(scored),
        }

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the served model, and its names with a form."""
        name = service.model_name
        names = [name, *(f"{name}:{component}" for component in COMPONENTS)]
        records = [
            {"id": one, "object": "model", "created": 0, "owned_by": "armorm"} for one in names
        ]
        return {"object": "list", "data": records}

    return api


def _component(model: str | None) -> PerObjective | None:
    """Return the kind of values that the name of a model asks for."""
    suffix = (model or "").rpartition(":")[2]
    return next((one for one in COMPONENTS if one == suffix), None)


def _choice(values: dict[str, float], *, as_pairs: bool) -> dict[str, Any]:
    pairs = ",".join(f"{name}:{value!r}" for name, value in values.items())
    logprobs: list[dict[str, Any]] = [
        {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
        for name, value in values.items()
    ]
    return {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": pairs if as_pairs else repr(values["score"]),
        },
        "logprobs": {"content": logprobs} if as_pairs else None,
        "finish_reason": "stop",
    }
