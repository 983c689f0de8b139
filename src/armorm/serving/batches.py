"""Requests as the model takes them, and the answers of a batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from armorm.conversations import EncodedPrompt
from armorm.errors import ArmormError, InputError, NonFiniteError, RecipeError
from armorm.model import Predictions, RewardModel, Rewards
from armorm.serving.queueing import PreparedRequest, WaitingRequest
from armorm.serving.requests import ScoredRequest, ScoreRequest

logger = logging.getLogger(__name__)

Outcome = ScoredRequest | Exception


def prepare(request: ScoreRequest, model: RewardModel) -> PreparedRequest:
    """Check a request and encode it for a model.

    Raises:
        InputError: The template refuses a text, or the steering cannot be used.
        OverlongError: A conversation is longer than the model reads.
    """
    if request.uncertainty and model.uncertainty is None:
        raise InputError(
            "uncertainty", True, "the served model does not know how sure it is", "Leave it out."
        )
    steered = model
    if request.steering is not None:
        try:
            steered = model.steer_by(request.steering)
        except RecipeError as error:
            knobs = request.steering.as_dict()
            raise InputError("steering", knobs, str(error).rstrip("."), "") from None
    encoded = request.encoded(model)
    return PreparedRequest(request, model, steered, encoded, encoded.prompt_ids, encoded.tokens)


class BatchRun:
    """Computation of one batch.

    Args:
        model: The served model.
        invariant: Compute each conversation by itself.

    Attributes:
        begun: Time of its start, on the clock of ``time.monotonic``.
        retried: True if requests were computed one by one after an error.
        failed: Number of requests that got an error.
        computed_tokens: Tokens that went through the model; ``None`` if the engine does not say.
    """

    def __init__(self, model: RewardModel, *, invariant: bool) -> None:
        self.begun = time.monotonic()
        self.retried = False
        self.failed = 0
        self.computed_tokens: int | None = 0
        self._model = model
        self._invariant = invariant

    def outcomes(self, batch: Sequence[WaitingRequest]) -> Iterator[tuple[WaitingRequest, Outcome]]:
        """Yield each request with its answer or its error, as soon as it is known."""
        groups = [[waiting] for waiting in batch] if self._invariant else [batch]
        for group in groups:
            for waiting, outcome in self._outcomes(group):
                self._count(outcome)
                yield waiting, outcome

    def _outcomes(
        self, group: Sequence[WaitingRequest]
    ) -> Iterator[tuple[WaitingRequest, Outcome]]:
        """Answer requests together, or one by one if that fails, so that a faulty one fails alone.

        An error may come from any of them: memory that does not suffice, or a conversation that the
        model cannot compute.
        """
        try:
            outcomes = self._score(group)
        except Exception as error:  # noqa: BLE001
            if len(group) > 1:
                logger.warning(
                    "A batch of %d requests is computed one by one: %r", len(group), error
                )
                self.retried = True
                for waiting in group:
                    if not waiting.abandoned:
                        yield from self._outcomes([waiting])
                return
            outcomes = [_as_answer(error)]
        yield from zip(group, outcomes, strict=True)

    def _score(self, group: Sequence[WaitingRequest]) -> list[Outcome]:
        # After a hot swap, what was encoded for the old model is encoded again.
        prepared = [
            one.prepared
            if one.prepared.model is self._model
            else prepare(one.prepared.request, self._model)
            for one in group
        ]
        if self._invariant:
            parts = [self._predict_rows(one.encoded) for one in prepared]
        else:
            encoded = [one.encoded for one in prepared]
            parts = [[part] for part in self._model.predict(encoded).split()]
        return [self._weigh(*of_one) for of_one in zip(group, prepared, parts, strict=True)]

    def _predict_rows(self, encoded: EncodedPrompt) -> list[Predictions]:
        """Predict each conversation by itself: kernels round a row by what else they compute."""
        return [
            self._model.predict([EncodedPrompt((ids,), encoded.boundary)])
            for ids in encoded.sequences
        ]

    def _weigh(
        self, waiting: WaitingRequest, prepared: PreparedRequest, parts: Sequence[Predictions]
    ) -> Outcome:
        uncertainty = prepared.request.uncertainty
        try:
            rewards = Rewards.join(
                prepared.steered.weigh(part, uncertainty=uncertainty, keep_nonfinite=True)
                for part in parts
            )
            rewards.check_finite()
        except NonFiniteError as error:
            return replace(error, field=f"responses[{error.positions[0]}]", row=None)
        except ArmormError as error:
            return error
        computed = [part.computed_tokens for part in parts]
        return ScoredRequest(
            rewards,
            self._model,
            prepared.tokens,
            None if None in computed else sum(map(sum, computed)),  # type: ignore[arg-type]
            self.begun - waiting.arrived,
            torch.cat([part.features[list(part.responses)] for part in parts]),
        )

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.failed += 1
        elif outcome.computed_tokens is None or self.computed_tokens is None:
            self.computed_tokens = None
        else:
            self.computed_tokens += outcome.computed_tokens


def _as_answer(error: Exception) -> Exception:
    """Return the error that a client may see."""
    if isinstance(error, ArmormError):
        return error
    logger.error("A request failed", exc_info=error)
    return ArmormError(
        f"The model failed on this request ({type(error).__name__}). The server's log says more."
    )
