"""Scores of completions in the form of RL trainers: two lists, many completions to a prompt."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from armorm.conversations import (
    EncodedPrompt,
    Message,
    OverlongError,
    located_in,
    validate_prompt,
)
from armorm.conversations.messages import validate_text
from armorm.errors import ArmormError, InputError
from armorm.evaluation.monitoring import DriftReporter, Observation
from armorm.integrations.components import ComponentKind, GroupComponents, group_components
from armorm.model import RewardModel, Rewards, Risk


@dataclass(frozen=True, slots=True)
class ScoredCompletions:
    """Scores of a batch, in the order of the batch.

    Attributes:
        rewards: Scores of the completions that have one. Row i belongs to ``positions[i]``.
        positions: Their positions in the batch.
        groups: Group of each of the rewards: the same for equal prompts.
        size: Length of the batch.
        refused: Error of each completion without a score, by position: it is too long, its score
            is not a finite number, or the reward server did not answer.
    """

    rewards: Rewards | None
    positions: tuple[int, ...]
    groups: tuple[int, ...]
    size: int
    refused: Mapping[int, ArmormError]

    def scores(self) -> list[float | None]:
        """Return the score of each completion, less its price; ``None`` where there is none."""
        return self.spread(self._values())

    def all_scores(self, field: str) -> list[float]:
        """Return the score of each completion.

        Raises:
            InputError: A completion has none; it is named by ``field`` and its one-based position.
            ArmormError: The reward server did not answer.
        """
        for position in sorted(self.refused):
            error = self.refused[position]
            if isinstance(error, InputError):
                raise replace(error, field=field, row=position + 1)
            raise error
        return self._values()

    def _values(self) -> list[float]:
        if self.rewards is None:
            return []
        pessimistic = self.rewards.pessimistic
        return (self.rewards.score if pessimistic is None else pessimistic).tolist()

    def components(self, kind: ComponentKind) -> GroupComponents:
        """Return components of the completions that have a score."""
        if self.rewards is None:
            return GroupComponents({}, {})
        return group_components(self.rewards, self.groups, kind)

    def spread(self, values: Sequence[float]) -> list[float | None]:
        """Return one value per completion of the batch; ``None`` where there is no score."""
        spread: list[float | None] = [None] * self.size
        for position, value in zip(self.positions, values, strict=True):
            spread[position] = value
        return spread


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of a batch.

    Attributes:
        prompt: Messages.
        text: The completion; empty ones are scored like any other, since RL policies produce them.
        group: Number of its prompt in the batch.
    """

    prompt: tuple[Message, ...]
    text: str
    group: int


class BatchScorer(ABC):
    """Scorer of batches of prompts and completions.

    The last batch is remembered, so that several reward functions that are asked about the same
    batch share the computation.  It may be called from several threads.

    Args:
        monitor: Reporter of drift, for the functions that log its alarms.
    """

    def __init__(self, monitor: DriftReporter | None = None) -> None:
        self.monitor = monitor
        self._last: tuple[list[Any], list[Any], ScoredCompletions] | None = None

    @abstractmethod
    def objectives(self) -> tuple[str, ...]:
        """Return the names of the objectives."""

    @abstractmethod
    def _score(self, batch: Sequence[Completion]) -> ScoredCompletions: ...

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> ScoredCompletions:
        """Score ``completions[i]`` as the answer to ``prompts[i]``.

        A prompt is a list of messages or the text of one user turn; a completion is text or a
        list with one assistant message.

        Raises:
            InputError: A prompt or completion of another form; ``row`` is its position.
        """
        given = (list(prompts), list(completions))
        last = self._last  # read once: another thread may replace it at any time
        if last is not None and last[:2] == given:
            return last[2]
        scored = self._score(_read(*given))
        self._last = (*given, scored)
        return scored


class CompletionScorer(BatchScorer):
    """Scorer of batches with a model in this process: one forward pass per prompt.

    Args:
        model: The reward model, with its steering.
        risk: See :meth:`armorm.RewardModel.score_responses`.
        monitor: Reporter of drift, which is given each batch as a step.
        in_batches: False if batches are single completions, which the reporter gathers into steps.
    """

    def __init__(
        self,
        model: RewardModel,
        risk: Risk | float | None = None,
        monitor: DriftReporter | None = None,
        *,
        in_batches: bool = True,
    ) -> None:
        super().__init__(monitor)
        self.model = model
        self.risk = Risk.of(risk)
        self._watch = None if monitor is None else monitor.observe if in_batches else monitor.offer

    def objectives(self) -> tuple[str, ...]:
        """Return the names of the objectives."""
        return self.model.objectives.names

    def _score(self, batch: Sequence[Completion]) -> ScoredCompletions:
        encoder = self.model.backbone.encoder
        encoded: list[EncodedPrompt] = []
        positions: list[int] = []
        refused: dict[int, ArmormError] = {}
        for position, one in enumerate(batch):
            try:
                encoded.append(encoder.encode(one.prompt, [one.text]))
                positions.append(position)
            except OverlongError as error:
                reason = f"longer than {encoder.max_length} tokens"
                refused[position] = replace(error, value=one.text, reason=reason)
            except InputError as error:
                raise error.at(None, position + 1) from None
        if not encoded:
            return ScoredCompletions(None, (), (), len(batch), refused)
        predictions = self.model.predict(encoded)
        rewards = self.model.weigh(predictions, risk=self.risk, keep_nonfinite=True)
        if self._watch is not None:
            features = predictions.features[list(predictions.responses)].float().cpu().numpy()
            asked = [batch[position].prompt for position in positions]
            texts = [batch[position].text for position in positions]
            self._watch(Observation.of(rewards, asked, texts, features=features))
        finite = rewards.finite.tolist()
        for position, score, good in zip(positions, rewards.score.tolist(), finite, strict=True):
            if not good:
                refused[position] = InputError(
                    "score", score, "not a finite number", "Load the model in float32 or bfloat16."
                )
        kept = tuple(itertools.compress(positions, finite))
        groups = tuple(batch[position].group for position in kept)
        return ScoredCompletions(rewards.where(rewards.finite), kept, groups, len(batch), refused)


def _read(prompts: Sequence[Any], completions: Sequence[Any]) -> list[Completion]:
    """Read a batch.

    Raises:
        InputError: A prompt or completion of another form, or not as many of one as of the other.
    """
    if len(prompts) != len(completions):
        raise InputError(
            "completions",
            len(completions),
            f"there are {len(prompts)} prompts",
            "Give one prompt per completion.",
        )
    groups: dict[str, int] = {}
    batch: list[Completion] = []
    for position, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            messages = tuple(located_in("prompt", validate_prompt, prompt))
            text = located_in("completion", completion_text, completion)
        except InputError as error:
            raise error.at(None, position + 1) from None
        batch.append(Completion(messages, text, groups.setdefault(repr(messages), len(groups))))
    return batch


def completion_text(value: object) -> str:
    """Return the text of a completion, which may be empty.

    Args:
        value: Text, or a list with one assistant message.

    Raises:
        InputError: Anything else, or a text that no tokenizer can take.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        message = value[0]
        if isinstance(message, dict) and message.get("role") == "assistant":
            value = message.get("content") or ""
    if not isinstance(value, str):
        raise InputError(
            "", value, "not text, nor a list with one assistant message", "Send the text alone."
        )
    return validate_text(value)
