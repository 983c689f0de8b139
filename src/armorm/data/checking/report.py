"""Results of a check, as types; ``as_dict`` gives them as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from armorm.data.catalog import Kind

MOST_EXAMPLES = 5
"""Largest number of examples listed of each sort of finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Findings of one sort: their number, and the first few."""

    count: int
    examples: tuple[dict[str, Any], ...]


@dataclass(slots=True)
class Findings:
    """Counter of findings by sort that keeps the first few of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, sort: str, example: dict[str, Any]) -> None:
        """Count a finding."""
        self.counts[sort] += 1
        if self.counts[sort] <= MOST_EXAMPLES:
            self.examples.setdefault(sort, []).append(example)

    def by_sort(self) -> dict[str, Finding]:
        """Return the findings, the most frequent sort first."""
        return {
            sort: Finding(count, tuple(self.examples[sort]))
            for sort, count in self.counts.most_common()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of responses.

    Attributes:
        mean_response_characters: Mean length of a response.
        chosen_longer: Share of pairs whose chosen response is the longer; ``None`` without pairs.
    """

    mean_response_characters: float
    chosen_longer: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """Account of one file.

    Attributes:
        file: The file.
        kind: Kind of its rows.
        rows: Rows read.
        kept: Valid rows.
        invalid: Invalid rows by reason.
        duplicates: Rows, or pairs the other way round, that were there before, in any file.
        ratings: Number, mean and histogram of the ratings, by objective.
        lengths: Lengths of its responses.
    """

    file: str
    kind: Kind
    rows: int
    kept: int
    invalid: dict[str, Finding]
    duplicates: dict[str, Finding]
    ratings: dict[str, dict[str, Any]]
    lengths: Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport:
    """Prompts of all files: how many differ, and which are nearly the same."""

    distinct: int
    near: dict[str, Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Overlap of the files with one benchmark.

    Attributes:
        benchmark_rows: Rows of the benchmark.
        found: Benchmark rows found, by part: prompt, response.
        found_by_subset: Benchmark rows found in either part, by subset.
        rows_with_overlap: Rows of the files that hold one of them, by part.
        examples: The first few.
    """

    benchmark_rows: int
    found: dict[str, int]
    found_by_subset: dict[str, int]
    rows_with_overlap: dict[str, int]
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Result of checking files together.

    Attributes:
        files: Account of each file.
        prompts: Prompts that files share; ``None`` where nobody looked for them.
        contamination: Overlap with each benchmark, by its name.
        valid: Whether every row is valid.
    """

    files: tuple[FileReport, ...]
    prompts: PromptReport | None
    contamination: dict[str, Contamination]
    valid: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return asdict(self)
