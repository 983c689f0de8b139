"""Reward functions for TRL's GRPO, RLOO and online DPO trainers (signature of TRL 1.16)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from armorm.conversations import OverlongError
from armorm.integrations.completions import CompletionScorer, Component, ScoredCompletions
from armorm.model import RewardModel

TrlRewardFunc = Callable[..., list[float | None]]


def trl_reward_funcs(
    model: RewardModel, per_objective: bool = False, component: Component = "contributions"
) -> list[TrlRewardFunc]:
    """Return reward functions for ``GRPOTrainer(reward_funcs=...)`` and its relatives.

    Train with GRPO on the score.  GDPO (``multi_objective_aggregation="normalize_then_sum"``)
    divides every component by its standard deviation within the prompt's group.  Gate and
    debiasing coefficients are the same for a whole group, so they cancel: an objective that the
    gate weighs with 0.01 counts as much as one with 0.90.

    Args:
        model: The reward model. A steered model rewards as it is steered.
        per_objective: Return one function per objective, named after it, instead of one for the
            score. They share one forward pass.
        component: Kind of a reward per objective: see
            :data:`~armorm.integrations.completions.Component`.

    Returns:
        Functions of ``(prompts, completions, **columns) -> list[float | None]``; ``None`` for a
        completion that is too long or whose score is not finite.  TRL counts a row without any
        reward as 0 and warns; their numbers are logged as ``armorm/too_long`` and
        ``armorm/not_finite``.  The function for the score also logs the mean contribution of each
        objective.
    """
    scorer = CompletionScorer(model)
    if not per_objective:
        return [_score_func(scorer)]
    return [_objective_func(scorer, name, component) for name in model.objectives.names]


def _score_func(scorer: CompletionScorer) -> TrlRewardFunc:
    def armorm(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        scored = scorer(prompts, completions)
        _log(scored, columns.get("log_metric"))
        return scored.scores()

    return armorm


def _objective_func(scorer: CompletionScorer, name: str, component: Component) -> TrlRewardFunc:
    def objective(
        prompts: Sequence[Any], completions: Sequence[Any], **_: Any
    ) -> list[float | None]:
        scored = scorer(prompts, completions)
        nothing: list[float | None] = [None] * scored.size
        return scored.components(component).get(name, nothing)

    objective.__name__ = objective.__qualname__ = name
    return objective


def _log(scored: ScoredCompletions, log_metric: Callable[[str, float], None] | None) -> None:
    if log_metric is None:
        return
    too_long = sum(isinstance(error, OverlongError) for error in scored.refused.values())
    log_metric("armorm/too_long", float(too_long))
    log_metric("armorm/not_finite", float(len(scored.refused) - too_long))
    for name, values in scored.components("contributions").items():
        log_metric(f"armorm/{name}", fmean(value for value in values if value is not None))
