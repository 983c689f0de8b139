"""Explanations and comparisons, made from scores."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Literal

from armorm.heads.uncertainty import CONFORMAL_LEVEL
from armorm.model.answers import Rewards, RewardUncertainty, finite_or_none
from armorm.model.confounder import Confounder
from armorm.model.explanations import (
    Comparison,
    ConfounderPart,
    Explanation,
    ObjectiveDifference,
    ObjectiveShare,
)
from armorm.model.flips import flips_of
from armorm.model.layout import Heads
from armorm.model.reference import Reference
from armorm.objectives import Objective

NORMAL_HALF_WIDTH = NormalDist().inv_cdf((1 + CONFORMAL_LEVEL) / 2)
"""Standard deviations on either side of the mean that hold as much of a normal distribution."""


def explanation_of(
    rewards: Rewards,
    heads: Heads,
    confounder: Confounder | None,
    reference: Reference | None = None,
    percentile: float | None = None,
) -> Explanation:
    """Return the explanation of the first score.

    Args:
        rewards: The score.
        heads: Heads of the model that gave it.
        confounder: The model's confounder, if it is debiased.
        reference: The model's reference, if it has one.
        percentile: Percentage of the reference scores below this one.
    """
    sure = rewards.uncertainty
    shares = [
        _share(rewards, column, objective, reference)
        for column, objective in enumerate(heads.objectives)
    ]
    shares.sort(key=lambda share: -abs(share.effect))
    mean_score = None
    if reference is not None:
        mean_score = float(rewards.coefficients[0].double() @ reference.mean_rewards)
    return Explanation(
        score=float(rewards.score[0]),
        objectives=tuple(shares),
        mean_score=mean_score,
        percentile=percentile,
        neighbours=None if rewards.neighbours is None or reference is None else reference.compared,
        deviation=None if sure is None else finite_or_none(float(sure.score[0])),
        epistemic=None if sure is None else finite_or_none(float(sure.score_epistemic[0])),
        novelty=None if sure is None else float(sure.novelty[0]),
        novel=None if sure is None or sure.usual_novelty is None else bool(sure.novel[0]),
        steering=rewards.steering,
        profile=rewards.profile,
        confounder=None if confounder is None else _part(rewards, confounder),
    )


def _share(
    rewards: Rewards, column: int, objective: Objective, reference: Reference | None
) -> ObjectiveShare:
    reward = float(rewards.rewards[0, column])
    coefficient = float(rewards.coefficients[0, column])
    rating = objective.to_rating(reward)
    compared: dict[str, Any] = {}
    if reference is not None:
        mean = float(reference.mean_rewards[column])
        compared = {
            "mean_reward": mean,
            "above_mean": coefficient * (reward - mean),
            "mean_gating": float(reference.mean_gating[column]),
        }
    if rewards.neighbours is not None:
        compared["neighbours_gating"] = float(rewards.neighbours[0, column])
    return ObjectiveShare(
        objective=objective.name,
        reward=reward,
        rating=rating,
        gating=float(rewards.gating[0, column]),
        coefficient=coefficient,
        contribution=float(rewards.contributions[0, column]),
        **_sureness(rewards.uncertainty, column, objective, rating),
        **compared,
    )


def _sureness(
    sure: RewardUncertainty | None, column: int, objective: Objective, rating: float
) -> dict[str, Any]:
    """Return what is known of one rating's uncertainty, in its units."""
    if sure is None:
        return {}
    scale = abs(objective.unit_one - objective.unit_zero)
    deviation = finite_or_none(float(sure.deviations[0, column]) * scale)
    return {
        "deviation": deviation,
        "epistemic": finite_or_none(float(sure.epistemic[0, column]) * scale),
        "interval": _around(rating, float(sure.half_widths[0, column]) * scale),
        "normal_interval": _around(rating, NORMAL_HALF_WIDTH * (deviation or math.nan)),
    }


def _around(center: float, half: float) -> tuple[float, float] | None:
    return (center - half, center + half) if math.isfinite(half) else None


def comparison_of(
    rewards: Rewards,
    heads: Heads,
    probability: float | None,
    confounder: Confounder | None,
) -> Comparison:
    """Return the comparison of the first score with the second.

    Args:
        rewards: Scores of two responses to one prompt.
        heads: Heads of the model that gave them.
        probability: Probability that the first is preferred.
        confounder: The model's confounder, if it is debiased.
    """
    ratings = heads.objectives.to_ratings(rewards.rewards.numpy()).tolist()
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
        for i, name in enumerate(heads.objectives.names)
    ]
    differences.sort(key=lambda difference: -abs(difference.contribution))
    score_a, score_b = rewards.score[:2].tolist()
    return Comparison(
        score_a=score_a,
        score_b=score_b,
        margin=score_a - score_b,
        probability=probability,
        preferred=_preferred(rewards),
        below_floors=tuple(
            name for name, meets in zip("ab", rewards.meets().tolist(), strict=True) if not meets
        ),
        objectives=tuple(differences),
        flips=flips_of(rewards, heads),
        steering=rewards.steering,
        profile=rewards.profile,
        confounder=None if confounder is None else _part(rewards, confounder, score_a - score_b),
    )


def _preferred(rewards: Rewards) -> Literal["a", "b", "tie"]:
    """Return the response that ranks first: the profile's floors come before the scores."""
    a, b = zip(rewards.meets().tolist(), rewards.score.tolist(), strict=True)
    return "a" if a > b else "b" if b > a else "tie"


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
