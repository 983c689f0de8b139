"""Result of one scorer on one benchmark: figures for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from armorm.errors import ArmormError
from armorm.evaluation.benchmarks.base import Benchmark, Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkData, BenchmarkRow
from armorm.evaluation.benchmarks.style_control import StyleControl, StylePairs
from armorm.evaluation.scorers.base import Scored

FIXED_WEIGHTS = "fixed weights"
"""Part of a model with the fixed weights that were trained beside its gate."""
MEAN_COEFFICIENTS = "mean coefficients"
"""The same of a model that holds none: the mean of its gate's coefficients over the rows."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one way to score.

    Attributes:
        figures: Figures of the benchmark, its own score first.
        subsets: Figure of each subset.
        matrices: Tables that a benchmark has besides, by name.
    """

    figures: Mapping[str, Estimate]
    subsets: Mapping[str, Estimate]
    matrices: Mapping[str, list[list[float]]]

    @classmethod
    def of(
        cls, benchmark: Benchmark, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Figures:
        """Apply the rules of a benchmark to scores."""
        return cls(
            benchmark.figures(rows, scores),
            benchmark.subsets(rows, scores),
            benchmark.matrices(rows, scores),
        )

    @property
    def score(self) -> Estimate:
        """The benchmark's own score."""
        return next(iter(self.figures.values()))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON holds them."""
        return {
            "figures": {name: found.as_dict() for name, found in self.figures.items()},
            "subsets": {name: found.as_dict() for name, found in self.subsets.items()},
            **({"matrices": dict(self.matrices)} if self.matrices else {}),
        }


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Result of one scorer on one benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        scorer: Name of the scorer.
        whole: Figures of its scores.
        data: Counts of rows that were read and left out.
        scored: Rows with scores; figures are of these.
        too_long: Rows that the scorer cannot read whole.
        ties: Rows in which two responses of different worth have the same score.
        published_rows: Rows of the benchmark as published, if known.
        style: Share of pairs ranked rightly at equal length and style.
        parts: Figures of other ways to score with the same model: each objective alone, or fixed
            weights.
        invalid: Errors of the rows that could not be read or scored.
        kept: Places of the scored rows among all rows.
        rows: The scored rows, in order.
        scores: Their scores.
        credits: Their credits, for paired tests.
        account: Account of the scorer, such as requests and cost.
    """

    benchmark: str
    scorer: str
    whole: Figures
    data: Mapping[str, Any]
    scored: int
    too_long: int
    ties: int
    published_rows: int | None
    style: StyleControl
    parts: Mapping[str, Figures] = field(default_factory=dict)
    invalid: Sequence[Mapping[str, Any]] = ()
    kept: Sequence[int] = ()
    rows: Sequence[BenchmarkRow] = ()
    scores: Sequence[Scores] = ()
    credits: Scores = field(default_factory=lambda: np.zeros(0))
    account: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        data: BenchmarkData,
        found: Sequence[Scored],
        scorer: str,
        *,
        objectives: Sequence[str] = (),
        fixed_weights: bool = False,
        fixed_coefficients: Sequence[float] | None = None,
        account: Mapping[str, Any] | None = None,
    ) -> BenchmarkResult:
        """Apply the rules of a benchmark to the scores of its rows.

        Args:
            benchmark: The benchmark.
            data: Its rows.
            found: Scores of the rows, in their order.
            scorer: Name of the scorer.
            objectives: Names of the objectives to report alone.
            fixed_weights: Also report coefficients that do not depend on the prompt.
            fixed_coefficients: These coefficients; default the mean of the gate's over all rows.
            account: Account of the scorer.

        Raises:
            ArmormError: No row has scores.
        """
        kept = [number for number, one in enumerate(found) if one.error is None]
        if not kept:
            first = next((f" The first: {one.error}" for one in found), "")
            raise ArmormError(f"{scorer}: no row of {benchmark.name} could be scored.{first}")
        rows = [data.rows[number] for number in kept]
        scores = [np.array(found[number].scores, np.float64) for number in kept]
        parts: dict[str, Figures] = {}
        if fixed_weights:
            given = [found[number] for number in kept]
            name = MEAN_COEFFICIENTS if fixed_coefficients is None else FIXED_WEIGHTS
            weights = fixed_coefficients or np.mean([one.coefficients for one in given], axis=0)
            fixed = [np.array(one.rewards, np.float64) @ np.array(weights) for one in given]
            parts[name] = Figures.of(benchmark, rows, fixed)
        for column, name in enumerate(objectives):
            alone = [np.array(found[number].rewards, np.float64)[:, column] for number in kept]
            parts[name] = Figures.of(benchmark, rows, alone)
        return cls(
            benchmark=benchmark.name,
            scorer=scorer,
            whole=Figures.of(benchmark, rows, scores),
            data=data.as_dict(),
            scored=len(rows),
            too_long=sum(one.too_long for one in found),
            ties=sum(_has_tie(row, given) for row, given in zip(rows, scores, strict=True)),
            published_rows=benchmark.published_rows,
            style=StyleControl.of(StylePairs.of(rows), scores),
            parts=parts,
            invalid=(
                *data.invalid,
                *(one.error.as_dict() for one in found if one.error and not one.too_long),
            ),
            kept=kept,
            rows=rows,
            scores=scores,
            credits=benchmark.credits(rows, scores),
            account=account or {},
        )

    @property
    def fixed(self) -> tuple[str, Figures] | None:
        """Name and figures of the part whose coefficients do not depend on the prompt."""
        names = (FIXED_WEIGHTS, MEAN_COEFFICIENTS)
        return next(((name, self.parts[name]) for name in names if name in self.parts), None)

    @property
    def margins(self) -> Scores:
        """Worst right minus best wrong score of each row that has both."""
        return np.array(
            [
                given[: row.right].min() - given[row.right :].max()
                for row, given in zip(self.rows, self.scores, strict=True)
                if "edges" not in row.facts
            ]
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on rows that the scorer gives no credit or no score."""
        said = []
        if self.too_long:
            said.append(f"{self.too_long:,} rows are too long for the model and not counted")
        if self.invalid:
            said.append(f"{len(self.invalid):,} rows could not be read or scored")
        if self.ties:
            said.append(f"{self.ties:,} rows have equal scores, which count as wrong")
        return said

    @property
    def data_notes(self) -> list[str]:
        """Sentences on rows of the data that no figure counts, the same for every scorer."""
        said = [f"{count:,} rows left out: {why}" for why, count in self.data["skipped"].items()]
        if self.published_rows is not None and self.published_rows != self.data["read"]:
            said.append(f"The data holds {self.data['read']:,} of {self.published_rows:,} rows")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        return {
            "benchmark": self.benchmark,
            "model": self.scorer,
            **self.whole.as_dict(),
            "rows": {**self.data, "scored": self.scored, "published": self.published_rows},
            "too_long": self.too_long,
            "ties": self.ties,
            "style_control": self.style.as_dict(),
            "parts": {name: found.as_dict() for name, found in self.parts.items()},
            "invalid": list(self.invalid),
            **({"account": dict(self.account)} if self.account else {}),
        }


def _has_tie(row: BenchmarkRow, scores: Scores) -> bool:
    if "edges" in row.facts:
        return any(scores[better] == scores[worse] for better, worse in row.facts["edges"])
    return bool(np.isin(scores[: row.right], scores[row.right :]).any())
