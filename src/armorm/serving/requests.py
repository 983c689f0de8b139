"""Requests to the reward server, as its protocols hand them to the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from armorm.conversations import Conversation, EncodedPrompt
from armorm.errors import ArmormError
from armorm.model import RewardModel, Rewards, Steering, SteeringProfile


class QueueFullError(ArmormError):
    """A request that was refused because too much work is waiting.

    Attributes:
        retry_after: Seconds after which a new attempt is likely to be taken.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DrainingError(QueueFullError):
    """A request that arrived while the server finishes its work and stops."""


class DeadlineError(ArmormError):
    """A request whose time ran out before it was scored."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Responses to one prompt, which share its computation.

    Attributes:
        prompt: Messages up to and including the last user turn, checked
            (:func:`armorm.conversations.validate_prompt`).
        responses: Texts, which may be empty: RL policies produce such responses.
        steering: Steering of this request, or a profile; ``None`` scores as the served model is
            steered.
        uncertainty: Also return standard deviations and novelty.
        deadline: Time on the clock of ``time.monotonic`` after which nobody waits for the answer.
        ids: Token ids of one whole conversation in the model's own template, in place of messages:
            the prompt is then empty, and the response one empty text.
    """

    prompt: Conversation
    responses: tuple[str, ...]
    steering: Steering | SteeringProfile | None = None
    uncertainty: bool = False
    deadline: float | None = None
    ids: tuple[int, ...] | None = None

    @classmethod
    def of_ids(cls, ids: Sequence[int], deadline: float | None = None) -> ScoreRequest:
        """Return the request to score token ids."""
        return cls((), ("",), deadline=deadline, ids=tuple(ids))

    def encoded(self, model: RewardModel) -> EncodedPrompt:
        """Return the conversations as token ids of a model.

        Raises:
            InputError: The template refuses a text, or ids have no certain boundary.
            OverlongError: A conversation is longer than the model reads.
        """
        if self.ids is not None:
            return model.encode_ids(self.ids)
        return model.backbone.encoder.encode(self.prompt, self.responses)


@dataclass(frozen=True, slots=True)
class ScoredRequest:
    """Answer to a :class:`ScoreRequest`.

    Attributes:
        rewards: One row for each response, in order; all finite.
        model: The model that scored it, which a hot swap may have replaced since.
        tokens: Tokens of all conversations, each counted whole.
        computed_tokens: Tokens that the request put through the model; the tokens of a prompt that
            several requests share count for one of them. ``None`` if the engine does not say.
        queued_seconds: Time between arrival and the start of its batch.
        features: Features of the responses, for the drift monitor. Shape (n, hidden).
    """

    rewards: Rewards
    model: RewardModel
    tokens: int
    computed_tokens: int | None
    queued_seconds: float
    features: Float[Tensor, "n hidden"] | None = None


@runtime_checkable
class RequestScorer(Protocol):
    """Interface between protocols and the scheduler.

    A request is scored as a whole or fails as a whole: protocols that carry several conversations
    send one request for each prompt, concurrently, so that a faulty one fails alone.
    """

    @property
    def model(self) -> RewardModel:
        """The model that new requests are scored by."""

    async def score(self, request: ScoreRequest) -> ScoredRequest:
        """Score the responses of one request.

        Cancelling the call takes the request out of the queue.

        Raises:
            InputError: The request cannot be scored (``OverlongError`` where it is too long,
                ``NonFiniteError`` where a score is not a finite number).
            QueueFullError: Too much work is waiting, or the server is stopping.
            DeadlineError: The deadline passed.
        """
