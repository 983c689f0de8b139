"""Saved scores under another steering: neither backbone nor torch.

A scored row holds its rewards r and its gate g, and its score under a steering is ``(M g) . r``.  M
comes from the debiasing T: of the model folder, or else of the rows themselves, since each row that
was scored without steering holds both g and T g.  Rows tell T only on the span of their gates; a
steering that leaves it, such as one that keeps an objective whose share never varied, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from armorm.data.sources import file_rows
from armorm.data.tables import RawRow
from armorm.errors import ArmormError, InputError, RecipeError
from armorm.files import json_line, open_atomically, refuse_same_file
from armorm.model.profiles import SteeringProfile
from armorm.model.saved_heads import SavedHeads
from armorm.model.steering import CompiledSteering, Steering
from armorm.objectives import Objective, ObjectiveSet

TRANSFORM_ROWS = 10_000
"""Rows that the debiasing is recovered from."""

ROWS_AT_ONCE = 1024
SAME = 1e-4
"""Largest difference of a coefficient, over the largest one, that counts as rounding."""

_OF_OTHER_COEFFICIENTS = ("pessimistic", "score_deviation", "score_epistemic", "meets_floors")
"""Fields of a scored row that hold for the coefficients it was scored with alone."""


@dataclass(frozen=True, slots=True)
class ScoredResponses:
    """Rewards and gate of a scored row: one response, or the candidates of one prompt.

    Attributes:
        objectives: Names of the k objectives.
        rewards: Unit rewards. Shape (n, k).
        gating: Output of the gate for the prompt. Shape (k,).
        coefficients: Weights that the row was scored with. Shape (k,).
        annotated: The row is one of ``armorm annotate``, with several responses.
        steered: The row was scored under a steering.
    """

    objectives: tuple[str, ...]
    rewards: Float[np.ndarray, "n k"]
    gating: Float[np.ndarray, " k"]
    coefficients: Float[np.ndarray, " k"]
    annotated: bool
    steered: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ScoredResponses:
        """Read a row of ``armorm score`` or ``armorm annotate``.

        Raises:
            InputError: It holds no rewards and gate by objective, or one that is no finite number.
        """
        annotated = "objective_rewards" in row
        by_objective = "objective_rewards" if annotated else "rewards"
        gating = _numbers(row.get("gating"), "gating")
        objectives = tuple(gating)

        def ordered(field: str) -> Float[np.ndarray, " k"]:
            values = _numbers(row.get(field), field)
            if values.keys() != gating.keys():
                raise _not_scored(field, row.get(field))
            return np.array([values[name] for name in objectives])

        if annotated:
            listed = row["objective_rewards"]
            if not isinstance(listed, Mapping) or listed.keys() != gating.keys():
                raise _not_scored(by_objective, listed)
            columns = [_column(listed[name], f"{by_objective}.{name}") for name in objectives]
            if len({len(column) for column in columns}) != 1:
                raise _not_scored(by_objective, listed)
            rewards = np.array(columns).T
        else:
            rewards = ordered(by_objective)[None]
        return cls(
            objectives,
            rewards,
            ordered("gating"),
            ordered("coefficients"),
            annotated,
            row.get("steering") is not None,
        )


@dataclass(frozen=True, slots=True)
class Resteering:
    """A steering of saved scores.

    Attributes:
        objectives: Names and scales of the objectives.
        compiled: The steering as a matrix.
        steering: The steering.
        profile: The profile it comes from, if any.
        alternatives: The same steering for every other debiasing that the rows allow.
    """

    objectives: ObjectiveSet
    compiled: CompiledSteering
    steering: Steering
    profile: SteeringProfile | None = None
    alternatives: tuple[CompiledSteering, ...] = ()

    @classmethod
    def of(
        cls,
        steering: Steering | SteeringProfile,
        objectives: ObjectiveSet,
        transforms: Sequence[Float[np.ndarray, "k k"]],
        total: float,
    ) -> Resteering:
        """Return the steering of scores.

        Args:
            steering: A steering or a profile.
            objectives: Names and scales.
            transforms: Debiasing, and others that the rows allow.
            total: Sum of the gate's coefficients.

        Raises:
            RecipeError: The steering is not for these objectives, or has a risk, which needs the
                features.
        """
        profile = steering if isinstance(steering, SteeringProfile) else None
        if profile is not None:
            profile.check(objectives)
            if profile.risk is not None:
                raise RecipeError(
                    f"profile {profile.name}: risk: the deviation of a score under other weights "
                    "needs the features, which rows do not hold. Score the texts again."
                )
            steering = profile.steering
        assert isinstance(steering, Steering)
        first, *others = [
            steering.compile(objectives, transform, total, warn=not i)
            for i, transform in enumerate(transforms)
        ]
        return cls(objectives, first, steering, profile, tuple(others))

    def apply(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a scored row under the steering.

        Raises:
            InputError: The row is not a scored one, or of other objectives; or rows alone do not
                say what the steering makes of it.
        """
        scored = ScoredResponses.of(row)
        if scored.objectives != self.objectives.names:
            raise InputError(
                "gating",
                list(scored.objectives),
                f"not the objectives {', '.join(self.objectives.names)}",
                "Steer the rows of one model at a time.",
            )
        coefficients = self._coefficients(scored.gating)
        scores = (coefficients * scored.rewards.astype(np.float32)).astype(np.float64).sum(axis=1)
        values: list[float] = scores.astype(np.float32).tolist()
        floors = {} if self.profile is None else self.profile.floors
        columns = [self.objectives.column(name) for name in floors]
        least = np.array(list(floors.values()), np.float64)
        meets = [bool((one >= least).all()) for one in scored.rewards[:, columns]]
        dropped = ("steering", "profile", *_OF_OTHER_COEFFICIENTS)
        steered = {name: value for name, value in row.items() if name not in dropped}
        names = self.objectives.names
        steered |= {
            **({"rewards": values} if scored.annotated else {"score": values[0]}),
            "coefficients": dict(zip(names, coefficients.tolist(), strict=True)),
        }
        if floors:
            steered["meets_floors"] = meets if scored.annotated else meets[0]
        if not self.steering.is_neutral:
            steered["steering"] = self.steering.as_dict()
        if self.profile is not None:
            steered["profile"] = self.profile.reference
        return steered

    def _coefficients(self, gating: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        found: Float[np.ndarray, " k"] = self.compiled.coefficients(gating[None])[0]
        for other in self.alternatives:
            if np.abs(other.coefficients(gating[None])[0] - found).max() > SAME * _size(found):
                raise InputError(
                    "gating",
                    dict(zip(self.objectives.names, gating.tolist(), strict=True)),
                    "the rows do not say how the model debiases what this steering weighs",
                    "Name the model (--model).",
                )
        return found


def resteer_file(
    source: Path,
    output: Path,
    steering: Steering | SteeringProfile,
    model: SavedHeads | None = None,
) -> int:
    """Steer the rows of ``armorm score`` or ``armorm annotate`` again; return their number.

    Args:
        source: JSON lines (also .gz), Parquet or Arrow.
        output: JSON lines.
        steering: A steering or a profile, in place of what the rows were scored with.
        model: The model that scored them. Without it, its debiasing is recovered from rows that
            were scored without steering.

    Raises:
        InputError: A row is not a scored one, or the rows do not determine the scores.
        ArmormError: The rows were scored under a steering, or by several models.
    """
    refuse_same_file(source, output)
    scored = [_scored(raw) for raw in islice(file_rows(source), TRANSFORM_ROWS)]
    if not scored:
        raise ArmormError(f"{source} holds no rows.")
    if model is None:
        objectives, transforms = _recovered(scored)
        total = float(scored[0].gating.sum())
    else:
        objectives, transforms, total = model.objectives, [model.transform], model.total
    found = Resteering.of(steering, objectives, transforms, total)
    rows = 0
    with open_atomically(output) as file:
        for raw in file_rows(source):
            try:
                file.write(json_line(found.apply(_fields(raw)), default=str))
            except InputError as error:
                raise error.at(raw.file, raw.row) from None
            rows += 1
    return rows


def _recovered(
    scored: Sequence[ScoredResponses],
) -> tuple[ObjectiveSet, list[Float[np.ndarray, "k k"]]]:
    """Return the objectives of rows, and a basis of the debiasings that they allow."""
    if any(one.steered for one in scored):
        raise ArmormError(
            "The rows were scored under a steering, so they do not say how the model debiases. "
            "Name the model (--model)."
        )
    names = scored[0].objectives
    if any(one.objectives != names for one in scored):
        raise ArmormError("The rows have several sets of objectives. Steer one model's at a time.")
    gating = np.stack([one.gating for one in scored])
    coefficients = np.stack([one.coefficients for one in scored])
    _, sizes, axes = np.linalg.svd(gating, full_matrices=len(gating) < len(names))
    known = int((sizes > 1e-5 * sizes[0]).sum())
    inverse = np.linalg.pinv(gating, rcond=1e-5)
    transform = (inverse @ coefficients).T
    # On what the rows leave open, an objective counts for itself.
    rest = axes[known:].T @ axes[known:]
    transform = transform + rest
    if np.abs(gating @ transform.T - coefficients).max() > SAME * _size(coefficients):
        raise ArmormError("The rows are not of one model. Steer one model's at a time.")
    objectives = ObjectiveSet([Objective(name=name) for name in names])
    others = [transform + np.outer(np.ones(len(names)), axis) for axis in axes[known:]]
    return objectives, [transform, *others]


def _scored(raw: RawRow) -> ScoredResponses:
    try:
        return ScoredResponses.of(_fields(raw))
    except InputError as error:
        raise error.at(raw.file, raw.row) from None


def _fields(raw: RawRow) -> Mapping[str, Any]:
    if isinstance(raw.fields, InputError):
        raise raw.fields
    return raw.fields


def _size(coefficients: Float[np.ndarray, ...]) -> float:
    return max(float(np.abs(coefficients).max()), 1e-12)


def _numbers(value: object, field: str) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise _not_scored(field, value)
    return {str(name): _number(one, f"{field}.{name}") for name, one in value.items()}


def _column(value: object, field: str) -> list[float]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _not_scored(field, value)
    return [_number(one, f"{field}[{i}]") for i, one in enumerate(value)]


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(field, value, "not a finite number", "Score the row again.")
    return float(value)


def _not_scored(field: str, value: object) -> InputError:
    return InputError(
        field,
        value,
        "not a number for each objective",
        "Give rows that `armorm score` or `armorm annotate` wrote.",
    )
