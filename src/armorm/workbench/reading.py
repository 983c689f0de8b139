"""Scored files, read without the model that scored them: no torch is imported here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from armorm.conversations import (
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.data.sources import file_rows
from armorm.errors import InputError, RecipeError
from armorm.files import read_json
from armorm.objectives import Objective
from armorm.workbench.model_facts import ModelFolder
from armorm.workbench.scored import ScoredResponses, Turns, group_by_prompt

REMEDY = (
    "Give a file that `armorm score` or `armorm annotate` wrote, or the JSON of `armorm explain` "
    "or `armorm compare`."
)
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest coefficient, between saved coefficients and those
that the model gives: float32 leaves some 1e-7, another model some 1e-1."""


@dataclass(frozen=True, slots=True)
class _Response:
    row: int
    prompt: Turns
    text: str | None
    score: float
    rewards: dict[str, float]
    coefficients: dict[str, float]
    gating: dict[str, float] | None
    source: str | None
    steering: Mapping[str, Any]
    detail: dict[str, Any]


def read_scored(file: Path, model: Path | None = None) -> ScoredResponses:
    """Read the scored responses of a file.

    Args:
        file: Output of ``armorm score`` or ``armorm annotate`` (JSON lines, also .gz, Parquet or
            Arrow), or a ``.json`` file of ``armorm explain --json`` or ``armorm compare --json``.
        model: Folder of the model that scored it, for scales, debiasing and percentiles.

    Raises:
        InputError: A row lacks a field, or holds something else in it.
        RecipeError: The file holds no row, or was not scored by the model.
    """
    if not file.is_file():
        raise RecipeError(f"{file}: there is no such file.")
    responses = list(_answers_of(file) if file.suffix == ".json" else _rows_of(file))
    if not responses:
        raise RecipeError(f"{file} holds no row. {REMEDY}")
    return _joined(file, responses, None if model is None else ModelFolder.read(model))


def _rows_of(file: Path) -> Iterator[_Response]:
    for raw in file_rows(file):
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            yield from _responses(raw.row, raw.fields)
        except InputError as error:
            raise error.at(raw.file, raw.row) from None


def _responses(number: int, row: Mapping[str, Any]) -> Iterator[_Response]:
    if "objective_rewards" in row:
        yield from _annotated(number, row)
    else:
        yield _scored(number, row)


def _scored(number: int, row: Mapping[str, Any]) -> _Response:
    prompt, text = _texts(row)
    rewards = _numbers(row, "rewards")
    return _Response(
        row=number,
        prompt=prompt,
        text=text,
        score=_number(row, "score"),
        rewards=rewards,
        coefficients=_numbers(row, "coefficients", rewards),
        gating=_numbers(row, "gating", rewards) if "gating" in row else None,
        source=_source(row),
        steering=_mapping(row, "steering"),
        detail=_detail(row),
    )


def _annotated(number: int, row: Mapping[str, Any]) -> Iterator[_Response]:
    """Yield the responses of a row of ``armorm annotate``."""
    prompt = _turns(located_in("prompt", validate_prompt, row.get("prompt")))
    responses = row.get("responses")
    if not isinstance(responses, list) or not responses:
        raise InputError("responses", responses, "not a list of responses", REMEDY)
    of_objectives = row["objective_rewards"]
    if not isinstance(of_objectives, Mapping) or not of_objectives:
        raise InputError("objective_rewards", of_objectives, "not rewards by name", REMEDY)
    for place, response in enumerate(responses):
        at = f"[{place}]"
        rewards = {}
        for name, values in of_objectives.items():
            field = f"objective_rewards.{name}"
            rewards[str(name)] = _finite(f"{field}{at}", _item(field, values, place))
        yield _Response(
            row=number,
            prompt=prompt,
            text=located_in(f"responses{at}", validate_response, response),
            score=_finite(f"rewards{at}", _item("rewards", row.get("rewards"), place)),
            rewards=rewards,
            coefficients=_numbers(row, "coefficients", rewards),
            gating=_numbers(row, "gating", rewards) if "gating" in row else None,
            source=_source(row),
            steering=_mapping(row, "steering"),
            detail={},
        )


def _answers_of(file: Path) -> Iterator[_Response]:
    """Yield the responses of an explanation, of a comparison, or of the workbench's export."""
    answer = read_json(file)
    several = answer.get("responses")
    try:
        if isinstance(several, list) and all(isinstance(one, Mapping) for one in several):
            for one in several:
                yield _answered({"prompt": answer.get("prompt"), **one}, "")
        else:
            for side in ("_a", "_b") if "margin" in answer else ("",):
                yield _answered(answer, side)
    except InputError as error:
        raise error.at(str(file), None) from None


def _answered(answer: Mapping[str, Any], side: str) -> _Response:
    objectives = answer.get("objectives")
    if not isinstance(objectives, list) or not objectives:
        raise InputError("objectives", objectives, "no list of objectives", REMEDY)
    by_name: dict[str, Mapping[str, Any]] = {}
    for place, one in enumerate(objectives):
        name = one.get("objective") if isinstance(one, Mapping) else None
        if not isinstance(name, str):
            raise InputError(f"objectives[{place}]", one, "no objective with a name", REMEDY)
        by_name[name] = one

    def column(key: str) -> dict[str, float]:
        return {
            name: _finite(f"objectives.{name}.{key}", one.get(key)) for name, one in by_name.items()
        }

    prompt, text = answer.get("prompt"), answer.get(f"response{side}")
    return _Response(
        row=1,
        prompt=_turns(located_in("prompt", validate_prompt, prompt)) if prompt else (),
        text=located_in(f"response{side}", validate_response, text) if text else None,
        score=_number(answer, f"score{side}"),
        rewards=column(f"reward{side}"),
        coefficients=column("coefficient"),
        gating=None if side else column("gating"),
        source=None,
        steering=_mapping(answer, "steering"),
        detail=_detail(answer),
    )


