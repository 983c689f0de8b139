"""RMB (Zhou et al. 2024): helpfulness and harmlessness, in pairs and best of n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from armorm.conversations.messages import located_in, validate_response
from armorm.errors import InputError
from armorm.evaluation.benchmarks.base import Benchmark, Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkRow, Part, prompt_of, text_in

REPOSITORY = "Zhou-Zoey/RMB-Reward-Model-Benchmark"
SETS = {"Pairwise_set": "pairwise", "BoN_set": "best of n"}
GOALS = ("Helpfulness", "Harmlessness")


class RMB(Benchmark):
    """RMB: its score is the plain mean of two goals in two forms.

    Best of n is right if the best response beats every loser.
    """

    name = "rmb"
    about = "RMB: helpfulness and harmlessness in 49 scenarios, in pairs and best of n."
    parts = tuple(
        Part(REPOSITORY, folder, (f"RMB_dataset/{folder}/**/*.json",), on_hub=False)
        for folder in SETS
    )

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:
        """Return a pair, or the best response and the losers to it."""
        if part.split == "Pairwise_set":
            ident = f"pairwise:{text_in(record, 'pair_uid')}"
            responses = [_answer(record.get(side), side) for side in ("chosen", "reject")]
        else:
            ident = f"bon:{text_in(record, 'bon_uid')}"
            losers = record.get("loser_list")
            if not isinstance(losers, list) or not losers:
                raise InputError("loser_list", losers, "not a list of responses", "Add them.")
            responses = [_answer(record.get("bon_best"), "bon_best")]
            responses += [_answer(one, f"loser_list[{i}]") for i, one in enumerate(losers)]
        path = text_in(record, "category_path")
        folder, _, scenario = path.partition("/")
        goal = scenario.partition("/")[0]
        if folder != part.split or goal not in GOALS:
            raise InputError(
                "category_path",
                path,
                "unknown scenario",
                f"It begins with {part.split}/{GOALS[0]}/ or {part.split}/{GOALS[1]}/.",
            )
        form = SETS[folder]
        return BenchmarkRow(
            prompt_of(record, "conversation_input"),
            tuple(responses),
            ident,
            f"{scenario}, {form}",
            facts={"column": f"{goal.lower()}, {form}"},
        )

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the mean of the four columns of the paper's table, and the columns."""
        credits = self.credits(rows, scores)
        column = np.array([row.facts["column"] for row in rows], dtype=object)
        columns = {
            name: Estimate.share(credits[column == name])
            for name in (f"{goal.lower()}, {form}" for goal in GOALS for form in SETS.values())
        }
        return {"overall": Estimate.mean(columns), **columns}


def _answer(value: object, field: str) -> str:
    if not isinstance(value, Mapping):
        raise InputError(field, value, "not an answer", 'RMB has {"llm_name": …, "answer": …}.')
    return located_in(f"{field}.answer", validate_response, value.get("answer"))
