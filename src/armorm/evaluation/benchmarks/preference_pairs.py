"""Accuracy on preference pairs, for any source of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from armorm.conversations import PreferencePair
from armorm.data import DataSource, InvalidPolicy, Loaded, read_preferences
from armorm.evaluation.benchmarks.base import Benchmark, BenchmarkReport
from armorm.evaluation.preferences import PreferenceReport, report_on
from armorm.evaluation.scorers.base import ScoredRows


@dataclass(frozen=True, slots=True)
class PairReport:
    """Result of a benchmark of preference pairs.

    Attributes:
        figures: Named shares of the benchmark's own score rule, its score first.
        pairs: Accuracies.
    """

    figures: Mapping[str, float | None]
    pairs: PreferenceReport

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return {**self.pairs.as_dict(), "figures": dict(self.figures)}


class PreferenceBenchmark(Benchmark[PreferencePair]):
    """Preference pairs whose chosen response is to score strictly higher.

    A subclass changes :meth:`figures`, if its score is not the accuracy on all pairs.

    Example:
        A benchmark in one file, for the entry point ``armorm.benchmarks``::

            from armorm.data import DataSource
            from armorm.evaluation.benchmarks import PreferenceBenchmark

            class Manners(PreferenceBenchmark):
                name = "manners"
                about = "Polite and rude answers to the same question."
                sources = (DataSource(path="/data/manners.jsonl"),)
    """

    name = "preferences"
    about = "Accuracy on any preference pairs."

    def read(
        self,
        sources: Sequence[DataSource],
        *,
        invalid: InvalidPolicy = "error",
        show_progress: bool = False,
    ) -> Loaded[PreferencePair]:
        """Read the pairs; see :meth:`Benchmark.read`."""
        return read_preferences(sources, invalid=invalid, show_progress=show_progress)

    def figures(self, pairs: PreferenceReport) -> Mapping[str, float | None]:
        """Return the shares of the benchmark's own score rule, its score first."""
        return {"accuracy": pairs.accuracy}

    def report(self, scored: ScoredRows[PreferencePair]) -> BenchmarkReport:
        """Return the accuracies and the benchmark's own figures."""
        pairs = report_on(scored)
        return PairReport(self.figures(pairs), pairs)