def _joined(file: Path, responses: list[_Response], model: ModelFolder | None) -> ScoredResponses:
    first = responses[0]
    objectives = _objectives(file, list(first.rewards), model)
    names = [objective.name for objective in objectives]
    for one in responses:
        if one.rewards.keys() != first.rewards.keys():
            raise InputError(
                "rewards",
                list(one.rewards),
                f"not the objectives of row {first.row}",
                "Score all rows with one model.",
                str(file),
                one.row,
            )
        if one.steering != first.steering:
            raise InputError(
                "steering",
                one.steering,
                f"not that of row {first.row}",
                "Score all rows with one steering.",
                str(file),
                one.row,
            )

    def table(of: str, rows: list[_Response]) -> np.ndarray:
        values = [[getattr(one, of)[name] for name in names] for one in rows]
        return np.array(values, dtype=np.float64)

    weights = table("coefficients", responses)
    firsts, owners = group_by_prompt([one.prompt for one in responses], weights)
    heads = [responses[row] for row in firsts]
    gating = None if any(one.gating is None for one in heads) else table("gating", heads)
    coefficients = weights[firsts]
    if model is not None and gating is not None:
        _check_belongs(file, model, gating, coefficients, first.steering)
    return ScoredResponses(
        objectives=objectives,
        prompts=tuple(one.prompt for one in heads),
        coefficients=coefficients,
        gating=gating,
        owners=owners,
        texts=tuple(one.text for one in responses),
        scores=np.array([one.score for one in responses]),
        rewards=table("rewards", responses),
        sources=tuple(one.source for one in responses),
        rows=tuple(one.row for one in responses),
        scales_known=model is not None,
        details=tuple(one.detail for one in responses),
        steering=first.steering,
        facts=None if model is None else model.facts,
    )


def _objectives(file: Path, names: list[str], model: ModelFolder | None) -> tuple[Objective, ...]:
    if model is None:
        return tuple(map(_unscaled, names))
    known = {objective.name for objective in model.objectives}
    if known != set(names):
        raise RecipeError(
            f"{file} was not scored by {model.folder}: its objectives are {', '.join(names)}, "
            f"those of the model {', '.join(sorted(known))}."
        )
    return model.objectives


def _unscaled(name: str) -> Objective:
    try:
        return Objective(name=name)
    except ValidationError:
        raise InputError("rewards", name, "not the name of an objective", REMEDY) from None


def _check_belongs(
    file: Path,
    model: ModelFolder,
    gating: np.ndarray,
    coefficients: np.ndarray,
    steering: Mapping[str, Any],
) -> None:
    if steering:
        return
    off = np.abs(gating @ model.facts.transform.T - coefficients).max()
    if off > TOLERANCE * np.abs(coefficients).max():
        raise RecipeError(
            f"{file} was not scored by {model.folder}: its debiasing gives other coefficients."
        )


def _texts(row: Mapping[str, Any]) -> tuple[Turns, str]:
    if "messages" in row:
        prompt, text = located_in("messages", validate_conversation, row["messages"])
    elif "prompt" in row and "response" in row:
        prompt = located_in("prompt", validate_prompt, row["prompt"])
        text = located_in("response", validate_response, row["response"])
    else:
        raise InputError("messages", None, f"missing; the row has {', '.join(row)}", REMEDY)
    return _turns(prompt), text


def _turns(messages: Any) -> Turns:
    return tuple((message["role"], message["content"]) for message in messages)


def _number(row: Mapping[str, Any], field: str) -> float:
    if field not in row:
        raise InputError(field, None, f"missing; the row has {', '.join(row)}", REMEDY)
    return _finite(field, row[field])


def _finite(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(field, value, "not a finite number", REMEDY)
    return float(value)


def _item(field: str, values: object, place: int) -> object:
    if not isinstance(values, list) or place >= len(values):
        raise InputError(field, values, "not a number for each response", REMEDY)
    return values[place]


def _mapping(row: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = row.get(field) or {}
    if not isinstance(value, Mapping):
        raise InputError(field, value, "not settings by name", REMEDY)
    return value


def _numbers(
    row: Mapping[str, Any], field: str, like: Mapping[str, float] | None = None
) -> dict[str, float]:
    values = row.get(field)
    if not isinstance(values, Mapping) or not values:
        reason = (
            "not numbers by objective" if field in row else f"missing; the row has {', '.join(row)}"
        )
        raise InputError(field, values, reason, REMEDY)
    if like is not None and values.keys() != like.keys():
        raise InputError(field, list(values), "not the objectives of the rewards", REMEDY)
    return {str(name): _finite(f"{field}.{name}", value) for name, value in values.items()}


def _source(row: Mapping[str, Any]) -> str | None:
    source = row.get("source", row.get("subset"))
    return source if isinstance(source, str) else None


def _detail(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the row says of its uncertainty; the half-widths are in unit rewards."""
    deviation = row.get("score_deviation", row.get("deviation"))
    detail: dict[str, Any] = {}
    if deviation is not None:
        detail["deviation"] = _finite("score_deviation", deviation)
    if row.get("novel") is True:
        detail["novel"] = True
    widths = _mapping(row, "half_widths")
    known = {
        name: _finite(f"half_widths.{name}", width)
        for name, width in widths.items()
        if width is not None
    }
    return {**detail, "half_widths": known} if known else detail
