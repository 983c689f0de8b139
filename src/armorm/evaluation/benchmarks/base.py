"""Interface of a benchmark: a name, rows, and a score rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, runtime_checkable

from armorm.data import DataSource, InvalidPolicy, Loaded
from armorm.evaluation.scorers.base import Row, ScoredRows


@runtime_checkable
class BenchmarkReport(Protocol):
    """Result of a benchmark."""

    @property
    def figures(self) -> Mapping[str, float | None]:
        """Named shares for people, the benchmark's own score first."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""


class Benchmark(ABC, Generic[Row]):
    """A benchmark: ``armorm evaluate MODEL NAME`` reads its rows, scores them and reports.

    Rows are anything with ``prompt``, ``responses`` and ``id``; the model scores all responses of
    a row.  A benchmark of preference pairs is a :class:`PreferenceBenchmark`, which reads and
    counts already.

    Attributes:
        name: Name on the command line.
        about: One sentence.
    """

    name: ClassVar[str]
    about: ClassVar[str]

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Sources of the rows: by default the dataset of the same name in the catalogue."""
        return (DataSource(catalog=self.name),)

    @abstractmethod
    def read(
        self,
        sources: Sequence[DataSource],
        *,
        invalid: InvalidPolicy = "error",
        show_progress: bool = False,
    ) -> Loaded[Any]:
        """Read the rows.

        Args:
            sources: Sources to read: :attr:`sources`, or local copies.
            invalid: ``error`` stops at a bad row; ``skip`` counts and lists it.
            show_progress: Draw a progress bar on standard error.
        """

    @abstractmethod
    def report(self, scored: ScoredRows[Row]) -> BenchmarkReport:
        """Return the result of scored rows."""
