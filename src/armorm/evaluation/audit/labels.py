"""Detector: how far can the probabilities be trusted, and which labels look wrong?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from armorm.conversations import PreferencePair
from armorm.evaluation.audit.probes import Scores
from armorm.evaluation.audit.statistics import REPLICATES, UNKNOWN, Estimate, share
from armorm.heads.metrics import calibration

WORST = 20
"""Disagreements that a report lists."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair whose rejected response scores higher.

    Attributes:
        pair: Name or number of the pair.
        group: Its group.
        prompt: Last user turn.
        chosen: The response that the label prefers.
        rejected: The one that scores higher.
        margin: Score of chosen minus rejected, in standard deviations of the margins.
        probability: Bradley–Terry probability of the label; None without a scale.
        objectives: Contributions to the margin that speak most against the label.
    """

    pair: str
    group: str
    prompt: str
    chosen: str
    rejected: str
    margin: float
    probability: float | None
    objectives: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LabelReport:
    """Agreement of the scores with the labels.

    Attributes:
        accuracy: Share of pairs whose chosen response scores higher; a tie is wrong.
        groups: The same by group.
        calibration_error: Expected calibration error of the probabilities, if there are any.
        bins: Reliability: per bin of confidence its mean, the accuracy and the number of pairs.
        uncalibrated: Reason why there are no probabilities; empty if there are.
        disagreements: The pairs with the most negative margins.
    """

    accuracy: Estimate
    groups: Mapping[str, Estimate]
    calibration_error: Estimate
    bins: Sequence[Mapping[str, float]]
    uncalibrated: str
    disagreements: tuple[Disagreement, ...]

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        by_group = {f"accuracy({group})": found for group, found in self.groups.items()}
        return {
            "accuracy": self.accuracy,
            **by_group,
            "calibration_error": self.calibration_error,
        }


def compare_with_labels(
    scores: Scores,
    pairs: Sequence[PreferencePair],
    groups: Sequence[str],
    clusters: Int[np.ndarray, " pairs"],
    beta: float | None,
    *,
    seed: int = 0,
) -> LabelReport:
    """Return the agreement of scores with labels.

    Args:
        scores: Scores of pairs: chosen and rejected in turn.
        pairs: The pairs.
        groups: Group of each pair.
        clusters: Number of the prompt of each pair.
        beta: Scale of the Bradley–Terry probabilities; None if the scores have none.
        seed: Of the resampling.
    """
    margins = scores.margins
    named = np.array(groups, dtype=object)
    error, bins = UNKNOWN, []
    if beta is not None and (found := calibration(margins, beta)) is not None:
        error, bins = _calibration_error(margins, clusters, beta, seed), found.bins
    return LabelReport(
        accuracy=share(margins > 0),
        groups={group: share(margins[named == group] > 0) for group in sorted(set(groups))},
        calibration_error=error,
        bins=bins,
        uncalibrated="" if beta is not None else "the scores have no learned scale",
        disagreements=_worst(scores, pairs, groups, beta),
    )


def _calibration_error(
    margins: Float[np.ndarray, " pairs"],
    clusters: Int[np.ndarray, " pairs"],
    beta: float,
    seed: int,
) -> Estimate:
    _, number = np.unique(clusters, return_inverse=True)
    members = [np.flatnonzero(number == one) for one in range(int(number.max()) + 1)]
    draw = np.random.default_rng(seed)

    def error(rows: Float[np.ndarray, " _"]) -> float:
        found = calibration(rows, beta)
        assert found is not None
        return found.error

    value = error(margins)
    errors = []
    for _ in range(REPLICATES):
        chosen = draw.integers(len(members), size=len(members))
        errors.append(error(margins[np.concatenate([members[one] for one in chosen])]))
    # Resampling adds to the error as sampling did, so the quantiles are reflected (basic interval).
    low, high = 2 * value - np.quantile(errors, [0.975, 0.025])
    return Estimate(value, max(float(low), 0.0), max(float(high), 0.0), len(margins))


def _worst(
    scores: Scores, pairs: Sequence[PreferencePair], groups: Sequence[str], beta: float | None
) -> tuple[Disagreement, ...]:
    margins = scores.margins
    unit = float(margins.std()) or 1.0
    parts = scores.contributions[::2] - scores.contributions[1::2]
    found = []
    for place in np.argsort(margins, kind="stable")[:WORST].tolist():
        if margins[place] >= 0:
            break
        pair = pairs[place]
        against = [i for i in np.argsort(parts[place])[:3] if parts[place, i] < 0]
        found.append(
            Disagreement(
                pair=pair.id or str(place + 1),
                group=groups[place],
                prompt=pair.prompt[-1]["content"],
                chosen=pair.chosen,
                rejected=pair.rejected,
                margin=float(margins[place]) / unit,
                probability=None
                if beta is None
                else float(scipy.special.expit(beta * margins[place])),
                objectives={scores.objectives[i]: float(parts[place, i]) / unit for i in against},
            )
        )
    return tuple(found)
