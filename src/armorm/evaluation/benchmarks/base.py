"""Interface of a benchmark: a name, rows, and a score rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from armorm.data.sources import InvalidPolicy
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkData, BenchmarkRow, Part, read_rows

Scores = npt.NDArray[np.float64]
"""Scores of the responses of one row, in their order."""


class Benchmark(ABC):
    """A benchmark: ``armorm benchmark MODEL NAME`` reads its rows, scores them and reports.

    A subclass says where the rows are (:attr:`parts`), turns a raw row into a
    :class:`BenchmarkRow` (:meth:`row`), and gives each scored row a credit between 0 and 1
    (:meth:`credit`).  Its score is the mean credit, unless :meth:`figures` says otherwise.

    Attributes:
        name: Name on the command line.
        about: One sentence.
        parts: Places of the rows.
        published_rows: Number of rows as published, if known.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    parts: Sequence[Part] = ()
    published_rows: ClassVar[int | None] = None

    def read(
        self,
        root: Path | None = None,
        *,
        invalid: InvalidPolicy = "error",
        show_progress: bool = False,
    ) -> BenchmarkData:
        """Read the rows.

        Args:
            root: A folder that holds a local copy, laid out as ``root/<organisation>/<dataset>``.
            invalid: ``error`` stops at a bad row; ``skip`` counts and lists it.
            show_progress: Draw a progress bar on standard error.
        """
        return read_rows(self.parts, self.row, root, invalid=invalid, show_progress=show_progress)

    @abstractmethod
    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return the row that a raw row describes.

        Raises:
            InputError: It does not; the field is named.
            SkippedRowError: A rule of the benchmark leaves it out.
        """

    def credit(self, row: BenchmarkRow, scores: Scores) -> float:
        """Return the credit of a row: 1 if every right response beats every wrong one, else 0."""
        return float(scores[: row.right].min() > scores[row.right :].max())

    def credits(self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]) -> Scores:
        """Return the credit of each row."""
        return np.array(
            [self.credit(row, found) for row, found in zip(rows, scores, strict=True)], np.float64
        )

    def subsets(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the figure of each subset, by default its mean credit."""
        return by_subset((row.subset for row in rows), self.credits(rows, scores))

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the benchmark's figures, its own score first."""
        return {"accuracy": Estimate.share(self.credits(rows, scores))}

    def matrices(
        self,
        rows: Sequence[BenchmarkRow],  # noqa: ARG002
        scores: Sequence[Scores],  # noqa: ARG002
    ) -> Mapping[str, list[list[float]]]:
        """Return tables that a benchmark has besides, by name; most have none."""
        return {}


def by_subset(subsets: Iterable[str], credits: Scores) -> dict[str, Estimate]:
    """Return the mean credit of each subset, in the order of the names."""
    names = np.array(list(subsets), dtype=object)
    return {name: Estimate.share(credits[names == name]) for name in sorted(set(names))}
