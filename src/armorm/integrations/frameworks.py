"""OpenRLHF, verl and NeMo-RL: their own signatures and wire formats over a reward model.

Each builder takes a model and returns the function the framework calls.  None of them imports the
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from armorm.conversations import Message
from armorm.conversations.markup import parse_prompt, parse_response
from armorm.errors import InputError
from armorm.integrations.completions import CompletionScorer, Component
from armorm.model import RewardModel

PromptParser = Callable[[str], Sequence[Message]]


def openrlhf_answer(
    model: RewardModel,
    component: Component = "contributions",
    parse_prompt: PromptParser = parse_prompt,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What a remote reward server answers OpenRLHF (``--reward.remote_url http://…``).

    Args:
        model: The reward model.
        component: What the per-objective values in ``extra_logs`` are.
        parse_prompt: Takes a prompt in the policy's template apart.

    Returns:
        A function from the request ``{"query": [text], "prompts": [text], "labels": [...]}`` to
        ``{"rewards": [number], "scores": [number], "extra_logs": {objective: [number]}}``.

    Raises (the function returned):
        InputError: a query that cannot be scored.  Nothing is guessed: OpenRLHF trains on
            whatever number comes back.
    """
    scorer = CompletionScorer(model)

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        queries, prompts = _texts(request, "query"), _texts(request, "prompts")
        if len(queries) != len(prompts):
            raise InputError(
                "prompts", len(prompts), f"there are {len(queries)} queries", "Send one for each."
            )
        responses = [
            _response(query, prompt, row)
            for row, (query, prompt) in enumerate(zip(queries, prompts, strict=True), start=1)
        ]
        scored = scorer([parse_prompt(prompt) for prompt in prompts], responses)
        scores = scored.scores()
        for row, score in enumerate(scores, start=1):
            if score is None:
                raise _too_long(model, "query", queries[row - 1], row)
        return {"rewards": scores, "scores": scores, "extra_logs": scored.components(component)}

    return answer


def openrlhf_reward_func(
    model: RewardModel,
    component: Component = "contributions",
    parse_prompt: PromptParser = parse_prompt,
) -> Callable[[Sequence[str], Sequence[str], Any], dict[str, Any]]:
    """The ``reward_func(queries, prompts, labels)`` of a reward file for OpenRLHF.

    Arguments and errors are those of :func:`openrlhf_answer`; the values are float32 tensors of
    shape (n,).
    """
    answer = openrlhf_answer(model, component, parse_prompt)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Any = None
    ) -> dict[str, Any]:
        found = answer({"query": queries, "prompts": prompts, "labels": labels})
        logs = {name: torch.tensor(values) for name, values in found["extra_logs"].items()}
        rewards = torch.tensor(found["rewards"])
        return {"rewards": rewards, "scores": rewards, "extra_logs": logs}

    return reward_func


def verl_compute_score(
    model: RewardModel, component: Component | None = "contributions"
) -> Callable[..., dict[str, float]]:
    """verl's custom reward function (``reward.custom_reward_function.path``).

    verl does not pass the prompt, so a row must carry it in ``extra_info["prompt"]`` as messages:
    :func:`verl_row` puts it there.

    Returns:
        ``compute_score(data_source, solution_str, ground_truth, extra_info)`` answering
        ``{"score": number, objective: number, …}``; verl logs what is beside the score.
        ``component`` says what the per-objective values are, ``None`` leaves them out.

    Raises (the function returned):
        InputError: the prompt is missing, or the response is too long.
    """
    batch = verl_batch_compute_score(model, component)

    def compute_score(
        data_source: str | None = None,
        solution_str: str = "",
        ground_truth: Any = None,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, float]:
        return batch([data_source], [solution_str], [ground_truth], [extra_info])[0]

    return compute_score


