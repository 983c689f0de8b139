"""Reward functions for TRL's GRPO, RLOO and online DPO trainers (signature of TRL 1.16)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from armorm.conversations import OverlongError
from armorm.errors import InputError
from armorm.evaluation.monitoring import DriftReporter
from armorm.integrations.completions import BatchScorer, ScoredCompletions
from armorm.integrations.components import GROUP_KINDS, ComponentKind, GroupComponents
from armorm.integrations.remote import RewardSource, scorer_of
from armorm.model import Risk

TrlRewardFunc = Callable[..., list[float | None]]
LogMetric = Callable[[str, float], None]


def trl_reward_funcs(
    model: RewardSource,
    components: ComponentKind | None = None,
    risk: Risk | float | None = None,
    monitor: DriftReporter | None = None,
) -> list[TrlRewardFunc]:
    """Return reward functions for ``GRPOTrainer(reward_funcs=...)`` and its relatives.

    Args:
        model: The reward model, a :class:`RewardServer`, or addresses of one. A steered model
            rewards as it is steered.
        components: ``None`` for one function that returns the score.  ``gate_weighted`` and
            ``whitened`` for one function named so, beside reward functions of other kinds: it has
            deviation 1 within a prompt's group, whatever the scale of the score.
            ``contributions`` and ``rewards`` for one function per objective, named after it; GDPO
            (``multi_objective_aggregation="normalize_then_sum"``) erases gate and debiasing from
            them, so that an objective that the gate weighs with 0.01 counts as much as one with
            0.90.  See :data:`~armorm.integrations.components.ComponentKind`.
        risk: Reward scores less the price of their uncertainty (:class:`armorm.Risk`, or the number
            of deviations to take off); the deviations are those of differences within the group.
            The mean price is logged as ``armorm/risk``.
        monitor: Reporter of drift (:func:`armorm.integrations.drift_reporter`), which is given each
            batch as a step; it logs ``armorm/drift/<stream>``, the decimal logarithm of the
            evidence, and ``armorm/drift_alarms``, the streams that rang.  Completions of an
            evaluation are given to it too.

    Raises:
        InputError: A risk with components per objective.

    Returns:
        Functions of ``(prompts, completions, **columns) -> list[float | None]``, which share one
        forward pass; ``None`` for a completion that is too long or whose score is not finite, or
        where the server did not answer in time.  TRL
        leaves a row without any reward out of the group's mean and gives it no advantage; their
        numbers are logged as ``armorm/too_long`` and ``armorm/not_finite``.  A single function also
        logs the mean contribution of each objective as ``armorm/<objective>``; a component of the
        group logs its share of the component's variance as ``armorm/share/<objective>``.

        Groups are the equal prompts of one call.  TRL splits a group over processes unless
        ``per_device_train_batch_size`` is a multiple of ``num_generations``; components of the
        group need it to be.
    """
    if risk is not None and components in ("contributions", "rewards"):
        raise InputError(
            "components",
            components,
            "a risk is of the score, not of an objective",
            "Take components='gate_weighted', or leave them out.",
        )
    scorer = scorer_of(model, risk, monitor)
    if components is None:
        return [_score_func(scorer)]
    if components in GROUP_KINDS:
        return [_component_func(scorer, components, components)]
    return [_component_func(scorer, components, name) for name in scorer.objectives()]


def _score_func(scorer: BatchScorer) -> TrlRewardFunc:
    def armorm(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        scored = scorer(prompts, completions)
        _log(scored, columns.get("log_metric"))
        _log_drift(scorer.monitor, columns.get("log_metric"))
        return scored.scores()

    return armorm


def _component_func(scorer: BatchScorer, kind: ComponentKind, name: str) -> TrlRewardFunc:
    def component(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        scored = scorer(prompts, completions)
        found = scored.components(kind)
        if kind in GROUP_KINDS:
            _log(scored, columns.get("log_metric"))
            _log_shares(found, columns.get("log_metric"))
        _log_drift(scorer.monitor, columns.get("log_metric"))
        return scored.spread(found.optimised[name].tolist() if found.optimised else [])

    component.__name__ = component.__qualname__ = name
    return component


def _log(scored: ScoredCompletions, log_metric: LogMetric | None) -> None:
    if log_metric is None:
        return
    errors = scored.refused.values()
    too_long = sum(isinstance(error, OverlongError) for error in errors)
    unreachable = sum(not isinstance(error, InputError) for error in errors)
    log_metric("armorm/too_long", float(too_long))
    log_metric("armorm/not_finite", float(len(errors) - too_long - unreachable))
    log_metric("armorm/unreachable", float(unreachable))
    for name, values in scored.components("contributions").parts.items():
        log_metric(f"armorm/{name}", float(values.mean()))
    if scored.rewards is not None and scored.rewards.pessimistic is not None:
        price = scored.rewards.score - scored.rewards.pessimistic
        log_metric("armorm/risk", float(price.mean()))


def _log_shares(components: GroupComponents, log_metric: LogMetric | None) -> None:
    if log_metric is None or not components.optimised:
        return
    for name, share in components.shares().items():
        log_metric(f"armorm/share/{name}", share)


def _log_drift(reporter: DriftReporter | None, log_metric: LogMetric | None) -> None:
    if reporter is None or log_metric is None:
        return
    log_metric("armorm/drift_alarms", float(len(reporter.monitor.alarms)))
    for name, evidence in reporter.monitor.evidence().items():
        log_metric(f"armorm/drift/{name}", evidence)
