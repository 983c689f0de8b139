"""Scores of rows in memory: preference pairs, and prompts with any number of responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from armorm.conversations import Conversation, EncodedPrompt, OverlongError
from armorm.data import InvalidPolicy
from armorm.errors import InputError
from armorm.model import RewardModel
from armorm.progress import progress_bar

ROWS_AT_ONCE = 256


@runtime_checkable
class Answered(Protocol):
    """A prompt with responses that are scored together."""

    @property
    def prompt(self) -> Conversation:
        """Messages up to and including the last user turn."""

    @property
    def responses(self) -> Sequence[str]:
        """Texts of the responses."""

    @property
    def id(self) -> str:
        """Name of the row in messages; may be empty."""


Row = TypeVar("Row", bound=Answered)


@dataclass(frozen=True, slots=True)
class ScoredRow(Generic[Row]):
    """A row with the scores of its responses, in their order."""

    row: Row
    scores: tuple[float, ...]

    @property
    def margin(self) -> float:
        """Score of the first response minus score of the second."""
        return self.scores[0] - self.scores[1]


@dataclass(slots=True)
class ScoredRows(Generic[Row]):
    """Scored rows, and an account of those without scores.

    Attributes:
        rows: The scored rows, in order.
        too_long: Number of rows that the model cannot read whole.
        invalid: Errors of the rows that the chat template refuses, or that have no finite score.
    """

    rows: list[ScoredRow[Row]] = field(default_factory=list)
    too_long: int = 0
    invalid: list[dict[str, Any]] = field(default_factory=list)


def score_all(
    model: RewardModel,
    rows: Sequence[Row],
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> ScoredRows[Row]:
    """Score all responses of every row.

    Args:
        model: The model. Under its backbone's policy ``error`` a row that is too long is an error;
            under the other policies it is counted.
        rows: Prompts with responses.
        invalid: ``error`` stops at the first row without scores; ``skip`` counts and lists them.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row has no scores, and ``invalid`` is ``error``.
    """
    scored: ScoredRows[Row] = ScoredRows()
    with progress_bar("evaluate", len(rows), "rows", show_progress) as advance:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            _score_chunk(model, chunk, start, invalid, scored)
            advance(len(chunk))
    return scored


def _score_chunk(
    model: RewardModel,
    chunk: Sequence[Row],
    start: int,
    invalid: InvalidPolicy,
    scored: ScoredRows[Row],
) -> None:
    encoder = model.backbone.encoder
    kept: list[tuple[int, Row, EncodedPrompt]] = []

    def refuse(number: int, row: Row, error: InputError) -> None:
        located = error.at(f"pair {row.id}" if row.id else f"pair {number + 1}", None)
        if invalid == "error":
            raise located from None
        scored.invalid.append(located.as_dict())

    for number, row in enumerate(chunk, start=start):
        try:
            kept.append((number, row, encoder.encode(row.prompt, row.responses)))
        except OverlongError as error:
            if encoder.overlong == "error":
                refuse(number, row, error)
            else:
                scored.too_long += 1
        except InputError as error:
            refuse(number, row, error)
    if not kept:
        return
    rewards = model.score_encoded([encoded for _, _, encoded in kept], keep_nonfinite=True)
    parts = rewards.split([len(encoded.sequences) for _, _, encoded in kept])
    for (number, row, _), mine in zip(kept, parts, strict=True):
        scores = tuple(mine.score.tolist())
        if mine.finite.all():
            scored.rows.append(ScoredRow(row, scores))
        else:
            refuse(number, row, replace(NO_SCORE, value=scores))


NO_SCORE = InputError(
    "score",
    None,
    "not a finite number",
    "The model overflows on this text: load it in float32 or bfloat16 (--dtype).",
)
