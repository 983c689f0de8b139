"""The page that a person reads after a run of benchmarks: one HTML file, nothing from outside.

Every text goes through jinja2's escaping and the pictures are drawn by the template from numbers,
so no name, prompt or response becomes HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.published import COLUMNS, table_1, table_2
from armorm.evaluation.benchmarks.registry import benchmarks
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.reward_bench import RewardBench
from armorm.evaluation.benchmarks.rm_bench import LEVELS, STYLES
from armorm.evaluation.pages import p_value, write_page
from armorm.version import __version__

if TYPE_CHECKING:
    from armorm.evaluation.benchmarks.suite import SuiteResult

BINS = 40
CHARTED = 8
"""Figures of a benchmark that are drawn."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Margins of a model: worst right minus best wrong score.

    Attributes:
        scorer: Name of the model.
        heights: Rows in each bin, as a share of the fullest one.
        counts: Rows in each bin.
        low: Left end of the first bin.
        high: Right end of the last bin.
        zero: Place of 0 between the ends.
        clipped: Rows beyond the ends, which the first and the last bin hold.
    """

    scorer: str
    heights: list[float]
    counts: list[int]
    low: float
    high: float
    zero: float
    clipped: int

    @classmethod
    def of(cls, scorer: str, margins: npt.NDArray[np.float64]) -> Histogram:
        """Return the histogram between the 0.5th and the 99.5th percentile, 0 among the ends.

        A bin ends at 0, so that none holds both right and wrong rows; a margin of 0 is wrong.
        """
        low, high = np.quantile(margins, (0.005, 0.995))
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if high <= low:
            low, high = -1.0, 1.0
        step = (high - low) / BINS
        below = max(int(np.ceil(-low / step - 1e-9)), int((margins == 0).any()))
        low, high = -below * step, (BINS + 1 - below) * step
        placed = np.where(margins == 0, -step / 2, np.clip(margins, low, high))
        counts, _ = np.histogram(placed, BINS + 1, (low, high))
        return cls(
            scorer,
            (counts / counts.max()).tolist(),
            counts.tolist(),
            low,
            high,
            below / (BINS + 1),
            int(((margins < low) | (margins > high)).sum()),
        )


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark on the page.

    Attributes:
        name: Name of the benchmark.
        about: One sentence on it.
        results: Results of all models.
        figures: Rows of the table of figures: name, estimate of each model.
        subsets: Rows of the table of subsets.
        style: Rows of the table of shares at equal length and style.
        histograms: Margins of each model.
        comparisons: Paired comparisons.
    """

    name: str
    about: str
    results: Sequence[BenchmarkResult]
    figures: list[tuple[str, list[Estimate]]]
    subsets: list[tuple[str, list[Estimate]]]
    style: list[tuple[str, list[Estimate]]]
    histograms: list[Histogram]
    comparisons: Sequence[Any]

    @property
    def headline(self) -> tuple[str, list[Estimate]]:
        """The benchmark's own score: its name, and the estimate of each model."""
        name = next(iter(self.results[0].whole.figures))
        return name, [one.whole.score for one in self.results]

    @property
    def charted(self) -> list[tuple[str, list[Estimate]]]:
        """Figures with intervals that are drawn: the first ones that are shares."""
        drawn = [
            (name, row)
            for name, row in self.figures
            if any(one.low is not None for one in row) and all(map(_is_share, row))
        ]
        return drawn[:CHARTED]

    @classmethod
    def of(cls, name: str, results: Sequence[BenchmarkResult], comparisons: Any) -> Section:
        """Return the section of a benchmark."""
        known = benchmarks().get(name)
        margins = [(one.scorer, one.margins) for one in results]
        return cls(
            name,
            "Preference pairs." if known is None else known.about,
            results,
            _rows([one.whole.figures for one in results]),
            _rows([one.whole.subsets for one in results]),
            _rows(
                [
                    {
                        "all pairs": one.style.raw,
                        "at equal length": one.style.equal_length,
                        "at equal length, headings, lists and bold": one.style.equal_style,
                    }
                    for one in results
                ]
            ),
            [Histogram.of(scorer, found) for scorer, found in margins if len(found)],
            comparisons,
        )


def _is_share(one: Estimate) -> bool:
    """Return true if the interval lies between 0 and 1, but for the small bonus of Ties."""
    return one.low is None or one.high is None or (one.low >= -0.02 and one.high <= 1.02)


def _rows(tables: Sequence[Mapping[str, Estimate]]) -> list[tuple[str, list[Estimate]]]:
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name, Estimate(None, 0)) for table in tables]) for name in names]
    return [(name, row) for name, row in rows if any(one.value is not None for one in row)]


def write_benchmark_report(file: Path, result: SuiteResult) -> Path:
    """Write the page.

    Raises:
        OutputError: The file cannot be written.
    """
    sections = [
        Section.of(name, found, result.comparisons.get(name, ()))
        for name, found in result.results.items()
    ]
    reward_bench = result.results.get(RewardBench.name, [])
    prior_sets = result.results.get("preference-test-sets", [])
    filters = {
        "percent": lambda value: "–" if value is None else f"{100 * value:.1f}",
        "p": p_value,
        "number": lambda value: f"{value:.3g}",
    }
    write_page(
        file,
        "benchmark.html.jinja",
        filters,
        version=__version__,
        result=result,
        sections=sections,
        columns=COLUMNS,
        table_1=table_1(reward_bench, prior_sets) if reward_bench else [],
        table_2=table_2(reward_bench, prior_sets) if reward_bench else [],
        styles=STYLES,
        levels=list(LEVELS),
    )
    return file
