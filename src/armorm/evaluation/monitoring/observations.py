"""Scored responses as numbers, one row per unit: a prompt with all its responses of one step.

Responses to one prompt depend on each other, prompts do not; so a unit is a prompt, and its numbers
are the means over its responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.conversations import located_in, validate_conversation
from armorm.errors import InputError
from armorm.evaluation.monitoring.markup import MEASURES

if TYPE_CHECKING:
    from armorm.model import Rewards

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """Scored responses of one step.

    Attributes:
        prompts: Prompt of each response: messages, or text. Equal ones are one unit.
        responses: Texts.
        score: Scores. Shape (n,).
        rewards: Unit rewards. Shape (n, k).
        contributions: Parts of the scores. Shape (n, k).
        novelty: Distances from the rated rows, where they are known. Shape (n,).
        features: Features of the responses, where they are at hand. Shape (n, d).

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.evaluation.monitoring import Observation
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> rewards = model.score_responses("What is 2 plus 3?", ["5", "2 plus 3 is 5."])
        >>> Observation.of(rewards, ["What is 2 plus 3?"] * 2, ["5", "2 plus 3 is 5."]).units
        array([0, 0])
    """

    prompts: tuple[Any, ...]
    responses: tuple[str, ...]
    score: Float[np.ndarray, " n"]
    rewards: Float[np.ndarray, "n k"]
    contributions: Float[np.ndarray, "n k"]
    novelty: Float[np.ndarray, " n"] | None = None
    features: Float[np.ndarray, "n d"] | None = None

    def __post_init__(self) -> None:
        for name in ("prompts", "responses"):
            if len(getattr(self, name)) != len(self.score):
                raise InputError(
                    name,
                    len(getattr(self, name)),
                    f"there are {len(self.score)} scores",
                    "Give one for each.",
                )

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def of(
        cls,
        rewards: Rewards,
        prompts: Sequence[Any],
        responses: Sequence[str],
        *,
        novelty: Float[np.ndarray, " n"] | None = None,
        features: Float[np.ndarray, "n d"] | None = None,
    ) -> Observation:
        """Return the observation of responses that a model scored.

        Args:
            rewards: Their scores.
            prompts: Prompt of each response.
            responses: Texts.
            novelty: Novelty of each; default that of ``rewards``, if they have an uncertainty.
            features: Features of each.
        """
        if novelty is None and rewards.uncertainty is not None:
            novelty = rewards.uncertainty.novelty.double().numpy()
        return cls(
            tuple(prompts),
            tuple(responses),
            rewards.score.double().numpy(),
            rewards.rewards.double().numpy(),
            rewards.contributions.double().numpy(),
            novelty,
            features,
        )

    @classmethod
    def of_rows(
        cls, rows: Sequence[Mapping[str, Any]], objectives: Sequence[str], *, novelty: bool
    ) -> Observation:
        """Return the observation of rows that ``armorm score`` wrote.

        Args:
            rows: Rows with ``messages``, or ``prompt`` and ``response``, and their scores.
            objectives: Names of the model's objectives.
            novelty: Read the novelty too.

        Raises:
            InputError: A row lacks a field, or a number of it is not finite; ``row`` is its
                one-based position.
        """
        read = []
        for number, row in enumerate(rows, start=1):
            try:
                read.append(_read(row, objectives, novelty))
            except InputError as error:
                raise error.at(None, number) from None
        prompts, responses, numbers = zip(*read, strict=True) if read else ((), (), ())
        table = np.array(numbers, np.float64).reshape(len(read), 2 + 2 * len(objectives))
        k = len(objectives)
        return cls(
            tuple(prompts),
            tuple(responses),
            table[:, 0],
            table[:, 1 : 1 + k],
            table[:, 1 : 1 + k] * table[:, 1 + k : 1 + 2 * k],
            table[:, -1] if novelty else None,
        )

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """Number of each response's unit, in the order of their first responses."""
        numbers: dict[str, int] = {}
        keys = [one if isinstance(one, str) else repr(one) for one in self.prompts]
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)

    def finite(self) -> Observation:
        """Return the responses whose numbers are all finite."""
        table = [self.score[:, None], self.rewards, self.contributions]
        if self.novelty is not None:
            table.append(self.novelty[:, None])
        return self.where(np.isfinite(np.hstack(table)).all(axis=1))

    def where(self, mask: npt.NDArray[np.bool_]) -> Observation:
        """Return the responses that a mask selects."""
        kept = np.flatnonzero(mask)
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in kept),
            responses=tuple(self.responses[i] for i in kept),
            score=self.score[kept],
            rewards=self.rewards[kept],
            contributions=self.contributions[kept],
            novelty=None if self.novelty is None else self.novelty[kept],
            features=None if self.features is None else self.features[kept],
        )

    @classmethod
    def join(cls, parts: Sequence[Observation]) -> Observation:
        """Return the responses of all parts, in order; features only if all parts have them."""
        first = parts[0]

        def joined(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if any(one is None for one in columns) else np.concatenate(columns)

        return replace(
            first,
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            responses=tuple(text for part in parts for text in part.responses),
            **{
                name: joined(name)
                for name in ("score", "rewards", "contributions", "novelty", "features")
            },
        )

    def measures(self, texts: Sequence[str]) -> Float[np.ndarray, "n texts"]:
        """Return measures of the responses' texts, by their names."""
        table = [[MEASURES[name].of(text) for name in texts] for text in self.responses]
        return np.array(table, np.float64).reshape(len(self), len(texts))


def _read(
    row: Mapping[str, Any], objectives: Sequence[str], novelty: bool
) -> tuple[Any, str, list[float]]:
    """Return prompt, response and numbers of a row."""
    if "messages" in row:
        messages, response = located_in("messages", validate_conversation, row["messages"])
        prompt: Any = json.dumps(messages, sort_keys=True)
    else:
        prompt, text = row.get("prompt"), row.get("response")
        if prompt is None or not isinstance(text, str):
            raise InputError(
                "messages",
                None,
                f"missing; the row has {', '.join(row)}",
                "Score the rows with `armorm score`, which keeps what they hold.",
            )
        response = text
    numbers = [_number(row, "score")]
    numbers += [_number(row.get("rewards"), name, "rewards") for name in objectives]
    numbers += [_number(row.get("coefficients"), name, "coefficients") for name in objectives]
    numbers.append(_number(row, "novelty") if novelty else 0.0)
    return prompt, response, numbers


def _number(row: Any, name: str, place: str = "") -> float:
    value = row.get(name) if isinstance(row, Mapping) else None
    valid = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if not valid:
        remedy = "Score the rows with `armorm score --uncertainty` and this model."
        field = f"{place}.{name}" if place else name
        raise InputError(field, value, "not a finite number", remedy)
    return float(value)  # type: ignore[arg-type]
