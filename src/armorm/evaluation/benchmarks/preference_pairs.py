"""Accuracy on preference pairs, for any source of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from armorm.data.reading import name_in, parse_pair
from armorm.errors import InputError, did_you_mean
from armorm.evaluation.benchmarks.base import Benchmark, Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkData, BenchmarkRow, Part


class PreferenceBenchmark(Benchmark):
    """Preference pairs whose chosen response is to score strictly higher; a tie is wrong.

    A subclass names its :attr:`parts`, and changes :meth:`figures` if its score is not the
    accuracy on all pairs.

    Example:
        A benchmark in one file, for the entry point ``armorm.benchmarks``::

            from armorm.evaluation.benchmarks import Part, PreferenceBenchmark

            class Manners(PreferenceBenchmark):
                name = "manners"
                about = "Polite and rude answers to the same question."
                parts = (Part(path="/data/manners.jsonl"),)
    """

    name = "preferences"
    about = "Accuracy on any preference pairs."
    known_subsets: Sequence[str] | None = None
    """The only subsets that rows can have; ``None`` if all are allowed."""

    def check_subsets(self, data: BenchmarkData) -> None:
        """Check the subsets of rows that :meth:`row` did not make.

        Raises:
            InputError: One is unknown, so no figure would count its row.
        """
        for row, place in zip(data.rows, data.places, strict=True):
            if self.known_subsets is not None and row.subset not in self.known_subsets:
                remedy = did_you_mean(row.subset, self.known_subsets)
                raise InputError("subset", row.subset, "unknown subset", remedy).at(*place)

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return a pair in one of the forms of :func:`armorm.data.read_preferences`."""
        prompt, chosen, rejected = parse_pair(record)
        subset = name_in(record, "subset") or name_in(record, "domain") or part.label
        return BenchmarkRow(prompt, (chosen, rejected), name_in(record, "id"), subset)

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the accuracy, whole and by length of the chosen response."""
        credits = self.credits(rows, scores)
        return {"accuracy": Estimate.share(credits), **by_length(rows, credits)}


class PreferenceFile(PreferenceBenchmark):
    """Preference pairs of a file, a pattern of files, or a dataset of the hub.

    Args:
        name: ``pairs.jsonl``, ``'in/*.parquet'``, or ``NAME@SPLIT`` of a dataset.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]  # of one file, not of a class of them
        dataset, at, split = name.partition("@")
        is_dataset = at and not Path(name).exists()
        self.parts = (Part(dataset, split) if is_dataset else Part(path=name),)


def by_length(rows: Sequence[BenchmarkRow], credits: Scores) -> dict[str, Estimate]:
    """Return the accuracy where the shorter and the longer response of a pair is the right one.

    ``balanced`` is the mean of both: preferring length, or its opposite, gives one half.
    """
    longer = np.array([len(row.responses[0]) - len(row.responses[1]) for row in rows])
    halves = {
        "shorter won": Estimate.share(credits[longer < 0]),
        "longer won": Estimate.share(credits[longer > 0]),
    }
    return {**halves, "balanced": Estimate.mean(halves)}
