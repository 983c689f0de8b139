"""JudgeBench (Tan et al. 2024): pairs whose right answer is known by fact or logic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from armorm.evaluation.benchmarks.base import Benchmark, Scores, by_subset
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import (
    BenchmarkRow,
    Part,
    one_of,
    prompt_of,
    response_of,
    text_in,
)

GROUPS: Mapping[str, str] = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""Beginning of a source, and the group that the paper reports it in."""


class JudgeBench(Benchmark):
    """JudgeBench: its score is the accuracy on all pairs; also by group and by source."""

    name = "judgebench"
    about = "JudgeBench: knowledge, reasoning, mathematics and code, answered rightly and wrongly."
    parts = (Part("ScalerLab/JudgeBench", "gpt"), Part("ScalerLab/JudgeBench", "claude"))
    published_rows = 620

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return the pair, the response that the label prefers first."""
        label = one_of(record, "label", ("A>B", "B>A"))
        order = ("response_A", "response_B") if label == "A>B" else ("response_B", "response_A")
        return BenchmarkRow(
            prompt_of(record, "question"),
            (response_of(record, order[0]), response_of(record, order[1])),
            text_in(record, "pair_id"),
            text_in(record, "source"),
            facts={"split": part.split},
        )

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the accuracy, whole, by group, and by the model that wrote the responses."""
        credits = self.credits(rows, scores)
        return {
            "accuracy": Estimate.share(credits),
            **by_subset((_group(row.subset) for row in rows), credits),
            **by_subset((f"{row.facts['split']} responses" for row in rows), credits),
        }


def _group(source: str) -> str:
    return next((group for start, group in GROUPS.items() if source.startswith(start)), "other")
