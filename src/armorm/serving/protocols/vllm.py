"""vLLM's routes of pooling models, and the embeddings by which SGLang serves reward models.

Each conversation has the numbers of vLLM with this package's plugin: the k unit rewards, the k
gating coefficients, and the score last, which is the number that verl reads.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, StrictInt, model_validator

from armorm.errors import InputError
from armorm.serving.requests import ScoreRequest
from armorm.serving.routing import protocol_router
from armorm.serving.rows import (
    ScoredRows,
    conversations_as_requests,
    ids_as_requests,
    rows_as_requests,
    score_rows,
    texts_as_requests,
)
from armorm.serving.service import Service

TextList = Annotated[list[str], Field(fail_fast=True)]
"""Texts, of which only the first error is listed: a body may hold millions of wrong ones."""
Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
Texts = Annotated[str | TextList | None, Field(default=None)]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_REFUSED = {
    "use_activation": (True, "Scores are raw: send false, or leave it out."),
    "normalize": (True, "Scores are raw: leave it out."),
    "truncate_prompt_tokens": (None, "A score of a cut text is another score: leave it out."),
    "max_tokens_per_query": (None, "A score of a cut text is another score: leave it out."),
    "max_tokens_per_doc": (None, "A score of a cut text is another score: leave it out."),
    "dimensions": (None, "The answer has one number for each part: leave it out."),
    "chat_template": (None, "The model reads its own template: leave it out."),
    "chat_template_kwargs": (None, "The model reads its own template: leave it out."),
    "instruction": (None, "Write it into the messages."),
    "add_generation_prompt": (True, "The response is part of the input: leave it out."),
    "continue_final_message": (True, "The response is judged as it stands: leave it out."),
}
"""Settings that would change the score, with the value that does; ``None`` for every value."""


class VllmBody(BaseModel):
    """Settings of every route. Those that would change a score are refused, others are ignored."""

    model: str | None = None
    """Ignored: one model is served."""
    use_activation: bool | None = None
    """Scores are raw: true is refused."""
    normalize: bool | None = None
    """Scores are raw: true is refused."""
    truncate_prompt_tokens: int | None = None
    """Refused: nothing is cut."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        for name, (value, remedy) in _REFUSED.items():
            given = body.get(name) if isinstance(body, dict) else None
            harmless: tuple[Any, ...] = (None, 0, "", {}) if value is None else (None, False)
            if given not in harmless:
                raise ValueError(f"{name} = {given!r}: this server does not do that. {remedy}")
        return body


