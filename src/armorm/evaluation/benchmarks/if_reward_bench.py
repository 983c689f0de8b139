"""IF-RewardBench (2025): which of many responses follow the instruction better, as a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from armorm.conversations.messages import located_in, validate_response
from armorm.errors import InputError
from armorm.evaluation.benchmarks.base import Benchmark, Scores
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkRow, Part, prompt_of, text_in


class IFRewardBench(Benchmark):
    """IF-RewardBench: mean over instructions of the rank correlation tau with the graph.

    Over the edges of an instruction's preference graph, with C concordant, D discordant and T
    tied ones: accuracy = C / (C + D + T), tau = (C - D) / sqrt((C + D) (C + D + T)), and 0 where
    no edge is concordant or discordant.  Scores are in the order of the responses.
    """

    name = "if-reward-bench"
    about = "IF-RewardBench: preference graphs over responses that follow an instruction."
    parts = (
        Part(
            "thu-coai/IF-RewardBench",
            "test",
            ("data/if_rewardbench.json", "**/*.jsonl", "**/*.parquet", "**/data/*.json"),
            on_hub=False,
        ),
    )
    published_rows = 842

    def row(self, record: Mapping[str, Any], part: Part) -> BenchmarkRow:  # noqa: ARG002
        """Return an instruction with its responses and the edges of its graph."""
        responses = record.get("responses")
        if not isinstance(responses, list) or len(responses) < 2:
            raise InputError("responses", responses, "not a list of responses", "Add them.")
        texts = tuple(_text(one, place) for place, one in enumerate(responses))
        edges = record.get("preference_graph")
        if not isinstance(edges, list) or not edges:
            raise InputError("preference_graph", edges, "not a list of edges", "Add them.")
        ends = tuple(
            (_end(edge, "chosen", i, len(texts)), _end(edge, "rejected", i, len(texts)))
            for i, edge in enumerate(edges)
        )
        for i, (chosen, rejected) in enumerate(ends):
            if chosen == rejected:
                raise InputError(
                    f"preference_graph[{i}]",
                    edges[i],
                    "prefers a response to itself",
                    "Remove the edge.",
                )
        return BenchmarkRow(
            prompt_of(record, "messages"),
            texts,
            text_in(record, "id"),
            str(record.get("instruction_type") or "all"),
            facts={"edges": ends},
        )

    def credit(self, row: BenchmarkRow, scores: Scores) -> float:
        """Return the share of edges whose chosen response scores strictly higher."""
        better, worse = _ends(row, scores)
        return float((better > worse).mean())

    def figures(
        self, rows: Sequence[BenchmarkRow], scores: Sequence[Scores]
    ) -> Mapping[str, Estimate]:
        """Return tau and accuracy over instructions, and the mean of tau over their types."""
        taus = np.array([_tau(row, one) for row, one in zip(rows, scores, strict=True)])
        types = _by_type(rows, taus)
        return {
            "tau": _tau_mean(taus),
            "accuracy": Estimate.share(self.credits(rows, scores)),
            "tau, mean of types": Estimate.mean(types),
            **{f"tau, {name}": estimate for name, estimate in types.items()},
        }


def _by_type(rows: Sequence[BenchmarkRow], taus: Scores) -> dict[str, Estimate]:
    """Return the mean tau of each type of instruction."""
    types = np.array([row.subset for row in rows], dtype=object)
    return {name: _tau_mean(taus[types == name]) for name in sorted(set(types))}


def _tau_mean(taus: Scores) -> Estimate:
    """Return the mean tau with the bootstrap interval over instructions."""
    return Estimate.bootstrapped(
        float(taus.mean()), len(taus), lambda chosen: taus[chosen].mean(axis=1)
    )


def _ends(row: BenchmarkRow, scores: Scores) -> tuple[Scores, Scores]:
    edges = np.array(row.facts["edges"])
    return scores[edges[:, 0]], scores[edges[:, 1]]


def _tau(row: BenchmarkRow, scores: Scores) -> float:
    better, worse = _ends(row, scores)
    concordant, discordant = int((better > worse).sum()), int((better < worse).sum())
    decided = concordant + discordant
    return (concordant - discordant) / max(1.0, math.sqrt(decided * len(better)))


def _text(value: object, place: int) -> str:
    """Return a response, which is text, or an object that holds it as ``response``."""
    text = value.get("response") if isinstance(value, Mapping) else value
    return located_in(f"responses[{place}]", validate_response, text)


def _end(edge: object, side: str, place: int, responses: int) -> int:
    """Return an end of an edge: the number of a response, or an object with its number."""
    value = edge.get(side) if isinstance(edge, Mapping) else None
    number = value.get("response_id") if isinstance(value, Mapping) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < responses:
        raise InputError(
            f"preference_graph[{place}].{side}",
            value,
            f"not the number of one of {responses} responses",
            "Responses are numbered from 0.",
        )
    return number
