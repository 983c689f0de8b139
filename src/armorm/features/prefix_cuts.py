"""Beginnings of rated responses, whose states stand in the store beside the responses' own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from armorm.conversations import ConversationEncoder


@dataclass(frozen=True, slots=True)
class PrefixCuts:
    """Cut points of responses, drawn by their ids and a seed: the same in every run and worker.

    Attributes:
        count: Beginnings of each response, at most: one that is shorter has as many as it has
            tokens before its last.
        seed: Seed of the draw.
    """

    count: int
    seed: int = 0

    def positions(self, ids: Sequence[int], start: int) -> list[int]:
        """Return the positions of the tokens that beginnings end with, ascending.

        Args:
            ids: Ids of the conversation.
            start: Position of the first token of the response.
        """
        free = np.arange(start, len(ids) - 1)
        key = hashlib.sha256(np.array([self.seed, *ids], dtype="<i8").tobytes()).digest()
        draw = np.random.default_rng(int.from_bytes(key[:8], "big"))
        drawn = draw.permutation(free)[: self.count]
        return sorted(drawn.tolist())

    def reader(self, encoder: ConversationEncoder) -> Callable[[Sequence[int], int], Sequence[int]]:
        """Return the function by which a backbone reads the states at the cut points."""
        return lambda ids, boundary: self.positions(ids, encoder.response_start(boundary))
