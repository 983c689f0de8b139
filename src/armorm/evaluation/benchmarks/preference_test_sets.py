"""Older preference test sets: the prior sets of the score in the ArmoRM paper's Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from armorm.evaluation.benchmarks.base import Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark
from armorm.evaluation.benchmarks.reward_bench import split_conversations
from armorm.evaluation.benchmarks.rows import BenchmarkRow, Part

PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
"""Splits whose plain mean counts half in RewardBench's score with prior sets."""


class PreferenceTestSets(PreferenceBenchmark):
    """Prior sets: their score is the plain mean over four sets."""

    name = "preference-test-sets"
    about = "Prior sets of RewardBench: Anthropic helpful and HHH, SHP, summaries."
    known_subsets = PRIOR_SETS
    parts = tuple(Part("allenai/preference-test-sets", split) for split in PRIOR_SETS)

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return a pair; its subset is the split."""
        return super().row({**split_conversations(record), "subset": part.split}, part)

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the mean over the sets, and the accuracy on all pairs."""
        subsets = self.subsets(rows, scores)
        sets = {name: subsets.get(name, Estimate(None, 0)) for name in PRIOR_SETS}
        return {"score": Estimate.mean(sets), **super().figures(rows, scores)}
