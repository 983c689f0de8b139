"""RewardBench (Lambert et al. 2024): accuracy by section, and the score of the paper.

Sections weigh their subsets by the published example counts; math-prm counts 984, twice its 447
rows and a little more, so that mathematics and code weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from armorm.evaluation.benchmarks.preference_pairs import PreferenceBenchmark
from armorm.evaluation.preferences import PreferenceReport

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

PRIOR_SETS = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")
"""Subsets of ``preference-test-sets``, whose plain mean counts half in the paper's score."""


class RewardBench(PreferenceBenchmark):
    """RewardBench's board: the mean of four sections, and the paper's score with prior sets."""

    name = "reward-bench"
    about = "RewardBench: chat, hard chat, safety and reasoning."

    def figures(self, pairs: PreferenceReport) -> Mapping[str, float | None]:
        """Return the board's score, the sections, and the paper's score with prior sets.

        The paper's score = (Chat + Chat Hard + Safety + Reasoning + 0.5 Prior Sets) / 4.5 needs
        the rows of ``preference-test-sets`` too.  A figure is None while one of its subsets has no
        row.
        """
        sections = {name: _weighted(pairs, counts) for name, counts in SECTIONS.items()}
        prior = _weighted(pairs, dict.fromkeys(PRIOR_SETS, 1))
        board = _mean(dict.fromkeys(sections, 1.0), sections)
        with_prior = {**sections, "Prior Sets": prior}
        weights = {name: 0.5 if name == "Prior Sets" else 1.0 for name in with_prior}
        return {
            "score": board,
            **with_prior,
            "score with prior sets": _mean(weights, with_prior),
        }


def _weighted(pairs: PreferenceReport, counts: Mapping[str, int]) -> float | None:
    shares = {
        name: pairs.subsets[name].accuracy if name in pairs.subsets else None for name in counts
    }
    return _mean(counts, shares)


def _mean(weights: Mapping[str, float], values: Mapping[str, float | None]) -> float | None:
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < len(weights):
        return None
    return sum(weights[name] * known[name] for name in weights) / sum(weights.values())
