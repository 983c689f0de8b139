"""A recipe: everything a training run depends on, in one validated YAML file.

Defaults are the paper's.  An unknown key is an error that names its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import model_validator

from armorm.data import DataSource, HeldOut, InvalidPolicy, objective_set
from armorm.errors import RecipeError
from armorm.features import BackboneSource, StoreOptions
from armorm.heads import DebiasingOptions, GateOptions, HeadOptions
from armorm.heads.options import Seed
from armorm.objectives import Objective, ObjectiveSet
from armorm.settings import Options
from armorm.training.tuning.options import FinetuneSection, PretrainingSection


class DataSection(Options):
    """Where ratings and preferences come from.

    Attributes:
        rated: Sources of rated responses (stage 1).
        preferences: Sources of preference pairs (stage 2).
        held_out: Which prompts are kept for the reported figures.
        invalid: ``error`` stops at the first bad row; ``skip`` counts and lists them.
    """

    rated: tuple[DataSource, ...]
    preferences: tuple[DataSource, ...]
    held_out: HeldOut = HeldOut()
    invalid: InvalidPolicy = "error"

    @model_validator(mode="after")
    def _catalogue_has_these_rows(self) -> DataSection:
        for source in self.rated:
            source.check_catalog("rated")
        for source in self.preferences:
            source.check_catalog("preferences")
        return self


class HeadSection(HeadOptions):
    """Options of stage 1, and of its rival that trains the backbone too."""

    method: Literal["ridge", "finetune"] = "ridge"
    """Ridge regression on the features of the frozen backbone, or finetune: the same loss through
    the backbone too."""
    finetune: FinetuneSection = FinetuneSection()
    """Course of the fine-tuning, where that is the method."""


class Recipe(Options):
    """Everything a training run depends on.

    Attributes:
        name: Name of the run.
        seed: The one seed all randomness comes from.
        objectives: ``paper``, a dataset of the catalogue for the objectives that it rates, or a
            list of such names and of objectives with their scales.
        pretraining: Bradley–Terry training of the backbone before all else; ``null`` for none.
    """

    name: str = "armorm"
    seed: Seed = 0
    objectives: str | tuple[str | Objective, ...] = "paper"
    backbone: BackboneSource = BackboneSource()
    data: DataSection
    pretraining: PretrainingSection | None = None
    features: StoreOptions = StoreOptions()
    head: HeadSection = HeadSection()
    debiasing: DebiasingOptions = DebiasingOptions()
    gate: GateOptions = GateOptions()

    @model_validator(mode="after")
    def _known_objectives(self) -> Recipe:
        objectives = self.objective_set()
        for source in self.data.rated:
            source.check_scales(objectives)
        if self.debiasing.objective is not None:
            objectives.column(self.debiasing.objective)
        return self

    @property
    def trains_head_with_backbone(self) -> bool:
        """Whether W comes from fine-tuning, not from a ridge fit."""
        return self.head.method == "finetune" and self.head.finetune.final_head == "trained"

    def objective_set(self) -> ObjectiveSet:
        """The objectives, in the order of the reward columns."""
        parts = self.objectives
        return objective_set(*([parts] if isinstance(parts, str) else parts))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe and apply overrides such as ``gate.steps=500``.

        Raises:
            RecipeError: the file cannot be read, or a key or value is wrong; every problem is
                named.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise RecipeError(f"{path} is not a recipe: it must be a mapping of sections.")
        for override in overrides:
            _apply_override(content, override)
        return cls.validated(content, str(path))

    def dump(self) -> str:
        """The whole recipe as YAML, defaults written out."""
        content = self.model_dump(mode="json")
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return text


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}: write it as section.key=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: {text!r} is not YAML: {error}") from error
    *path, last = key.split(".")
    place: Any = content
    for step in path:
        if isinstance(place, list):
            place = place[_list_position(place, step, override)]
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        if not isinstance(place, dict | list):
            raise RecipeError(f"--set {override}: {step!r} holds a value, not a section.")
    if isinstance(place, list):
        place[_list_position(place, last, override)] = value
    else:
        place[last] = value


def _list_position(items: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(items):
        raise RecipeError(f"--set {override}: {step!r} is not a position in 0 to {len(items) - 1}.")
    return int(step)
