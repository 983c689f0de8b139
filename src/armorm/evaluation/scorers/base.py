"""The interface of everything that scores responses, and the scores of rows in memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from armorm.conversations import (
    Conversation,
    ConversationEncoder,
    EncodedPrompt,
    OverlongError,
)
from armorm.data import InvalidPolicy
from armorm.errors import InputError
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
class Scored:
    """Scores of the responses of one row, or the reason why it has none.

    Attributes:
        scores: Score of each response; empty where the row has none.
        rewards: Predicted reward of each of the scorer's objectives, by response; empty if the
            scorer has no objectives.
        gating: Output of the gate for the prompt, by objective; empty without a gate.
        coefficients: Weight of each reward in the score, by objective: a score is the sum of
            ``coefficients * rewards``. Empty if the scorer has no objectives.
        error: The reason why the row has no scores.
        too_long: The reason is that the scorer cannot read the row whole, and may skip such rows.

    Example:
        >>> from armorm.evaluation.scorers import Scored
        >>> Scored((1.0, 0.5)).scores
        (1.0, 0.5)
    """

    scores: tuple[float, ...]
    rewards: tuple[tuple[float, ...], ...] = ()
    gating: tuple[float, ...] = ()
    coefficients: tuple[float, ...] = ()
    error: InputError | None = None
    too_long: bool = False

    @classmethod
    def failed(cls, error: InputError, *, too_long: bool = False) -> Scored:
        """Return the account of a row without scores."""
        return cls((), error=error, too_long=too_long)

    @classmethod
    def of(cls, scores: Sequence[float], **parts: Any) -> Scored:
        """Return scores, or the account of a row of which one is not a finite number."""
        if not all(map(math.isfinite, scores)):
            return cls.failed(
                InputError(
                    "score",
                    tuple(scores),
                    "not a finite number",
                    "The model overflows on this text: load it in float32 or bfloat16 (--dtype).",
                )
            )
        return cls(tuple(scores), **parts)


@dataclass(frozen=True, slots=True)
class ScoredRow(Generic[Row]):
    """A row with the scores of its responses, in their order."""

    row: Row
    scored: Scored

    @property
    def scores(self) -> tuple[float, ...]:
        """Scores of the responses."""
        return self.scored.scores

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


class Scorer(ABC):
    """Anything that scores responses to a prompt: a reward model, a server, a judge, a rule.

    Attributes:
        name: Name in tables.
        objectives: Names of the columns of ``rewards``; empty for a score without parts.

    Example:
        >>> from armorm.evaluation.scorers import Scored, Scorer
        >>> class Exclamations(Scorer):
        ...     name = "exclamation marks"
        ...
        ...     @property
        ...     def identity(self):
        ...         return {"kind": "exclamation marks"}
        ...
        ...     def score(self, rows):
        ...         return [
        ...             Scored(tuple(float(text.count("!")) for text in row.responses))
        ...             for row in rows
        ...         ]
        >>> from armorm import PreferencePair
        >>> prompt = ({"role": "user", "content": "Greet me."},)
        >>> Exclamations().score([PreferencePair(prompt, "Hello!", "Go away.")])[0].scores
        (1.0, 0.0)
    """

    name: str
    objectives: tuple[str, ...] = ()

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that a score depends on, JSON-ready; costly on first use."""

    @abstractmethod
    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Return the scores of every row, in order.

        A row that cannot be scored is accounted for in its place; what concerns all rows, such as
        a server that does not answer, is raised.
        """

    @property
    def account(self) -> Mapping[str, Any]:
        """Account of the scoring so far, JSON-ready: requests, cost, agreement. Mostly empty."""
        return {}

    def close(self) -> None:  # noqa: B027 (most scorers hold nothing)
        """Release memory, files and connections. Nothing can be scored afterwards."""


def score_all(
    scorer: Scorer,
    rows: Sequence[Row],
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> ScoredRows[Row]:
    """Score all responses of every row.

    Args:
        scorer: The scorer. Under its policy ``error`` a row that is too long is an error; under
            the other policies it is counted.
        rows: Prompts with responses.
        invalid: ``error`` stops at the first row without scores; ``skip`` counts and lists them.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row has no scores, and ``invalid`` is ``error``.
    """
    found: ScoredRows[Row] = ScoredRows()
    with progress_bar("evaluate", len(rows), "rows", show_progress) as advance:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            for number, (row, scored) in enumerate(
                zip(chunk, scorer.score(chunk), strict=True), start=start + 1
            ):
                if scored.error is None:
                    found.rows.append(ScoredRow(row, scored))
                elif scored.too_long:
                    found.too_long += 1
                else:
                    place = f"pair {row.id or number}"
                    located = scored.error.at(place, None)
                    if invalid == "error":
                        raise located from None
                    found.invalid.append(located.as_dict())
            advance(len(chunk))
    return found


def score_encoded_rows(
    encoder: ConversationEncoder,
    rows: Sequence[Answered],
    score: Callable[[list[EncodedPrompt]], Sequence[Scored]],
) -> list[Scored]:
    """Encode rows, score those that can be encoded, and account for the others.

    Args:
        encoder: Encoder of the model.
        rows: Prompts with responses.
        score: Returns the scores of encoded prompts.
    """
    found: list[Scored | EncodedPrompt] = []
    for row in rows:
        try:
            found.append(encoder.encode(row.prompt, row.responses))
        except OverlongError as error:
            found.append(Scored.failed(error, too_long=encoder.overlong != "error"))
        except InputError as error:
            found.append(Scored.failed(error))
    encoded = [one for one in found if isinstance(one, EncodedPrompt)]
    done = iter(score(encoded) if encoded else ())
    return [next(done) if isinstance(one, EncodedPrompt) else one for one in found]
