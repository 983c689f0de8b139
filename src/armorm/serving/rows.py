"""Requests of several rows, as RL trainers and inference servers send them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from armorm.conversations import Conversation, located_in, validate_conversation
from armorm.conversations.markup import parse_conversation
from armorm.conversations.own_template import template_parser
from armorm.errors import ArmormError, InputError
from armorm.model import Rewards
from armorm.serving.requests import ScoredRequest, ScoreRequest
from armorm.serving.service import Service

Given = TypeVar("Given")
Parsed = tuple[Conversation | str, str]
"""A prompt, as messages or as the text of one user turn, and a response to it."""


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Scores of all rows of a request, in order.

    Attributes:
        rewards: One row for each row of the request.
        tokens: Tokens of all conversations, each counted whole.
    """

    rewards: Rewards
    tokens: int

    @property
    def scores(self) -> list[float]:
        """The score of each row."""
        scores: list[float] = self.rewards.score.tolist()
        return scores

    @property
    def vectors(self) -> list[list[float]]:
        """The numbers of vLLM's ``classify``: k rewards, k gating coefficients, then the score."""
        found = self.rewards
        table = torch.cat([found.rewards, found.gating, found.score[:, None]], dim=1)
        vectors: list[list[float]] = table.tolist()
        return vectors


async def rows_as_requests(
    service: Service, rows: Sequence[Given], parse: Callable[[Given], Parsed], deadline: float
) -> list[ScoreRequest]:
    """Return one request for each row, parsed off the event loop.

    Raises:
        InputError: A row cannot be judged; it is named by its one-based position.
        LimitError: There are too many rows.
    """
    service.check_conversations(len(rows))
    if not rows:
        raise InputError("rows", [], "no rows", "Send at least one.")

    def requests() -> list[ScoreRequest]:
        return [request_of(position, row) for position, row in enumerate(rows)]

    def request_of(position: int, row: Given) -> ScoreRequest:
        try:
            prompt, response = parse(row)
            return service.prompt_request(
                prompt, [response], deadline=deadline, empty_responses=True
            )
        except InputError as error:
            raise _at(error, position, len(rows)) from None

    return await asyncio.to_thread(requests)


async def texts_as_requests(
    service: Service, texts: Sequence[str], deadline: float
) -> list[ScoreRequest]:
    """Return one request for each rendered conversation.

    Raises:
        InputError: A text is in no known template; its row is named.
    """
    own = template_parser(service.model.backbone.encoder)
    return await rows_as_requests(
        service, texts, lambda text: parse_conversation(text, own), deadline
    )


async def conversations_as_requests(
    service: Service, conversations: Sequence[Any], deadline: float
) -> list[ScoreRequest]:
    """Return one request for each conversation of messages.

    Raises:
        InputError: A message cannot be judged; its row is named.
    """

    def split(messages: Any) -> Parsed:
        service.check_messages(len(messages))
        if messages and messages[-1] == {"role": "assistant", "content": ""}:
            return messages[:-1], ""  # RL policies produce such responses
        return located_in("messages", validate_conversation, messages)

    return await rows_as_requests(service, conversations, split, deadline)


def ids_as_requests(
    service: Service, rows: Sequence[Sequence[int]], deadline: float
) -> list[ScoreRequest]:
    """Return one request for each conversation of token ids.

    The scheduler finds the boundary by the model's rule, or refuses the row.
    """
    service.check_conversations(len(rows))
    return [ScoreRequest.of_ids(ids, deadline) for ids in rows]


async def score_rows(service: Service, rows: Sequence[ScoreRequest]) -> ScoredRows:
    """Score all rows or none; rows with the same prompt share one request.

    Raises:
        InputError: A row cannot be scored; it is named by its one-based position.
        ArmormError: See :meth:`armorm.serving.requests.RequestScorer.score`.
    """
    groups = _by_prompt(rows)
    requests = [_joined([rows[i] for i in group]) for group in groups]
    answers = await asyncio.gather(*map(service.score_apart, requests))
    order = [position for group in groups for position in group]
    found: list[ScoredRequest] = []
    errors: dict[int, ArmormError] = {}
    for group, parts in zip(groups, answers, strict=True):
        for i, part in enumerate(parts):
            if isinstance(part, ArmormError):
                errors[group[i]] = part
            else:
                found.append(part)
    if errors:
        raise _first(errors, len(rows))
    if len({one.rewards.objectives for one in found}) > 1:
        raise ArmormError("The model was replaced while the request ran. Send it again.")
    joined = Rewards.join(one.rewards for one in found)
    restored = torch.tensor(order).argsort()
    return ScoredRows(joined.where(restored), sum(one.tokens for one in found))


def _by_prompt(rows: Sequence[ScoreRequest]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for position, row in enumerate(rows):
        key: object = tuple((one["role"], one["content"]) for one in row.prompt)
        groups.setdefault(key if row.ids is None else position, []).append(position)
    return list(groups.values())


def _joined(rows: Sequence[ScoreRequest]) -> ScoreRequest:
    responses = tuple(response for row in rows for response in row.responses)
    return replace(rows[0], responses=responses)


def _first(errors: dict[int, ArmormError], count: int) -> ArmormError:
    """Return the error of the first row that holds a fault of its own, else the first one."""
    faulty = [row for row in sorted(errors) if isinstance(errors[row], InputError)]
    row = (faulty or sorted(errors))[0]
    error = errors[row]
    return _at(error, row, count) if isinstance(error, InputError) else error


def _at(error: InputError, position: int, count: int) -> InputError:
    """Return an error that names its row, where there are several."""
    return error.at(None, position + 1) if count > 1 else error
