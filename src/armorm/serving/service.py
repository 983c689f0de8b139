"""The service behind every protocol: requests within the limits, scored by their deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.requests import Request

from armorm.conversations import (
    Conversation,
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.conversations.messages import validate_text
from armorm.errors import ArmormError, InputError
from armorm.model import RewardModel, Steering, SteeringProfile
from armorm.serving.failures import LimitError
from armorm.serving.options import ServerOptions
from armorm.serving.requests import RequestScorer, ScoredRequest, ScoreRequest

DEADLINE_HEADER = "X-Deadline-Ms"


class Service:
    """The service that native API and protocols share.

    Args:
        scorer: Scores requests; the scheduler of a running server.
        options: Limits and names.
        profiles: Profiles by name, beside those that are saved with the model.
        model_name: Name of the model. Default: the name of its folder.

    Attributes:
        scorer: See the argument.
        options: See the argument.
        model_name: Name of the model in answers: that of the options, if they have one.
        fingerprint: Hash of all that a score depends on; reading it takes a while.
        draining: True once the server stops, so that load balancers send it nothing more.
    """

    def __init__(
        self,
        scorer: RequestScorer,
        options: ServerOptions | None = None,
        profiles: Mapping[str, SteeringProfile] | None = None,
        model_name: str | None = None,
    ) -> None:
        self.scorer = scorer
        self.options = options or ServerOptions()
        self._profiles = dict(profiles or {})
        folder = scorer.model.backbone.folder
        self.model_name = self.options.served_name or model_name or folder.name
        self.fingerprint = scorer.model.fingerprint()
        self.draining = False

    @property
    def model(self) -> RewardModel:
        """The model that new requests are scored by."""
        return self.scorer.model

    @property
    def profiles(self) -> dict[str, SteeringProfile]:
        """Profiles that a request may name: the model's, and those the server was started with."""
        return {**self.model.profiles, **self._profiles}

    def deadline(self, request: Request, seconds: float | None = None) -> float:
        """Return the time, on the clock of ``time.monotonic``, by which to answer a request.

        Args:
            request: The request; its header ``X-Deadline-Ms`` holds the milliseconds that the
                client waits.
            seconds: Seconds that the body asks for; they take the place of the header.

        Raises:
            InputError: The header is no positive number.
        """
        if seconds is None:
            seconds = _milliseconds(request.headers.get(DEADLINE_HEADER))
        arrived: float = getattr(request.state, "arrived", None) or time.monotonic()
        asked = self.options.deadline if seconds is None else seconds
        return arrived + min(asked, self.options.max_deadline)

    def check_conversations(self, count: int) -> None:
        """Raise :class:`LimitError` if a request holds too many conversations."""
        limit = self.options.max_conversations
        if count > limit:
            raise LimitError(
                "conversations", count, limit, "--max-conversations", "Send several requests."
            )

    def check_responses(self, count: int) -> None:
        """Raise :class:`LimitError` if a prompt has too many responses."""
        limit = self.options.max_responses
        if count > limit:
            raise LimitError("responses", count, limit, "--max-responses", "Send several requests.")

    def check_messages(self, count: int) -> None:
        """Raise :class:`LimitError` if a conversation has too many messages."""
        limit = self.options.max_messages
        if count > limit:
            raise LimitError("messages", count, limit, "--max-messages", "Shorten it.")

    def prompt_request(
        self,
        prompt: Conversation | str,
        responses: Sequence[str],
        *,
        deadline: float,
        steering: Steering | SteeringProfile | None = None,
        uncertainty: bool = False,
        empty_responses: bool = False,
    ) -> ScoreRequest:
        """Return the request to score responses to one prompt, checked.

        Args:
            prompt: Messages up to and including the last user turn, or its text.
            responses: Texts.
            deadline: See :meth:`deadline`.
            steering: Steering of this request, or a profile.
            uncertainty: Also return standard deviations and novelty.
            empty_responses: Allow responses without text, which RL policies produce.

        Raises:
            InputError: A message or response cannot be judged; the error names the field.
            LimitError: There are too many messages or responses.
        """
        self.check_responses(len(responses))
        if not isinstance(prompt, str):
            self.check_messages(len(prompt) + 1)
        check = validate_text_of if empty_responses else validate_response
        return ScoreRequest(
            prompt=located_in("prompt", validate_prompt, prompt),
            responses=tuple(
                located_in(f"responses[{i}]", check, text) for i, text in enumerate(responses)
            ),
            steering=steering,
            uncertainty=uncertainty,
            deadline=deadline,
        )

    def conversation_request(
        self,
        messages: Conversation,
        *,
        deadline: float,
        steering: Steering | SteeringProfile | None = None,
        uncertainty: bool = False,
    ) -> ScoreRequest:
        """Return the request to score one conversation, which ends with the assistant's turn.

        Raises:
            InputError: A message cannot be judged; the error names the field.
            LimitError: There are too many messages.
        """
        self.check_messages(len(messages))
        prompt, response = located_in("messages", validate_conversation, messages)
        return ScoreRequest(prompt, (response,), steering, uncertainty, deadline)

    async def score(self, request: ScoreRequest) -> ScoredRequest:
        """Score the responses of one request by its deadline.

        Raises:
            ArmormError: See :meth:`armorm.serving.requests.RequestScorer.score`.
        """
        return await self.scorer.score(request)

    async def score_all(
        self, requests: Sequence[ScoreRequest]
    ) -> list[ScoredRequest | ArmormError]:
        """Score requests concurrently; return an error in place of each answer that failed.

        Errors that nobody foresaw are raised.
        """
        answers = await asyncio.gather(*map(self.score, requests), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, ArmormError):
                raise answer
        return list(answers)  # type: ignore[arg-type]

    async def score_apart(self, request: ScoreRequest) -> list[ScoredRequest | ArmormError]:
        """Score the responses of one request so that a faulty one fails alone.

        Returns:
            One answer with all responses; or, if the request fails for what it holds, one answer
            or error for each response.
        """
        [whole] = await self.score_all([request])
        if not isinstance(whole, InputError) or len(request.responses) == 1:
            return [whole]
        return await self.score_all(
            [replace(request, responses=(response,)) for response in request.responses]
        )


def validate_text_of(value: object) -> str:
    """Return a response, given as text, which may be empty.

    Raises:
        InputError: It is no text, or holds half a character.
    """
    if not isinstance(value, str):
        raise InputError("", value, "not text", "Send the text of the response.")
    return validate_text(value)


def _milliseconds(header: str | None) -> float | None:
    """Return the seconds that a header asks for."""
    if header is None:
        return None
    try:
        milliseconds = int(header)
    except ValueError:
        milliseconds = 0
    if milliseconds <= 0:
        raise InputError(DEADLINE_HEADER, header, "not a positive whole number", "")
    return milliseconds / 1000
