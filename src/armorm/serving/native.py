"""The native API: scores, comparisons and the best of many, with steering for each request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request

from armorm.errors import ArmormError, RecipeError
from armorm.model import RewardModel, Rewards, Steering, SteeringProfile
from armorm.model.profiles import check_floors, named_profile
from armorm.serving.failures import Failure
from armorm.serving.requests import ScoredRequest
from armorm.serving.routing import protocol_router
from armorm.serving.service import Service
from armorm.serving.wire import (
    BestOfAnswer,
    BestOfBody,
    Body,
    CompareAnswer,
    CompareBody,
    ErrorAnswer,
    Message,
    ModelAnswer,
    ObjectiveRecord,
    ObjectivesAnswer,
    ProfilesAnswer,
    ScoreAnswer,
    ScoreBody,
)
from armorm.version import __version__

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "The body is not JSON.",
        401: "The key is missing or wrong.",
        408: "The body took too long to arrive.",
        413: "A limit of the server, or the length that the model can read.",
        415: "The body does not say it is JSON.",
        422: "A field is missing, unknown or wrong.",
        500: "The server failed.",
        503: "Too much work is waiting, or the server stops: try again after Retry-After.",
        504: "The deadline passed.",
    }.items()
}


def router(service: Service) -> APIRouter:
    """Return the routes of the native API."""
    api = protocol_router(prefix="/v1", tags=["armorm"], responses=FAILURES)

    @api.post("/score", response_model_exclude_unset=True)
    async def score(body: ScoreBody, request: Request) -> ScoreAnswer:
        """Score conversations, or responses to one prompt.

        A conversation that cannot be scored fails alone: its result has `error` in place of
        `score`.
        """
        if body.conversations is not None:
            return await _score_conversations(service, body, body.conversations, request)
        return await _score_responses(service, body, request)

    @api.post("/compare", response_model_exclude_unset=True)
    async def compare(body: CompareBody, request: Request) -> CompareAnswer:
        """Compare two responses to one prompt: the preferred one, and what decided."""
        scored = await _score_prompt(service, body, body.prompt, [body.a, body.b], request)
        comparison = scored.model.comparison(scored.rewards).as_dict()
        a, b = _results(scored.model, scored.rewards, body.include)
        preferred, margin, probability = (
            comparison.pop(name) for name in ("preferred", "margin", "probability")
        )
        return CompareAnswer.model_validate(
            {
                **_head(service, [scored]),
                "preferred": preferred,
                "margin": margin,
                "probability": probability,
                "comparison": comparison,
                "a": a,
                "b": b,
            }
        )

    @api.post("/best-of", response_model_exclude_unset=True)
    async def best_of(body: BestOfBody, request: Request) -> BestOfAnswer:
        """Find the best of many responses to one prompt."""
        check_floors(body.floors, service.model.objectives.names)
        scored = await _score_prompt(service, body, body.prompt, body.responses, request)
        ranking = scored.rewards.ranking(body.floors)
        return BestOfAnswer.model_validate(
            {
                **_head(service, [scored]),
                "best": ranking[0],
                "ranking": ranking,
                "meets_floors": scored.rewards.meets(body.floors).tolist(),
                "results": list(_results(scored.model, scored.rewards, body.include)),
            }
        )

    @api.get("/objectives")
    async def objectives() -> ObjectivesAnswer:
        """List the objectives with their scales."""
        names = ObjectiveRecord.model_fields
        return ObjectivesAnswer(
            objectives=[
                ObjectiveRecord(**{name: getattr(objective, name) for name in names})
                for objective in service.model.objectives
            ]
        )

    @api.get("/model")
    async def model() -> ModelAnswer:
        """Describe the served model."""
        return model_answer(service)

    @api.get("/profiles")
    async def profiles() -> ProfilesAnswer:
        """List the steering profiles that a request may name."""
        return ProfilesAnswer(
            profiles={
                name: {**profile.as_dict(), "hash": profile.hash}
                for name, profile in service.profiles.items()
            }
        )

    return api


def model_answer(service: Service) -> ModelAnswer:
    """Return the description of the served model."""
    served = service.model
    return ModelAnswer(
        name=service.model_name,
        version=__version__,
        fingerprint=service.fingerprint,
        objectives=len(served.objectives),
        max_length=served.backbone.encoder.max_length,
        dtype=served.backbone.dtype,
        steering=served.steering.as_dict(),
        uncertainty=served.uncertainty is not None,
        probabilities=served.heads.beta is not None,
    )


async def _score_conversations(
    service: Service, body: ScoreBody, conversations: Sequence[list[Message]], request: Request
) -> ScoreAnswer:
    """Score conversations, each as a request of its own; equal prompts meet in the scheduler."""
    service.check_conversations(len(conversations))
    settings = _settings(service, body, request)
    answers: list[ArmormError | None] = []
    wanted = []
    for messages in conversations:
        try:
            wanted.append(service.conversation_request(_as_messages(messages), **settings))
            answers.append(None)
        except ArmormError as error:
            answers.append(error)
    scored = iter(await service.score_all(wanted))
    return _answer(service, body, [next(scored) if one is None else one for one in answers])


async def _score_responses(service: Service, body: ScoreBody, request: Request) -> ScoreAnswer:
    assert body.prompt is not None
    assert body.responses is not None
    wanted = service.prompt_request(
        _as_messages(body.prompt), body.responses, **_settings(service, body, request)
    )
    return _answer(service, body, await service.score_apart(wanted))


async def _score_prompt(
    service: Service,
    body: Body,
    prompt: str | list[Message],
    responses: Sequence[str],
    request: Request,
) -> ScoredRequest:
    """Score responses to one prompt, all or none."""
    settings = _settings(service, body, request)
    return await service.score(service.prompt_request(_as_messages(prompt), responses, **settings))


def _settings(service: Service, body: Body, request: Request) -> dict[str, Any]:
    """Return what the body asks of every conversation."""
    seconds = None if body.deadline_ms is None else body.deadline_ms / 1000
    uncertainty = bool({"uncertainty", "explanation"} & set(body.include))
    known = service.model.uncertainty is not None
    if "uncertainty" in body.include and not known:
        raise RecipeError(
            "include = 'uncertainty': the model folder holds no uncertainty. Ask without it."
        )
    return {
        "deadline": service.deadline(request, seconds),
        "steering": _steering(service, body.steering),
        "uncertainty": uncertainty and known,
    }


def _steering(
    service: Service, given: str | dict[str, Any] | None
) -> Steering | SteeringProfile | None:
    if isinstance(given, dict):
        return Steering.from_dict(given)
    return None if given is None else named_profile(service.profiles, given)


def _answer(
    service: Service, body: ScoreBody, answers: Sequence[ScoredRequest | ArmormError]
) -> ScoreAnswer:
    """Return the answer of a request, with the errors of items that fail alone.

    Raises:
        ArmormError: The server failed, or the steering, which all items share, cannot be used.
    """
    results: list[dict[str, Any]] = []
    for answer in answers:
        if isinstance(answer, ArmormError):
            failure = Failure.of(answer)
            if failure.status >= 500 or failure.details.get("field") == "steering":
                raise answer
            results.append({"error": {**failure.as_dict(), "code": failure.status}})
        else:
            results.extend(_results(answer.model, answer.rewards, body.include))
    scored = [answer for answer in answers if isinstance(answer, ScoredRequest)]
    return ScoreAnswer.model_validate({**_head(service, scored), "results": results})


def _head(service: Service, scored: Sequence[ScoredRequest]) -> dict[str, Any]:
    """Return the fields that every answer begins with."""
    model = scored[0].model if scored else service.model
    steering = scored[0].rewards.steering if scored else None
    profile = scored[0].rewards.profile if scored else None
    computed = [one.computed_tokens for one in scored]
    return {
        "model": service.model_name,
        "objectives": list(model.objectives.names),
        "steering": {} if steering is None else steering.as_dict(),
        **({} if profile is None else {"profile": profile.reference}),
        "usage": {
            "tokens": sum(one.tokens for one in scored),
            "computed_tokens": None
            if None in computed
            else sum(tokens for tokens in computed if tokens is not None),
        },
    }


def _results(
    model: RewardModel, rewards: Rewards, include: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the result of each response, with the parts that were asked for."""
    names = rewards.objectives
    tables = [part for part in _TABLES if part in include]
    columns = [getattr(rewards, part).tolist() for part in tables]
    sure = None
    if "uncertainty" in include and rewards.uncertainty is not None:
        sure = rewards.uncertainty.as_dicts(names)
    percentiles = model.percentiles(rewards) if "percentile" in include else None
    for row, score in enumerate(rewards.score.tolist()):
        result: dict[str, Any] = {"score": score}
        for part, column in zip(tables, columns, strict=True):
            result[part] = dict(zip(names, column[row], strict=True))
        if sure is not None:
            result |= sure[row]
        if "percentile" in include:
            result["percentile"] = None if percentiles is None else percentiles[row]
        if "explanation" in include:
            result["explanation"] = model.explanation(rewards.where(torch.tensor([row]))).as_dict()
        yield result


_TABLES = ("rewards", "gating", "coefficients", "contributions")


def _as_messages(messages: str | list[Message]) -> Any:
    if isinstance(messages, str):
        return messages
    return [{"role": message.role, "content": message.content} for message in messages]
