"""Tables 1 and 2 of the ArmoRM paper, with our rows beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.results import BenchmarkResult, Figures

COLUMNS = ("Score", "Board", "Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets")
"""Columns: the paper's score with prior sets, the board's without, the sections, prior sets."""

TABLE_1 = "Wang et al. 2024, arXiv:2406.12845, Table 1"
TABLE_2 = "Wang et al. 2024, arXiv:2406.12845, Table 2"

SECTION_NAMES = ("Chat", "Chat Hard", "Safety", "Reasoning")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table, in shares.

    Attributes:
        method: Method, or name of the scorer.
        base: Base model of a published row; empty for ours.
        values: Estimates by column; without an interval for a published row.
        source: Where a published row comes from; empty for ours.
    """

    method: str
    base: str
    values: Mapping[str, Estimate]
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def _published(source: str, method: str, base: str, score: float, *rest: float) -> TableRow:
    *sections, prior = rest
    # The paper prints no score without prior sets; it follows from the sections.
    board = sum(sections) / len(sections)
    values = dict(zip(COLUMNS, (score, round(board, 1), *sections, prior), strict=True))
    return TableRow(
        method, base, {name: Estimate(value / 100, 0) for name, value in values.items()}, source
    )


PUBLISHED_1 = tuple(
    _published(TABLE_1, *row)
    for row in (
        ("HelpSteer2 RM", "Nemotron-4 340B", 89.3, 95.8, 87.1, 91.5, 93.7, 67.4),
        ("ArmoRM + MoE", "Llama-3 8B", 89.0, 96.9, 76.8, 92.2, 97.3, 74.3),
        ("HelpSteer2 RM", "Llama-3 70B", 86.3, 91.3, 80.3, 92.8, 90.7, 66.5),
        ("Preference Model", "Llama-3 8B", 85.7, 98.3, 65.8, 89.7, 94.7, 74.6),
        ("LLM-as-a-judge", "GPT-4 Turbo", 84.2, 95.3, 74.3, 87.2, 86.9, 70.9),
        ("LLM-as-a-judge", "GPT-4o", 83.3, 96.6, 70.4, 86.7, 84.9, 72.6),
        ("Bradley-Terry", "Llama-3 8B", 83.6, 99.4, 65.1, 87.8, 86.4, 74.9),
        ("Bradley-Terry", "Yi-34B", 81.4, 96.9, 57.2, 88.2, 88.5, 71.4),
    )
)
"""Table 1 of the paper."""

PUBLISHED_2 = tuple(
    _published(TABLE_2, method, "Llama-3 8B", *row)
    for method, row in (
        ("ArmoRM + Fixed Weights", (84.9, 99.4, 62.3, 90.2, 92.5, 75.3)),
        ("ArmoRM + Gating Weights", (89.0, 96.9, 76.8, 92.2, 97.3, 74.3)),
    )
)
"""Table 2 of the paper: the gate against fixed weights."""


def table_1(
    reward_bench: Sequence[BenchmarkResult], prior_sets: Sequence[BenchmarkResult] = ()
) -> list[TableRow]:
    """Return the published rows, then ours.

    Args:
        reward_bench: Results on RewardBench.
        prior_sets: Results on the prior sets; without them there is no score of the paper.
    """
    prior = {result.scorer: result.whole for result in prior_sets}
    ours = [_row(one.scorer, one.whole, prior.get(one.scorer)) for one in reward_bench]
    return [*PUBLISHED_1, *ours]


def table_2(
    reward_bench: Sequence[BenchmarkResult], prior_sets: Sequence[BenchmarkResult] = ()
) -> list[TableRow]:
    """Return the published rows, then ours of every model with fixed weights beside its gate."""
    prior = {result.scorer: result for result in prior_sets}
    ours = []
    for result in reward_bench:
        if result.fixed is None:
            continue
        name, fixed = result.fixed
        sets = prior.get(result.scorer)
        fixed_sets = None if sets is None else sets.parts[name]
        ours += [
            _row(f"{result.scorer}, {name}", fixed, fixed_sets),
            _row(f"{result.scorer}, gate", result.whole, None if sets is None else sets.whole),
        ]
    return [*PUBLISHED_2, *ours] if ours else []


def _row(name: str, sections: Figures, prior: Figures | None) -> TableRow:
    """Return a row: the score is (the four sections + 0.5 prior sets) / 4.5."""
    found = {section: sections.figures[section] for section in SECTION_NAMES}
    prior_sets = Estimate(None, 0) if prior is None else prior.score
    weights = {section: (1.0, estimate) for section, estimate in found.items()}
    score = Estimate.weighted({**weights, "Prior Sets": (0.5, prior_sets)})
    values = {"Score": score, "Board": sections.score, **found, "Prior Sets": prior_sets}
    return TableRow(name, "", values)