class InputBody(VllmBody):
    """Conversations to classify."""

    input: str | TextList | Ids | Annotated[list[Ids], Field(fail_fast=True)] | None = Field(
        default=None,
        examples=["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>"],
    )
    """Rendered conversations, in the model's own template or in a known one, or token ids."""
    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = Field(
        default=None,
        examples=[[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi."}]],
    )
    """One conversation, in place of input."""

    @model_validator(mode="after")
    def _check_form(self) -> InputBody:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        return self


class EncodingBody(InputBody):
    """Conversations, and the encoding of the numbers."""

    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"
    """Form of the numbers; bytes of all conversations stand one after another."""
    embed_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of numbers in base64 and bytes."""
    endianness: Literal["native", "little", "big"] = "native"
    """Order of bytes in base64 and bytes."""


class PoolingBody(EncodingBody):
    """Conversations to pool."""

    task: str | None = None
    """classify, or none."""


class EmbeddingBody(EncodingBody):
    """Conversations for the embeddings route."""

    encoding_format: Literal["float", "base64"] = "float"


class ScoreBody(VllmBody):
    """Pairs of a user's turn and a response: one with one, one with many, or many with as many."""

    text_1: Texts
    """Texts of user turns; also queries or data_1."""
    queries: Texts
    data_1: Texts
    text_2: Texts
    """Responses; also documents, items or data_2."""
    documents: Texts
    items: Texts
    data_2: Texts

    @property
    def prompts(self) -> list[str]:
        """Texts of the user's turns."""
        return self._one_of("text_1", "queries", "data_1")

    @property
    def responses(self) -> list[str]:
        """Responses."""
        return self._one_of("text_2", "documents", "items", "data_2")

    def _one_of(self, *names: str) -> list[str]:
        given = {name: found for name in names if (found := getattr(self, name)) is not None}
        if len(given) != 1:
            raise InputError(
                names[0], list(given), "not exactly one field", f"Send one of {', '.join(names)}."
            )
        [texts] = given.values()
        return [texts] if isinstance(texts, str) else texts


def router(service: Service) -> APIRouter:
    """Return the routes ``/classify``, ``/pooling``, ``/score`` and ``/v1/embeddings``."""
    api = protocol_router(tags=["vLLM, verl, SGLang"])

    @api.post("/classify")
    async def classify(body: InputBody, request: Request) -> dict[str, Any]:
        """Return the k unit rewards, the k gating coefficients and the score of conversations."""
        scored = await _scored(service, body, request)
        data = [
            {"index": i, "label": None, "probs": vector, "num_classes": len(vector)}
            for i, vector in enumerate(scored.vectors)
        ]
        return _answer(service, "classify", scored, data)

    @api.post("/pooling", response_model=None)
    async def pooling(body: PoolingBody, request: Request) -> dict[str, Any] | Response:
        """Return the numbers of `/classify` in the encoding that is asked for."""
        if body.task not in (None, "classify"):
            raise InputError(
                "task", body.task, "not a task of this model", "Use classify: one vector each."
            )
        scored = await _scored(service, body, request)
        vectors = scored.vectors
        if body.encoding_format in ("bytes", "bytes_only"):
            return _bytes_answer(service, body, scored)
        data = [
            {"index": i, "object": "pooling", "data": _encoded(vector, body)}
            for i, vector in enumerate(vectors)
        ]
        return _answer(service, "pool", scored, data)

    @api.post("/v1/embeddings")
    async def embeddings(body: EmbeddingBody, request: Request) -> dict[str, Any]:
        """Return the numbers of `/classify` as SGLang returns those of a reward model."""
        scored = await _scored(service, body, request)
        data = [
            {"index": i, "object": "embedding", "embedding": _encoded(vector, body)}
            for i, vector in enumerate(scored.vectors)
        ]
        return _answer(service, "embd", scored, data)

    @api.post("/score")
    async def score(body: ScoreBody, request: Request) -> dict[str, Any]:
        """Score responses to the texts of user turns; `/v1/score` is this server's own API."""
        pairs = _pairs(body.prompts, body.responses)
        rows = await rows_as_requests(service, pairs, lambda one: one, service.deadline(request))
        scored = await score_rows(service, rows)
        data = [
            {"index": i, "object": "score", "score": found} for i, found in enumerate(scored.scores)
        ]
        return _answer(service, "score", scored, data)

    return api


def usage_of(scored: ScoredRows) -> dict[str, int]:
    """Return the usage of an answer: no token is generated."""
    return {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens, "completion_tokens": 0}


async def _scored(service: Service, body: InputBody, request: Request) -> ScoredRows:
    return await score_rows(service, await _requests(service, body, service.deadline(request)))


async def _requests(service: Service, body: InputBody, deadline: float) -> list[ScoreRequest]:
    """Return one request for each conversation of a body."""
    given = body.input
    if body.messages is not None:
        return await conversations_as_requests(service, [body.messages], deadline)
    if isinstance(given, str):
        return await texts_as_requests(service, [given], deadline)
    if not given or isinstance(given[0], str):
        return await texts_as_requests(service, given, deadline)  # type: ignore[arg-type]
    rows = given if isinstance(given[0], list) else [given]
    return ids_as_requests(service, rows, deadline)


def _pairs(prompts: Sequence[str], responses: Sequence[str]) -> list[tuple[str, str]]:
    if len(prompts) == 1:
        return [(prompts[0], response) for response in responses]
    if len(prompts) != len(responses):
        raise InputError(
            "text_1",
            len(prompts),
            f"texts, and {len(responses)} responses",
            "Send one, or as many as responses.",
        )
    return list(zip(prompts, responses, strict=True))


def _answer(service: Service, kind: str, scored: ScoredRows, data: Any) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": service.model_name,
        "data": data,
        "usage": usage_of(scored),
    }


def _encoded(vector: list[float], body: EncodingBody) -> list[float] | str:
    if body.encoding_format == "float":
        return vector
    return base64.b64encode(_binary(vector, body)).decode()


def _binary(vector: list[float], body: EncodingBody) -> bytes:
    numbers = torch.tensor(vector, dtype=_DTYPES[body.embed_dtype])
    if not numbers.isfinite().all():
        raise InputError(
            "embed_dtype", body.embed_dtype, "too narrow for a score", "Ask for float32."
        )
    table = numbers.view(torch.uint8).view(len(vector), -1)
    if body.endianness not in ("native", sys.byteorder):
        table = table.flip(1)
    return table.numpy().tobytes()


def _bytes_answer(service: Service, body: PoolingBody, scored: ScoredRows) -> Response:
    """Return the bytes of all vectors; a header says where each stands."""
    parts = [_binary(vector, body) for vector in scored.vectors]
    width = len(scored.vectors[0])
    items = [
        {
            "index": i,
            "embed_dtype": body.embed_dtype,
            "endianness": body.endianness,
            "start": i * len(part),
            "end": (i + 1) * len(part),
            "shape": [width],
        }
        for i, part in enumerate(parts)
    ]
    metadata = json.dumps(_answer(service, "pool", scored, items))
    headers = {} if body.encoding_format == "bytes_only" else {"metadata": metadata}
    return Response(b"".join(parts), headers=headers, media_type="application/octet-stream")
