"""Scoring completions the way RL trainers hand them over: two lists, many completions a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from armorm.conversations import (
    EncodedPrompt,
    Message,
    OverlongError,
    located_in,
    prompt_key,
    validate_prompt,
)
from armorm.errors import InputError
from armorm.model import RewardModel, Rewards

Component = Literal["contributions", "rewards"]
"""What a per-objective reward is.

``contributions`` sum to the score: what an objective adds to it, gate and debiasing included.
``rewards`` are the objectives' unit rewards as regressed, for trainers that weigh them themselves.
"""


@dataclass(frozen=True, slots=True)
class ScoredCompletions:
    """Scores of a batch, in the order it was given.

    Attributes:
        rewards: Of the completions that could be scored. Row i belongs to ``positions[i]``.
        positions: Where they stand in the batch.
        size: Length of the batch.
    """

    rewards: Rewards | None
    positions: tuple[int, ...]
    size: int

    def scores(self) -> list[float | None]:
        """The score of each completion; ``None`` where it is too long to be read whole."""
        return self._spread([] if self.rewards is None else self.rewards.score.tolist())

    def components(self, component: Component) -> dict[str, list[float | None]]:
        """Objective name to one value per completion; ``None`` where there is none."""
        if self.rewards is None:
            return {}
        table = getattr(self.rewards, component).T.tolist()
        return {
            name: self._spread(column)
            for name, column in zip(self.rewards.objectives, table, strict=True)
        }

    def _spread(self, values: list[float]) -> list[float | None]:
        spread: list[float | None] = [None] * self.size
        for position, value in zip(self.positions, values, strict=True):
            spread[position] = value
        return spread


class CompletionScorer:
    """Scores batches of prompts and completions, each prompt's gate evaluated once.

    The last batch is remembered, so that several reward functions asked about the same batch
    share one forward pass.

    Args:
        model: The reward model; steered, if steering is wanted.
    """

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self._last: tuple[list[Any], list[Any], ScoredCompletions] | None = None

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> ScoredCompletions:
        """Score ``completions[i]`` as the answer to ``prompts[i]``.

        A prompt is a list of messages or the text of one user turn; a completion is text or a
        list with one assistant message.  An empty completion is scored as the model sees it: RL
        policies produce them.

        Raises:
            InputError: a prompt or completion of another form; ``row`` is its position.
        """
        given = (list(prompts), list(completions))
        if self._last is None or self._last[:2] != given:
            self._last = (*given, self._score(*given))
        return self._last[2]

    def _score(self, prompts: list[Any], completions: list[Any]) -> ScoredCompletions:
        if len(prompts) != len(completions):
            raise InputError(
                "completions",
                len(completions),
                f"there are {len(prompts)} prompts",
                "Give one prompt per completion.",
            )
        groups = _group_by_prompt(prompts, completions)
        encoded: list[EncodedPrompt] = []
        positions: list[int] = []
        for prompt, members in groups:
            for position, text in members:
                conversation = encode_if_it_fits(self.model, prompt, [text])
                if conversation is not None:
                    encoded.append(conversation)
                    positions.append(position)
        if not encoded:
            return ScoredCompletions(None, (), len(prompts))
        rewards = self.model.score_encoded(encoded, keep_nonfinite=True)
        finite = rewards.finite
        kept = tuple(itertools.compress(positions, finite.tolist()))
        return ScoredCompletions(rewards.where(finite), kept, len(prompts))


def encode_if_it_fits(
    model: RewardModel, prompt: Sequence[Message], responses: Sequence[str]
) -> EncodedPrompt | None:
    """The ids of a prompt with its responses; ``None`` where one is longer than the model reads."""
    try:
        return model.backbone.encoder.encode(prompt, responses)
    except OverlongError:
        return None


def completion_text(value: object) -> str:
    """The text of a completion: text, or a list with one assistant message. It may be empty.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        message = value[0]
        if isinstance(message, dict) and message.get("role") == "assistant":
            value = message.get("content") or ""
    if not isinstance(value, str):
        raise InputError(
            "", value, "not text, nor a list with one assistant message", "Send the text alone."
        )
    return value


def _group_by_prompt(
    prompts: list[Any], completions: list[Any]
) -> list[tuple[tuple[Message, ...], list[tuple[int, str]]]]:
    groups: dict[str, tuple[tuple[Message, ...], list[tuple[int, str]]]] = {}
    for position, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            messages = located_in("prompt", validate_prompt, prompt)
            text = located_in("completion", completion_text, completion)
        except InputError as error:
            raise error.at(None, position + 1) from None
        groups.setdefault(prompt_key(messages), (messages, []))[1].append((position, text))
    return list(groups.values())
