"""Explanations and comparisons, made from scores."""

from __future__ import annotations

import math
from typing import Any

from armorm.model.answers import (
    Comparison,
    ConfounderPart,
    Explanation,
    ObjectiveDifference,
    ObjectiveShare,
    Rewards,
    RewardUncertainty,
    finite_or_none,
)
from armorm.model.confounder import Confounder
from armorm.objectives import Objective, ObjectiveSet


def explanation_of(
    rewards: Rewards, objectives: ObjectiveSet, confounder: Confounder | None
) -> Explanation:
    """Return the explanation of the first score.

    Args:
        rewards: The score.
        objectives: Names and scales.
        confounder: The model's confounder, if it is debiased.
    """
    ratings = objectives.to_ratings(rewards.rewards.numpy())[0].tolist()
    sure = rewards.uncertainty
    shares = [
        ObjectiveShare(
            objective=objective.name,
            reward=float(rewards.rewards[0, i]),
            rating=ratings[i],
            gating=float(rewards.gating[0, i]),
            coefficient=float(rewards.coefficients[0, i]),
            contribution=float(rewards.contributions[0, i]),
            **_sureness(sure, i, objective, ratings[i]),
        )
        for i, objective in enumerate(objectives)
    ]
    shares.sort(key=lambda share: -abs(share.contribution))
    return Explanation(
        score=float(rewards.score[0]),
        objectives=tuple(shares),
        deviation=None if sure is None else finite_or_none(float(sure.score[0])),
        epistemic=None if sure is None else finite_or_none(float(sure.score_epistemic[0])),
        novelty=None if sure is None else float(sure.novelty[0]),
        novel=None if sure is None or sure.usual_novelty is None else bool(sure.novel[0]),
        steering=rewards.steering,
        confounder=None if confounder is None else _part(rewards, confounder),
    )


def _sureness(
    sure: RewardUncertainty | None, column: int, objective: Objective, rating: float
) -> dict[str, Any]:
    """Return what is known of one rating's uncertainty, in its units."""
    if sure is None:
        return {}
    scale = abs(objective.unit_one - objective.unit_zero)
    half = float(sure.half_widths[0, column]) * scale
    return {
        "deviation": finite_or_none(float(sure.deviations[0, column]) * scale),
        "epistemic": finite_or_none(float(sure.epistemic[0, column]) * scale),
        "interval": (rating - half, rating + half) if math.isfinite(half) else None,
    }


def comparison_of(
    rewards: Rewards,
    objectives: ObjectiveSet,
    probability: float | None,
    confounder: Confounder | None,
) -> Comparison:
    """Return the comparison of the first score with the second.

    Args:
        rewards: Scores of two responses to one prompt.
        objectives: Names and scales.
        probability: Probability that the first is preferred.
        confounder: The model's confounder, if it is debiased.
    """
    ratings = objectives.to_ratings(rewards.rewards.numpy()).tolist()
    differences = [
        ObjectiveDifference(
            objective=name,
            coefficient=float(rewards.coefficients[0, i]),
            rating_a=ratings[0][i],
            rating_b=ratings[1][i],
            reward_a=float(rewards.rewards[0, i]),
            reward_b=float(rewards.rewards[1, i]),
            contribution=float(rewards.contributions[0, i] - rewards.contributions[1, i]),
        )
        for i, name in enumerate(objectives.names)
    ]
    differences.sort(key=lambda difference: -abs(difference.contribution))
    score_a, score_b = rewards.score.tolist()
    return Comparison(
        score_a=score_a,
        score_b=score_b,
        margin=score_a - score_b,
        probability=probability,
        preferred="a" if score_a > score_b else "b" if score_b > score_a else "tie",
        objectives=tuple(differences),
        steering=rewards.steering,
        confounder=None if confounder is None else _part(rewards, confounder, score_a - score_b),
    )


def _part(rewards: Rewards, confounder: Confounder, margin: float | None = None) -> ConfounderPart:
    """Return the part of the first score, or of the margin between the first two."""
    gating = rewards.gating[0].double()
    coefficient = float(confounder.coefficient(rewards.coefficients[:1])[0])
    values = rewards.rewards[:, confounder.column].double()
    contribution = coefficient * float(values[0] if margin is None else values[0] - values[1])
    return ConfounderPart(
        objective=confounder.name,
        kept=confounder.mirror is not None,
        gate_share=float(gating[confounder.columns].sum() / gating.sum()),
        coefficient=coefficient,
        contribution=contribution,
        share=contribution / margin if margin else None,
    )
