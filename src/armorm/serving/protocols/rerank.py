"""Rerankers: Cohere's and vLLM's form with ``documents``, and TEI's form with ``texts``.

The query is the text of a user's turn, the documents are responses to it.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Field, Tag

from armorm.errors import ArmormError
from armorm.serving.protocols.tei import TeiBody, tei_error_body
from armorm.serving.protocols.vllm import TextList, VllmBody, usage_of
from armorm.serving.routing import failure_of, failure_response, protocol_router
from armorm.serving.rows import ScoredRows, rows_as_requests, score_rows
from armorm.serving.service import Service

PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


class RerankBody(VllmBody):
    """A query and documents, as vLLM and Cohere name them."""

    query: str = Field(examples=["What is 2 plus 3?"])
    """Text of the user's turn."""
    documents: str | TextList = Field(examples=[["2 plus 3 is 5.", "No idea."]])
    """Responses."""
    top_n: int = Field(default=0, ge=0)
    """Number of results; 0 returns all."""
    return_documents: bool = True
    """Repeat the responses in the answer."""


class TeiRerankBody(TeiBody):
    """A query and texts, as TEI names them."""

    query: str
    """Text of the user's turn."""
    texts: TextList
    """Responses."""
    return_text: bool = False
    """Repeat the responses in the answer."""


def _form(body: Any) -> str:
    return "tei" if isinstance(body, dict) and "texts" in body else "vllm"


AnyRerankBody = Annotated[
    Annotated[RerankBody, Tag("vllm")] | Annotated[TeiRerankBody, Tag("tei")], Discriminator(_form)
]


def router(service: Service) -> APIRouter:
    """Return the routes of rerankers."""
    api = protocol_router(tags=["rerank"])

    async def rerank(body: AnyRerankBody, request: Request) -> Any:
        """Rank responses to a user's turn; the best comes first, with its raw score."""
        if isinstance(body, RerankBody):
            return await _ranked(service, body, request)
        try:
            return await _tei_ranked(service, body, request)
        except ArmormError as error:
            return _tei_failure(error, request)

    for path in PATHS:
        api.add_api_route(path, rerank, methods=["POST"], response_model=None)
    return api


async def _ranked(service: Service, body: RerankBody, request: Request) -> dict[str, Any]:
    documents = [body.documents] if isinstance(body.documents, str) else body.documents
    scored = await _scored(service, body.query, documents, request)
    order = scored.rewards.ranking()[: body.top_n or None]
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": scored.scores[i]} for i in order
    ]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": service.model_name,
        "usage": usage_of(scored),
        "results": results,
    }


async def _tei_ranked(
    service: Service, body: TeiRerankBody, request: Request
) -> list[dict[str, Any]]:
    body.check()
    scored = await _scored(service, body.query, body.texts, request)
    text = [{"text": one} if body.return_text else {} for one in body.texts]
    return [{"index": i, **text[i], "score": scored.scores[i]} for i in scored.rewards.ranking()]


async def _scored(
    service: Service, query: str, responses: list[str], request: Request
) -> ScoredRows:
    pairs = [(query, response) for response in responses]
    rows = await rows_as_requests(service, pairs, lambda one: one, service.deadline(request))
    return await score_rows(service, rows)


def _tei_failure(error: ArmormError, request: Request) -> Response:
    """Return a failure as TEI's clients expect it: 429 when too much work waits."""
    failure = failure_of(error)
    if failure.kind == "queue_full":
        failure = replace(failure, status=429)
    return failure_response(failure, request, tei_error_body, error)
