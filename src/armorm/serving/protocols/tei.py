"""Text Embeddings Inference: ``/predict`` of sequence classifiers, and ``/info``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from armorm.conversations.markup import parse_conversation
from armorm.conversations.own_template import template_parser
from armorm.errors import InputError
from armorm.model import PerObjective
from armorm.serving.failures import Failure
from armorm.serving.native import model_answer
from armorm.serving.protocols.vllm import TextList
from armorm.serving.routing import protocol_router
from armorm.serving.rows import Parsed, rows_as_requests, score_rows
from armorm.serving.service import Service

SCORE_LABEL = "score"

_ERROR_TYPES = {429: "overloaded", 503: "unhealthy", 413: "validation", 422: "validation"}


class TeiBody(BaseModel):
    """Settings of TEI's routes. Those that would change a score are refused."""

    truncate: bool | None = None
    """Nothing is cut: true is refused."""
    raw_scores: bool | None = None
    """Scores are raw: false is refused, and raw is the default here."""

    def check(self) -> None:
        """Raise InputError if the client asks for other than raw scores of whole texts."""
        if self.truncate:
            raise InputError(
                "truncate",
                True,
                "a score of a cut text is another score",
                "Send false, and shorten the conversation.",
            )
        if self.raw_scores is False:
            raise InputError(
                "raw_scores",
                False,
                "this server does not squash scores",
                "Send true, or leave it out.",
            )


class PredictBody(TeiBody):
    """Conversations to score."""

    inputs: str | TextList | Annotated[list[TextList], Field(fail_fast=True)] = Field(
        examples=[["What is 2 plus 3?", "2 plus 3 is 5."]]
    )
    """One rendered conversation; or the text of a user's turn and a response; or a list of lists of
    one or two of these."""


class Prediction(BaseModel):
    """A score with its name."""

    score: float
    label: str


def router(service: Service) -> APIRouter:
    """Return the routes ``/predict`` and ``/info``."""
    api = protocol_router(tei_error_body, queue_full_status=429, tags=["TEI"])

    @api.post("/predict")
    async def predict(
        body: PredictBody, request: Request, components: PerObjective | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """Score conversations: a prediction each, with `components` after one of each objective."""
        body.check()
        own = template_parser(service.model.backbone.encoder)

        def parse(texts: list[str]) -> Parsed:
            if len(texts) == 2:
                return texts[0], texts[1]
            if len(texts) == 1:
                return parse_conversation(texts[0], own)
            raise InputError(
                "inputs", texts, "neither one text nor two", "Send [text] or [prompt, response]."
            )

        single, sequences = _sequences(body.inputs)
        rows = await rows_as_requests(service, sequences, parse, service.deadline(request))
        scored = await score_rows(service, rows)
        columns = {} if components is None else scored.rewards.by_objective(components)
        columns[SCORE_LABEL] = scored.scores
        found = [
            [
                Prediction(score=score, label=label)
                for label, score in zip(columns, row, strict=True)
            ]
            for row in zip(*columns.values(), strict=True)
        ]
        return found[0] if single else found

    @api.get("/info")
    async def info() -> dict[str, Any]:
        """Describe the served model as TEI does."""
        served = model_answer(service)
        return {
            "model_id": served.name,
            "model_sha": served.fingerprint,
            "model_dtype": served.dtype,
            "model_type": {
                "classifier": {"id2label": {"0": SCORE_LABEL}, "label2id": {SCORE_LABEL: 0}}
            },
            "max_input_length": served.max_length,
            "max_client_batch_size": service.options.max_conversations,
            "auto_truncate": False,
            "version": served.version,
        }

    return api


def tei_error_body(failure: Failure, request_id: str) -> dict[str, Any]:
    """Return the body of a failure as TEI's clients read it."""
    kind = _ERROR_TYPES.get(failure.status, "validation" if failure.status < 500 else "backend")
    return {"error": failure.message, "error_type": kind, "request_id": request_id}


def _sequences(inputs: str | list[str] | list[list[str]]) -> tuple[bool, list[list[str]]]:
    """Return True for a single answer, and the texts of each row."""
    if isinstance(inputs, str):
        return True, [[inputs]]
    if not inputs or isinstance(inputs[0], str):
        return True, [inputs]  # type: ignore[list-item]
    return False, inputs
