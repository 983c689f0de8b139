"""Scores without a model: the baselines that every reward model has to beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from armorm.conversations import prompt_key
from armorm.evaluation.scorers.base import Answered, Scored, Scorer


class LengthScorer(Scorer):
    """The longer response is the better one: score = number of characters."""

    name = "length"

    @property
    def identity(self) -> dict[str, Any]:
        """The name of the rule."""
        return {"kind": "length"}

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Return the number of characters of each response."""
        return [Scored(tuple(float(len(text)) for text in row.responses)) for row in rows]


class RandomScorer(Scorer):
    """Scores drawn evenly from 0 to 1 by the seed, the prompt and the response.

    A score depends on nothing else, so it does not change with the order of the rows, and equal
    responses tie.

    Args:
        seed: Seed of the scores.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.name = f"random (seed {seed})" if seed else "random"

    @property
    def identity(self) -> dict[str, Any]:
        """The name of the rule and its seed."""
        return {"kind": "random", "seed": self.seed}

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Return a number for each response."""
        return [
            Scored(tuple(self._draw(prompt, text) for text in row.responses))
            for row, prompt in ((row, prompt_key(row.prompt)) for row in rows)
        ]

    def _draw(self, prompt: str, response: str) -> float:
        content = f"{self.seed} {prompt} {response}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big") / 2**48