def verl_batch_compute_score(
    model: RewardModel, component: Component | None = "contributions"
) -> Callable[..., list[dict[str, float]]]:
    """The same for verl's batch reward manager: plural names, one forward pass for all."""
    scorer = CompletionScorer(model)

    def compute_scores(
        data_sources: Sequence[str | None] | None = None,
        solution_strs: Sequence[str] = (),
        ground_truths: Sequence[Any] | None = None,
        extra_infos: Sequence[Mapping[str, Any] | None] = (),
        **_: Any,
    ) -> list[dict[str, float]]:
        del data_sources, ground_truths
        prompts = [_verl_prompt(info, row) for row, info in enumerate(extra_infos, start=1)]
        scored = scorer(prompts, solution_strs)
        columns = {"score": scored.scores()}
        if component is not None:
            columns |= scored.components(component)
        for row, score in enumerate(columns["score"], start=1):
            if score is None:
                raise _too_long(model, "solution_str", solution_strs[row - 1], row)
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    return compute_scores


def verl_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset row for verl with its prompt copied to where the reward function finds it."""
    info = dict(row.get("extra_info") or {})
    return {
        **row,
        "data_source": row.get("data_source", "armorm"),
        "reward_model": row.get("reward_model", {"style": "model", "ground_truth": ""}),
        "extra_info": {**info, "prompt": row["prompt"]},
    }


def nemo_rl_rewards(
    model: RewardModel, component: Component | None = "contributions"
) -> Callable[[Sequence[Sequence[Mapping[str, Any]]]], Tensor | dict[str, Tensor]]:
    """Rewards for the ``step`` of a NeMo-RL environment.

    Args:
        model: The reward model.
        component: Reward components ``{"reward/<objective>": tensor}`` for multi-reward
            algorithms (GDPO); ``None`` for one tensor of scores.

    Returns:
        A function of message logs (lists of ``{"role", "content", …}`` that end with the
        assistant's turn), answering float32 tensors of shape (n,) for
        ``EnvironmentReturn.rewards``.

    Raises (the function returned):
        InputError: a log that cannot be scored.
    """
    scorer = CompletionScorer(model)

    def rewards(
        message_logs: Sequence[Sequence[Mapping[str, Any]]],
    ) -> Tensor | dict[str, Tensor]:
        turns = [
            [{"role": m["role"], "content": m["content"]} for m in log] for log in message_logs
        ]
        scored = scorer([log[:-1] for log in turns], [log[-1:] for log in turns])
        scores = scored.scores()
        for row, score in enumerate(scores, start=1):
            if score is None:
                raise _too_long(model, "message_log", turns[row - 1][-1]["content"], row)
        if component is None:
            return torch.tensor(scores)
        return {
            f"reward/{name}": torch.tensor(values)
            for name, values in scored.components(component).items()
        }

    return rewards


def _texts(request: Mapping[str, Any], field: str) -> list[str]:
    value = request.get(field)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            field, value, "not a list of texts", 'Send {"query": […], "prompts": […]}.'
        )
    return list(texts)


def _response(query: str, prompt: str, row: int) -> str:
    if not query.startswith(prompt):
        raise InputError(
            "query",
            query,
            "does not begin with its prompt",
            "Send both decoded in the same way.",
            row=row,
        )
    return parse_response(query[len(prompt) :])


def _verl_prompt(info: Mapping[str, Any] | None, row: int) -> Any:
    prompt = (info or {}).get("prompt")
    if prompt is None:
        raise InputError(
            "extra_info.prompt",
            None,
            "missing, and verl does not pass the prompt otherwise",
            "Make the rows with armorm.integrations.verl_row.",
            row=row,
        )
    # Parquet readers hand lists over as arrays.
    return prompt.tolist() if hasattr(prompt, "tolist") else prompt


def _too_long(model: RewardModel, field: str, text: str, row: int) -> InputError:
    return InputError(
        field,
        text,
        f"longer than {model.backbone.encoder.max_length} tokens",
        "Load the model with overlong='drop_oldest_turns', or limit the response length.",
        row=row,
    )
