"""Counts of ratings by value, kept small whatever the number of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST_VALUES = 10_000
"""Beyond this many distinct values, ratings are counted to one decimal: memory stays small."""

MOST_BARS = 12
"""A histogram with more distinct values than this is shown by whole numbers."""


class RatingCounts:
    """Frequencies of the ratings of each objective."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[float | None]] = {}

    def add(self, objective: str, ratings: Iterable[float | None]) -> None:
        """Count ratings of one objective; missing ones do not count."""
        counts = self._counts.setdefault(objective, Counter())
        counts.update(ratings)
        counts.pop(None, None)
        if len(counts) > MOST_VALUES:
            self._counts[objective] = _rounded(counts, 1)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return number, mean and histogram (value and count, by value) of each objective."""
        return {
            objective: {
                "n": counts.total(),
                "mean": sum((value or 0.0) * n for value, n in counts.items()) / counts.total(),
                "histogram": [list(pair) for pair in sorted(_bars(counts).items())],
            }
            for objective, counts in self._counts.items()
            if counts
        }


def _bars(counts: Mapping[float | None, int]) -> Counter[float]:
    tenths = _rounded(counts, 1)
    return tenths if len(tenths) <= MOST_BARS else _rounded(counts, 0)


def _rounded(counts: Mapping[float | None, int], digits: int) -> Counter[Any]:
    rounded = Counter[Any]()
    for value, count in counts.items():
        if value is not None:
            rounded[round(value, digits)] += count
    return rounded
