"""Rewards for verl: its custom reward functions, and rows that carry the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from armorm.errors import InputError
from armorm.evaluation.monitoring import DriftReporter
from armorm.integrations.completions import BatchScorer
from armorm.integrations.components import GROUP_KINDS, ComponentKind
from armorm.integrations.remote import RewardSource, scorer_of


def verl_compute_score(
    model: RewardSource,
    components: ComponentKind | None = "contributions",
    monitor: DriftReporter | None = None,
) -> Callable[..., dict[str, float]]:
    """Return a custom reward function (``reward.custom_reward_function.path``).

    verl does not pass the prompt, so a row must carry it in ``extra_info["prompt"]`` as messages:
    :func:`verl_row` copies it there.

    Args:
        model: The reward model, a :class:`RewardServer`, or addresses of one. A steered model
            rewards as it is steered.
        components: Kind of the values beside the score, or ``None`` for none.
        monitor: Reporter of drift (:func:`armorm.integrations.drift_reporter`), which gathers the
            responses into steps of ``ReportingOptions.step``: best the size of a training batch.
            Each answer then has ``drift_alarms``, the number of streams that rang.

    Returns:
        ``compute_score(data_source, solution_str, ground_truth, extra_info)``, which answers
        ``{"score": number, objective: number, …}``; verl logs what is beside the score. It raises
        InputError if the prompt is missing, or the response cannot be scored.

    Raises:
        InputError: Components of a whole group, of which this function sees one response.
    """
    if components in GROUP_KINDS:
        raise InputError(
            "components",
            components,
            "computed from a whole group, and verl calls this function with one response",
            "Name `score` in algorithm.gdpo_reward_keys, which holds the gate: verl normalises it "
            "within the group. Or use verl_batch_compute_score with verl's batch manager.",
        )
    batch = _compute_scores(scorer_of(model, None, monitor, in_batches=False), components)

    def compute_score(
        data_source: str | None = None,
        solution_str: str = "",
        ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        return batch([data_source], [solution_str], [ground_truth], [extra_info])[0]

    return compute_score


def verl_async_compute_score(
    model: RewardSource,
    components: ComponentKind | None = "contributions",
    monitor: DriftReporter | None = None,
) -> Callable[..., Coroutine[Any, Any, dict[str, float]]]:
    """Return the same as a coroutine function, which verl awaits beside others.

    It is for a reward server: the calls that are in flight wait in threads, not in the event loop.
    """
    compute_score = verl_compute_score(model, components, monitor)

    async def compute_score_async(*given: Any, **named: Any) -> dict[str, float]:
        return await asyncio.to_thread(compute_score, *given, **named)

    return compute_score_async


def verl_batch_compute_score(
    model: RewardSource,
    components: ComponentKind | None = "contributions",
    monitor: DriftReporter | None = None,
) -> Callable[..., list[dict[str, float]]]:
    """Return the same for verl's batch reward manager: plural names, one forward pass for all.

    With ``gate_weighted`` or ``whitened`` an answer is ``{"score": number, "gate_weighted": number,
    objective: its part, …}``, so that ``algorithm.gdpo_reward_keys: [gate_weighted]`` can name it.
    The batch must hold whole groups.  A reporter of drift takes each batch as a step.
    """
    return _compute_scores(scorer_of(model, None, monitor), components)


def _compute_scores(
    scorer: BatchScorer, components: ComponentKind | None
) -> Callable[..., list[dict[str, float]]]:

    def compute_scores(
        data_sources: Sequence[str | None] | None = None,
        solution_strs: Sequence[str] = (),
        ground_truths: Sequence[Any] | None = None,
        extra_infos: Sequence[Mapping[str, Any] | None] = (),
        **_: Any,
    ) -> list[dict[str, float]]:
        del data_sources, ground_truths
        prompts = [_prompt(info, row) for row, info in enumerate(extra_infos, start=1)]
        scored = scorer(prompts, solution_strs)
        columns: dict[str, Sequence[Any]] = {"score": scored.all_scores("solution_str")}
        if components is not None and scored.rewards is not None:
            found = scored.components(components)
            columns |= {
                n: values.tolist() for n, values in {**found.optimised, **found.parts}.items()
            }
        if scorer.monitor is not None:
            alarms = len(scorer.monitor.monitor.alarms)
            columns["drift_alarms"] = [float(alarms)] * len(columns["score"])
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    return compute_scores


def verl_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dataset row for verl, with its prompt copied to where the reward function reads."""
    info = dict(row.get("extra_info") or {})
    return {
        **row,
        "data_source": row.get("data_source", "armorm"),
        "reward_model": row.get("reward_model", {"style": "model", "ground_truth": ""}),
        "extra_info": {**info, "prompt": row["prompt"]},
    }


def _prompt(info: Mapping[str, Any] | None, row: int) -> Any:
    prompt = (info or {}).get("prompt")
    if prompt is None:
        raise InputError(
            "extra_info.prompt",
            None,
            "missing, and verl does not pass the prompt otherwise",
            "Make the rows with armorm.integrations.verl_row.",
            row=row,
        )
    # Parquet readers return lists as arrays.
    return prompt.tolist() if hasattr(prompt, "tolist") else prompt
