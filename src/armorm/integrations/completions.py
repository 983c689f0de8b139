"""Scores of completions in the form of RL trainers: two lists, many completions to a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from armorm.conversations import EncodedPrompt, OverlongError, located_in, validate_prompt
from armorm.conversations.messages import validate_text
from armorm.errors import InputError
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
        refused: Error of each completion without a score, by position: it is too long, or its
            score is not a finite number.
    """

    rewards: Rewards | None
    positions: tuple[int, ...]
    groups: tuple[int, ...]
    size: int
    refused: Mapping[int, InputError]

    def scores(self) -> list[float | None]:
        """Return the score of each completion, less its price; ``None`` where there is none."""
        return self.spread(self._values())

    def all_scores(self, field: str) -> list[float]:
        """Return the score of each completion.

        Raises:
            InputError: A completion has none; it is named by ``field`` and its one-based position.
        """
        for position in sorted(self.refused):
            raise replace(self.refused[position], field=field, row=position + 1)
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


class CompletionScorer:
    """Scorer of batches of prompts and completions, with one forward pass per prompt.

    The last batch is remembered, so that several reward functions that are asked about the same
    batch share the computation.  It may be called from several threads.

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
        self.model = model
        self.risk = Risk.of(risk)
        self.monitor = monitor
        self._watch = None if monitor is None else monitor.observe if in_batches else monitor.offer
        self._last: tuple[list[Any], list[Any], ScoredCompletions] | None = None

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> ScoredCompletions:
        """Score ``completions[i]`` as the answer to ``prompts[i]``.

        A prompt is a list of messages or the text of one user turn; a completion is text or a
        list with one assistant message.  An empty completion is scored like any other, since RL
        policies produce them.

        Raises:
            InputError: A prompt or completion of another form; ``row`` is its position.
        """
        given = (list(prompts), list(completions))
        last = self._last  # read once: another thread may replace it at any time
        if last is not None and last[:2] == given:
            return last[2]
        scored = self._score(*given)
        self._last = (*given, scored)
        return scored

    def _score(self, prompts: list[Any], completions: list[Any]) -> ScoredCompletions:
        if len(prompts) != len(completions):
            raise InputError(
                "completions",
                len(completions),
                f"there are {len(prompts)} prompts",
                "Give one prompt per completion.",
            )
        encoded: list[EncodedPrompt] = []
        positions: list[int] = []
        groups: dict[str, int] = {}
        group: list[int] = []
        refused: dict[int, InputError] = {}
        for position, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                messages = located_in("prompt", validate_prompt, prompt)
                text = located_in("completion", completion_text, completion)
                encoded.append(self.model.backbone.encoder.encode(messages, [text]))
                positions.append(position)
                group.append(groups.setdefault(repr(messages), len(groups)))
            except OverlongError as error:
                reason = f"longer than {self.model.backbone.encoder.max_length} tokens"
                refused[position] = replace(error, value=text, reason=reason)
            except InputError as error:
                raise error.at(None, position + 1) from None
        if not encoded:
            return ScoredCompletions(None, (), (), len(prompts), refused)
        predictions = self.model.predict(encoded)
        rewards = self.model.weigh(predictions, risk=self.risk, keep_nonfinite=True)
        if self._watch is not None:
            features = predictions.features[list(predictions.responses)].float().cpu().numpy()
            asked = [prompts[position] for position in positions]
            texts = [completion_text(completions[position]) for position in positions]
            self._watch(Observation.of(rewards, asked, texts, features=features))
        finite = rewards.finite.tolist()
        for position, score, good in zip(positions, rewards.score.tolist(), finite, strict=True):
            if not good:
                refused[position] = InputError(
                    "score", score, "not a finite number", "Load the model in float32 or bfloat16."
                )
        kept = tuple(itertools.compress(positions, finite))
        scored = rewards.where(rewards.finite)
        kept_groups = tuple(itertools.compress(group, finite))
        return ScoredCompletions(scored, kept, kept_groups, len(prompts), refused)


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
