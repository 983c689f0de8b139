"""Steering: other weights of the objectives, without training.

The gate g (k coefficients that sum to ``total``, its ``logit_scale``) and the debiasing transform T
give the coefficients ``c = T g`` of the rewards.  Steering changes them by

    c = T(s) (t w + (1 - t) f * g) + b

with factors f, weights w mixed in by t, debiasing strengths s, ``T(s) = I + (T - I) diag(s)``, and
direct coefficients b.  Since ``1 . g = total`` for every prompt, all of this is one matrix,
``c = M g``: a model folder that holds M in place of T is steered in every program that reads it.

All of it is numpy, so that saved rewards and gates are steered again without torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, ValidationError, model_validator

from armorm.errors import ArmormError, RecipeError
from armorm.objectives import ObjectiveSet
from armorm.settings import Options, describe_problems

# Below this, a column of T(s) is zero: whatever the gate gives the objective is without effect.
NO_EFFECT = 1e-3


Number = Annotated[float, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Steering(Options):
    """Changes to the weights of the objectives, applied in the order of the fields.

    Args:
        factors: See the field.
        **settings: The other fields.

    Raises:
        RecipeError: A value of the wrong type, out of its range, or not finite.

    Example:
        >>> Steering({"verbosity": 0.0}, debiasing=0.5).as_dict()
        {'factors': {'verbosity': 0.0}, 'debiasing': 0.5}
        >>> Steering.parse(["safety=2", "weights.helpfulness=1", "mixture=0.3"])
        Steering(factors={'safety': 2.0}, weights={'helpfulness': 1.0}, mixture=0.3)
        >>> Steering().is_neutral
        True
    """

    factors: dict[str, Number] = Field(default_factory=dict)
    """Multiply the gate's coefficients; 1 for an objective that is not named. Factor 0 removes an
    objective together with its length penalty."""
    weights: dict[str, Number] | None = None
    """Replace the gate's coefficients; 0 for an objective that is not named. The weight 1 on a
    single objective scores by it alone, debiased, for every prompt."""
    mixture: Share = 1.0
    """Share of the weights; the rest is the gate's, after factors."""
    debiasing: Share | dict[str, Share] = 1.0
    """Strength of the debiasing, from 0 (none) to 1 (as fitted), for all objectives or by name."""
    add: dict[str, Number] = Field(default_factory=dict)
    """Coefficients of the rewards themselves, added at the end: the only way to reward verbosity,
    whose own part full debiasing removes."""
    renormalise: bool = Field(default=False, strict=True)
    """Scale the gate's coefficients so that they sum to what they did before factors. Preference
    probabilities then keep their meaning."""

    def __init__(self, factors: Any = None, **settings: Any) -> None:
        try:
            super().__init__(**{"factors": {} if factors is None else factors, **settings})
        except ValidationError as error:
            problems = "; ".join(describe_problems(error, Steering))
            raise RecipeError(f"Steering cannot be used: {problems}") from None

    @model_validator(mode="after")
    def _check_together(self) -> Steering:
        if self.weights is None and self.mixture != 1:
            raise ValueError("mixture mixes weights with the gate: give weights too.")
        if self.weights is not None and self.mixture == 1 and self.factors:
            raise ValueError(
                "factors act on the gate, which weights replace: give a mixture below 1, or "
                "either factors or weights."
            )
        if self.renormalise and min(self.factors.values(), default=1.0) < 0:
            raise ValueError("renormalise needs factors of 0 or more.")
        return self

    def __repr__(self) -> str:
        knobs = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"Steering({knobs})"

    @classmethod
    def direction(cls, first: str, second: str, degrees: float, **knobs: Any) -> Steering:
        """Return weights of length 1 in the plane of two objectives.

        The angle is that of Directional Preference Alignment (Wang et al. 2024): 0 is the first
        objective alone, and the second has the share ``sin(angle)``, negative below 0.  That paper
        scores by rewards without debiasing: pass ``debiasing=0`` for the same.

        Example:
            >>> Steering.direction("helpfulness", "verbosity", -30, debiasing=0).weights
            {'helpfulness': 0.8660254037844387, 'verbosity': -0.49999999999999994}
        """
        if first == second:
            raise RecipeError(f"A direction needs two objectives, not {first!r} twice.")
        angle = math.radians(degrees)
        return cls(weights={first: math.cos(angle), second: math.sin(angle)}, **knobs)

    @classmethod
    def from_dict(cls, knobs: Mapping[str, Any]) -> Steering:
        """Return the steering that :meth:`as_dict` describes, as a YAML or JSON file may hold it.

        Raises:
            RecipeError: An unknown key, or a value that cannot be used.
        """
        if not isinstance(knobs, Mapping):
            raise RecipeError(f"Steering cannot be used: {knobs!r} has no settings by name.")
        return cls(**{str(name): value for name, value in knobs.items()})

    @classmethod
    def parse(cls, items: Iterable[str]) -> Steering:
        """Return the steering that command-line items describe.

        An item is ``NAME=FACTOR``; ``weights.NAME=…``, ``add.NAME=…``, ``debiasing.NAME=…`` or
        ``factors.NAME=…``; ``mixture=…``, ``debiasing=…`` or ``renormalise=true``.  An objective
        named like a setting is written ``factors.mixture=…``.

        Raises:
            RecipeError: An item of another form.
        """
        knobs: dict[str, Any] = {}
        for item in items:
            target, _, text = item.rpartition("=")
            value: object = {"true": True, "false": False}.get(text)
            with suppress(ValueError):
                value = float(text)
            knob, _, name = target.partition(".")
            if target and value is not None and target in ("mixture", "debiasing", "renormalise"):
                knobs[target] = value
                continue
            if not (name and knob in ("factors", "weights", "add", "debiasing")):
                knob, name = "factors", target
            if not name or not isinstance(value, float):
                raise RecipeError(f"--steer {item}: write it as objective=factor.")
            by_name = knobs.setdefault(knob, {})
            if not isinstance(by_name, dict):
                raise RecipeError(f"--steer {item}: debiasing has a number for all already.")
            by_name[name] = value
        return cls.from_dict(knobs)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, JSON-ready."""
        return self.model_dump(exclude_defaults=True)

    @property
    def is_neutral(self) -> bool:
        """True if no score changes."""
        return self._keeps_the_rest and all(factor == 1 for factor in self.factors.values())

    @property
    def keeps_scale(self) -> bool:
        """True if differences of scores keep their scale, so that probabilities can be given."""
        return self._keeps_the_rest and (self.renormalise or self.is_neutral)

    @property
    def _keeps_the_rest(self) -> bool:
        strengths = self.debiasing.values() if isinstance(self.debiasing, dict) else ()
        return (
            (self.weights is None or self.mixture == 0)
            and (isinstance(self.debiasing, dict) or self.debiasing == 1)
            and all(strength == 1 for strength in strengths)
            and not any(self.add.values())
        )

    def compile(
        self,
        objectives: ObjectiveSet,
        transform: Float[np.ndarray, "k k"],
        total: float,
        *,
        warn: bool = True,
    ) -> CompiledSteering:
        """Return the steering as a matrix, for one model.

        Args:
            objectives: Names of the columns.
            transform: T of the debiasing.
            total: Sum of the gate's coefficients, which is the same for every prompt.
            warn: Warn of factors and weights that have no effect.

        Raises:
            RecipeError: An unknown objective; nothing left to renormalise; or weights for a gate
                whose coefficients sum to 0.
        """
        k = len(objectives)

        def vector(values: Mapping[str, float], otherwise: float) -> Float[np.ndarray, " k"]:
            filled = np.full(k, otherwise)
            for name, value in values.items():
                filled[objectives.column(name)] = value
            return filled

        factors, add = vector(self.factors, 1.0), vector(self.add, 0.0)
        weights = None if self.weights is None else vector(self.weights, 0.0)
        strength = (
            vector(self.debiasing, 1.0)
            if isinstance(self.debiasing, dict)
            else vector({}, self.debiasing)
        )
        if self.is_neutral:
            return CompiledSteering(transform.astype(np.float32))
        if self.renormalise and not factors.any():
            raise RecipeError("steering.renormalise: all factors are 0, so nothing is left.")
        identity = np.eye(k)
        debiasing = identity + (transform.astype(np.float64) - identity) * strength
        share = 0.0 if weights is None else self.mixture
        gate = (1 - share) * (identity if self.renormalise else np.diag(factors))
        constant = add if weights is None else debiasing @ (share * weights) + add
        matrix = debiasing @ gate
        if constant.any():
            if total == 0:
                raise RecipeError("The gate's coefficients sum to 0: only factors can steer it.")
            matrix = matrix + constant[:, None] / total
        if warn and not self.renormalise:
            moved = (factors != 1) if weights is None else (factors != 1) | (weights != 0)
            _warn_of_no_effect(objectives, moved & (np.abs(debiasing).max(axis=0) <= NO_EFFECT))
        return CompiledSteering(
            matrix.astype(np.float32), factors.astype(np.float32) if self.renormalise else None
        )


@dataclass(frozen=True, slots=True)
class CompiledSteering:
    """Steering of one model.

    Attributes:
        matrix: M of ``c = M g``. Shape (k, k).
        renormalised_factors: Factors on g that keep its sum, which no matrix can do. Shape (k,).
    """

    matrix: Float[np.ndarray, "k k"]
    renormalised_factors: Float[np.ndarray, " k"] | None = None

    def coefficients(self, gating: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Return the coefficients of the rewards for each row of the gate's output, in float32."""
        gate = gating.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.renormalised_factors is not None:
                moved = gate * self.renormalised_factors
                gate = moved * (gate.sum(axis=1) / moved.sum(axis=1))[:, None]
            coefficients: Float[np.ndarray, "n k"] = gate @ self.matrix.T.astype(np.float64)
            return coefficients.astype(np.float32)

    def as_transform(self) -> Float[np.ndarray, "k k"]:
        """Return the matrix for a model folder.

        Raises:
            ArmormError: The steering renormalises.
        """
        if self.renormalised_factors is not None:
            raise ArmormError(
                "A model steered with renormalise cannot be saved: the scale depends on the "
                "prompt, and the folder's format holds one matrix. Steer it without renormalise."
            )
        return self.matrix


def _warn_of_no_effect(objectives: ObjectiveSet, without_effect: Bool[np.ndarray, " k"]) -> None:
    for i in np.flatnonzero(without_effect).tolist():
        warnings.warn(
            f"Steering {objectives.names[i]!r} by a factor or weight has no effect: debiasing "
            "removes all of its own reward. Use add to reward or punish it, or debiasing below 1.",
            stacklevel=4,
        )
