"""RewardBench (Lambert et al. 2024): accuracy by section, and the score of its board.

Sections weigh their subsets by the published example counts; math-prm counts 984, twice its 447
rows and a little more, so that mathematics and code weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from armorm.conversations.messages import located_in, validate_conversation
from armorm.evaluation.benchmarks.base import Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark
from armorm.evaluation.benchmarks.rows import BenchmarkRow, Part, one_of, text_in

SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""Subsets of each section with the examples that each counts for."""

SUBSETS = tuple(name for counts in SECTIONS.values() for name in counts)


class RewardBench(PreferenceBenchmark):
    """RewardBench: its score is the plain mean of four sections.

    A section is None while one of its subsets has no row.
    """

    name = "reward-bench"
    about = "RewardBench: chat, hard chat, safety and reasoning."
    parts = (Part("allenai/reward-bench", "filtered"),)
    published_rows = 2_985
    known_subsets = SUBSETS

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return a pair of one of the published subsets."""
        one_of(record, "subset", SUBSETS)
        text_in(record, "id")
        return super().row(split_conversations(record), part)

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the board's score, the sections, and the accuracy on all pairs."""
        subsets = self.subsets(rows, scores)
        sections = {
            name: Estimate.weighted(
                {s: (count, subsets.get(s, Estimate(None, 0))) for s, count in counts.items()}
            )
            for name, counts in SECTIONS.items()
        }
        return {"score": Estimate.mean(sections), **sections, **super().figures(rows, scores)}


def split_conversations(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a pair of two whole conversations as a prompt with two responses.

    As RewardBench does, the prompt is the beginning of the chosen conversation, whatever the
    column ``prompt`` says.
    """
    if not isinstance(record.get("chosen"), list):
        return record
    prompt, chosen = located_in("chosen", validate_conversation, record["chosen"])
    rejected = located_in("rejected", validate_conversation, record.get("rejected"))[1]
    return {**record, "prompt": prompt, "chosen": chosen, "rejected": rejected}
