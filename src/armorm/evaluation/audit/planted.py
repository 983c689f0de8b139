"""A reward whose biases are known, to measure detectors with."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from armorm.evaluation.scorers import Answered, Scored, Scorer
from armorm.text_measures import TEXT_MEASURES

Reward = Callable[[str], float]


@dataclass(frozen=True)
class PlantedScorer(Scorer):
    """A score that is made of planted rewards, each a function of the response's text.

    Attributes:
        rewards: Rewards by objective.
        coefficients: Weight of each objective by group of prompts; the key ``""`` is for others.
        group_of: Returns the group of a prompt's last user turn.
        name: Name in tables.

    Example:
        >>> from armorm import PreferencePair
        >>> prompt = ({"role": "user", "content": "Name a bird."},)
        >>> scorer = PlantedScorer({"length": planted("length")}, {"": {"length": 2.0}})
        >>> scored = scorer.score([PreferencePair(prompt, "A wren.", "A big wren.")])[0]
        >>> [round(score, 2) for score in scored.scores]
        [4.16, 4.97]
    """

    rewards: Mapping[str, Reward]
    coefficients: Mapping[str, Mapping[str, float]]
    group_of: Callable[[str], str] = field(default=lambda _: "")
    name: str = "planted"

    @property
    def objectives(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the rewards."""
        return tuple(self.rewards)

    @property
    def identity(self) -> dict[str, Any]:
        """Names and coefficients."""
        return {"kind": "planted", "name": self.name, "coefficients": dict(self.coefficients)}

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Return the scores of every row."""
        found = []
        for row in rows:
            weights = self.coefficients.get(self.group_of(row.prompt[-1]["content"]))
            weights = self.coefficients[""] if weights is None else weights
            coefficients = tuple(weights.get(name, 0.0) for name in self.rewards)
            rewards = tuple(
                tuple(reward(text) for reward in self.rewards.values()) for text in row.responses
            )
            scores = [
                math.fsum(map(math.prod, zip(coefficients, one, strict=True))) for one in rewards
            ]
            found.append(
                Scored.of(scores, rewards=rewards, gating=coefficients, coefficients=coefficients)
            )
        return found


def planted(measure: str) -> Reward:
    """Return a reward that rises with a text measure: log(1 + its value)."""
    of = TEXT_MEASURES[measure].of
    return lambda text: math.log1p(of(text))


def noise(name: str, *, words: bool = False) -> Reward:
    """Return a reward that is standard normal noise, the same for the same text.

    Args:
        name: Of the stream; another name gives another stream.
        words: Draw by the set of the text's words, so that markup, repetition and order do not
            count.
    """

    def reward(text: str) -> float:
        drawn = " ".join(sorted(set(re.findall(r"\w+", text.lower())))) if words else text
        digest = hashlib.blake2b(f"{name} {drawn}".encode(), digest_size=16).digest()
        u = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)
        v = int.from_bytes(digest[8:], "big") / 2**64
        return math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)

    return reward
