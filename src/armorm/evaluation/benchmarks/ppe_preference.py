"""PPE human preference (Frick et al. 2024): votes of people between two models' responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from armorm.errors import SkippedRowError
from armorm.evaluation.benchmarks.base import Benchmark, Scores, by_subset
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.preference_pairs import by_length
from armorm.evaluation.benchmarks.rows import (
    BenchmarkRow,
    Part,
    one_of,
    prompt_of,
    response_of,
    text_in,
)

TIES = ("tie", "tie (bothbad)")
FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "math_prompt", "is_code")
"""Columns that are true for a kind of prompts, whose accuracy is reported."""


class PPEPreference(Benchmark):
    """PPE human preference: its score is the accuracy on votes that are no ties.

    The responses' models give more figures: for each pair of models the share of prompts that
    the first one wins, by people's votes and by scores, and from these the mean correlation of a
    model's shares (row-wise Pearson) and the rank correlations of the models' mean shares.
    """

    name = "ppe-preference"
    about = "PPE: 16,038 votes of people between the responses of twenty models."
    parts = (Part("lmarena-ai/PPE-Human-Preference-V1", "test"),)
    published_rows = 16_038

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:  # noqa: ARG002
        """Return the pair, the winner first; a tie is left out."""
        winner = one_of(record, "winner", ("model_a", "model_b", *TIES))
        if winner in TIES:
            raise SkippedRowError("winner", winner, "a tie of the voters", "")
        models = text_in(record, "model_a"), text_in(record, "model_b")
        responses = response_of(record, "response_1"), response_of(record, "response_2")
        first = int(winner == "model_b")
        return BenchmarkRow(
            prompt_of(record),
            (responses[first], responses[1 - first]),
            text_in(record, "question_id"),
            str(record.get("language") or "unknown"),
            facts={
                "winner": models[first],
                "loser": models[1 - first],
                "kinds": tuple(flag for flag in FLAGS if record.get(flag) is True),
            },
        )

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the accuracy, whole, by length and kind of prompt, and the models' agreement."""
        credits = self.credits(rows, scores)
        kinds = {
            flag: np.array([flag in row.facts["kinds"] for row in rows], bool) for flag in FLAGS
        }
        return {
            "accuracy": Estimate.share(credits),
            **by_length(rows, credits),
            **{
                kind.replace("_", " "): Estimate.share(credits[members])
                for kind, members in kinds.items()
                if members.any()
            },
            **_agreement(rows, scores),
        }

    def subsets(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return the accuracy by language."""
        return by_subset((row.subset for row in rows), self.credits(rows, scores))


def _agreement(rows: Sequence[BenchmarkRow], scores: Sequence[Scores]) -> dict[str, Estimate]:
    """Return how well scores reproduce the votes between models; None below three models."""
    names = sorted({row.facts[side] for row in rows for side in ("winner", "loser")})
    place = {name: number for number, name in enumerate(names)}
    votes, wins = np.zeros((2, len(names), len(names)))
    for row, found in zip(rows, scores, strict=True):
        winner, loser = place[row.facts["winner"]], place[row.facts["loser"]]
        votes[winner, loser] += 1
        credit = float(found[0] > found[1]) + 0.5 * float(found[0] == found[1])
        wins[winner, loser] += credit
        wins[loser, winner] += 1 - credit
    battles = votes + votes.T
    with np.errstate(invalid="ignore"):
        people, model = votes / battles, wins / battles
    each = [
        _correlation(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in zip(people, model, strict=True)
    ]
    pearson = [one for one in each if one is not None]
    means = [np.nanmean(np.where(battles > 0, table, np.nan), axis=1) for table in (people, model)]
    ranks = [_ranks(mean) for mean in means]
    agreement = {
        "row-wise Pearson": float(np.mean(pearson)) if pearson else None,
        "Spearman of models": _correlation(*ranks),
        "Kendall of models": _kendall(*means),
    }
    return {name: Estimate(value, len(names)) for name, value in agreement.items()}


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return mean ranks; equal values share theirs."""
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, np.float64)


def _kendall(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    """Return tau-b."""
    x, y = (np.sign(v[:, None] - v[None, :]) for v in (a, b))
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if len(a) > 2 and size > 0 else None
