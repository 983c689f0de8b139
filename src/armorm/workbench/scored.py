"""Scored responses, as the pages take them: numbers, texts, and what steering them needs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.objectives import Objective

Turns = tuple[tuple[str, str], ...]
"""Messages of a prompt, each with its role and its text."""

SAME_WEIGHTS = 1e-4
"""Largest difference, as a share of the largest one, of coefficients that one gate gave."""


@dataclass(frozen=True, slots=True)
class ReferenceSample:
    """Held-out responses of a model (:mod:`armorm.model.reference`).

    Attributes:
        gating: Output of the gate for their prompts. Shape (prompts, k).
        rewards: Their unit rewards. Shape (responses, k).
        owners: Position of each response's prompt. Shape (responses,).
    """

    gating: Float[np.ndarray, "prompts k"]
    rewards: Float[np.ndarray, "responses k"]
    owners: Int[np.ndarray, " responses"]

    def payload(self) -> dict[str, Any]:
        """Return the means that are drawn, and the sample that percentiles are taken from."""
        return {
            "of": "the reference responses",
            "rewards": self.rewards.astype(np.float64).mean(axis=0).tolist(),
            "gating": self.gating.astype(np.float64).mean(axis=0).tolist(),
            "sample": {
                "gating": as_base64(self.gating),
                "rewards": as_base64(self.rewards),
                "owners": self.owners.tolist(),
            },
        }


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Part of a model that scores are steered and read with.

    Attributes:
        transform: T of the debiasing, without any steering. Shape (k, k).
        beta: Learned scale of the Bradley–Terry model, if known.
        quantiles: 0th to 100th percentile of reference scores, if known.
        dropped: Objective that debiasing drops from the score, if it drops one.
        sample: Responses that scores are compared with, if known.
    """

    transform: Float[np.ndarray, "k k"]
    beta: float | None = None
    quantiles: tuple[float, ...] | None = None
    dropped: str | None = None
    sample: ReferenceSample | None = None


@dataclass(frozen=True, slots=True)
class ScoredResponses:
    """Responses to p prompts, n in all, with their rewards under k objectives.

    Attributes:
        objectives: Names and scales of the columns.
        prompts: Messages of each prompt; empty where they are unknown.
        coefficients: Weights of the rewards in the scores, by prompt. Shape (p, k).
        gating: Output of the gate by prompt, if known. Shape (p, k).
        owners: Position of each response's prompt.
        texts: Each response; ``None`` where it is unknown.
        scores: Shape (n,).
        rewards: Unit rewards. Shape (n, k).
        sources: Name of the source of each response, if it has one.
        rows: Number of each response's row in its file.
        neighbours: Average output of the gate over prompts that are like each one, if known.
            Shape (p, k).
        scales_known: The objectives' scales are those of the model, not made up.
        details: More about each response: ``deviation``, ``novel``, ``half_widths``
            by objective, ``trajectory``.
        steering: Settings of the steering that shaped the scores.
        floors: Floors that rank the responses.
        facts: The model's part; without it only the parts of a score can be steered.
    """

    objectives: tuple[Objective, ...]
    prompts: tuple[Turns, ...]
    coefficients: Float[np.ndarray, "p k"]
    gating: Float[np.ndarray, "p k"] | None
    owners: tuple[int, ...]
    texts: tuple[str | None, ...]
    scores: Float[np.ndarray, " n"]
    rewards: Float[np.ndarray, "n k"]
    sources: tuple[str | None, ...]
    rows: tuple[int, ...]
    neighbours: Float[np.ndarray, "p k"] | None = None
    scales_known: bool = True
    details: tuple[Mapping[str, Any], ...] = ()
    steering: Mapping[str, Any] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    facts: ModelFacts | None = None

    def payload(self, title: str, subtitle: str = "") -> dict[str, Any]:
        """Return what the view draws, JSON-ready; matrices are base64 of little-endian float32."""
        facts = self.facts
        sample = None if facts is None else facts.sample
        return {
            "title": title,
            "subtitle": subtitle,
            "objectives": [_objective(one) for one in self.objectives],
            "prompts": [list(map(list, turns)) for turns in self.prompts],
            "coefficients": as_base64(self.coefficients),
            "gating": None if self.gating is None else as_base64(self.gating),
            "neighbours": None if self.neighbours is None else as_base64(self.neighbours),
            "scales": self.scales_known,
            "responses": {
                "prompt": list(self.owners),
                "text": list(self.texts),
                "source": list(self.sources),
                "row": list(self.rows),
                "score": as_base64(self.scores),
                "rewards": as_base64(self.rewards),
                "details": list(map(dict, self.details)) if any(self.details) else None,
            },
            "steering": dict(self.steering) or None,
            "floors": dict(self.floors),
            "transform": None if facts is None else facts.transform.tolist(),
            "beta": None if facts is None else facts.beta,
            "quantiles": None if facts is None else facts.quantiles,
            "dropped": None if facts is None else facts.dropped,
            "reference": None if sample is None else sample.payload(),
        }


def group_by_prompt(
    prompts: Sequence[Turns], weights: Float[np.ndarray, "n k"]
) -> tuple[list[int], tuple[int, ...]]:
    """Return the first row of each distinct prompt, and for each row its prompt's position.

    Rows share a prompt when they also share its weights, but for the rounding of another batch.

    Args:
        prompts: Prompt of each row.
        weights: Coefficients of each row.
    """
    known: dict[Turns, list[int]] = {}
    firsts: list[int] = []
    owners = []
    tolerance = SAME_WEIGHTS * np.abs(weights).max(initial=0.0)
    for row, prompt in enumerate(prompts):
        places = known.setdefault(prompt, [])
        same = (p for p in places if np.abs(weights[row] - weights[firsts[p]]).max() <= tolerance)
        place = next(same, len(firsts))
        if place == len(firsts):
            firsts.append(row)
            places.append(place)
        owners.append(place)
    return firsts, tuple(owners)


def _objective(objective: Objective) -> dict[str, Any]:
    return {
        "name": objective.name,
        "description": objective.description,
        "zero": objective.unit_zero,
        "one": objective.unit_one,
        "high": objective.maximum,
        "neutral": objective.direction == "neutral" or objective.mirrors is not None,
    }


def as_base64(values: Float[np.ndarray, ...]) -> str:
    """Return numbers as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()
