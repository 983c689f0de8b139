"""RM-Bench (Liu et al. 2024): right against wrong answers, each in three styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from armorm.evaluation.benchmarks.base import Benchmark, Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import (
    BenchmarkRow,
    Part,
    one_of,
    prompt_of,
    responses_of,
    text_in,
)

STYLES = ("concise", "detailed", "detailed, markdown")
"""Styles of the responses, in their order."""

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "chat": ("chat",),
    "code": ("code",),
    "math": ("math",),
    "safety": ("safety-refuse", "safety-response"),
}
"""Subsets that each domain pools."""

LEVELS: Mapping[str, npt.NDArray[np.bool_]] = {
    "hard": np.triu(np.ones((3, 3), bool), 1),
    "normal": np.eye(3, dtype=bool),
    "easy": np.tril(np.ones((3, 3), bool), -1),
}
"""Cells (style of the right, of the wrong answer) of each level; easy: the right one is fancier."""


class RMBench(Benchmark):
    """RM-Bench: its score is the plain mean of four domains, each the mean of its levels."""

    name = "rm-bench"
    about = "RM-Bench: does the model pay for style? Three styles of a right and a wrong answer."
    parts = (
        Part(
            "THU-KEG/RM-Bench",
            "train",
            ("total_dataset.json", "**/train-*.parquet", "**/*_filtered.json", "**/train.jsonl"),
        ),
    )
    published_rows = 1_327

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:  # noqa: ARG002
        """Return a prompt with three right responses, then three wrong ones."""
        domain = one_of(record, "domain", [name for names in DOMAINS.values() for name in names])
        chosen, rejected = (responses_of(record, side, 3) for side in ("chosen", "rejected"))
        return BenchmarkRow(
            prompt_of(record), (*chosen, *rejected), text_in(record, "id"), domain, right=3
        )

    def credit(self, row: BenchmarkRow, scores: Scores) -> float:  # noqa: ARG002
        """Return the share of the nine pairs that are ranked rightly."""
        return float(_cells([scores]).mean())

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the overall accuracy, the levels, the domains, and the levels of each domain."""
        cells = _cells(scores)
        levels = {
            level: {
                domain: Estimate.share(cells[members][:, mask].mean(axis=1))
                for domain, members in _members(rows).items()
            }
            for level, mask in LEVELS.items()
        }
        # Every level has three cells, so the mean of the levels is the mean of all nine.
        domains = {
            domain: Estimate.share(cells[members].mean(axis=(1, 2)))
            for domain, members in _members(rows).items()
        }
        return {
            "overall": Estimate.mean(domains),
            **{level: Estimate.mean(found) for level, found in levels.items()},
            **domains,
            **{
                f"{domain}, {level}": levels[level][domain]
                for domain in DOMAINS
                for level in LEVELS
            },
        }

    def matrices(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, list[list[float]]]:
        """Return the 3 × 3 accuracies of each domain, and their mean over the domains."""
        cells = _cells(scores)
        found = {
            domain: cells[members].mean(axis=0)
            for domain, members in _members(rows).items()
            if members.any()
        }
        whole = {"all domains": np.mean(list(found.values()), axis=0)}
        return {name: matrix.tolist() for name, matrix in (whole | found).items()}


def _cells(scores: Sequence[Scores]) -> npt.NDArray[np.float64]:
    """Return right[i] > wrong[j] of every row, shape (rows, 3, 3)."""
    table = np.array(scores, np.float64).reshape(-1, 2, 3)
    return (table[:, 0, :, None] > table[:, 1, None, :]).astype(np.float64)


def _members(rows: Sequence[BenchmarkRow]) -> dict[str, npt.NDArray[np.bool_]]:
    subsets = np.array([row.subset for row in rows], dtype=object)
    return {domain: np.isin(subsets, names) for domain, names in DOMAINS.items()}
