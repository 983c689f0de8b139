"""Recipes: everything that a training run depends on, in one validated YAML file.

Defaults are the paper's, but for a smaller gate.  An unknown key is an error that names the nearest
known ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import model_validator

from armorm.data import DataSource, HeldOut, InvalidPolicy, objective_set
from armorm.errors import RecipeError
from armorm.features import BackboneSource, PrefixCuts, StoreOptions
from armorm.heads import DebiasingOptions, GateOptions, HeadOptions
from armorm.heads.options import Seed
from armorm.objectives import Objective, ObjectiveSet
from armorm.settings import Options
from armorm.training.recipe_file import apply_override, read_recipe_file
from armorm.training.tuning.options import FinetuneOptions, PairwiseOptions, PretrainingOptions


class DataSection(Options):
    """Sources of the ratings and preferences."""

    rated: tuple[DataSource, ...]
    """Sources of rated responses, for stage 1."""
    preferences: tuple[DataSource, ...]
    """Sources of preference pairs, for stage 2."""
    held_out: HeldOut = HeldOut()
    """Prompts that are kept out of training, for the reported figures."""
    leave_out: tuple[str, ...] = ()
    """Sources whose pairs are kept out of debiasing and stage 2; the figures are then on all of
    their pairs, and on no others. all: the run is as without it, and has a table of figures on each
    source besides, trained without that source."""
    invalid: InvalidPolicy = "error"
    """Treatment of a bad row: error stops at the first one, skip counts and lists them."""

    @property
    def leaves_each_out(self) -> bool:
        """True if each source is left out in turn."""
        return self.leave_out == ("all",)

    @property
    def sources_left_out(self) -> tuple[str, ...]:
        """Sources that stage 2 is not trained on."""
        return () if self.leaves_each_out else self.leave_out

    @model_validator(mode="after")
    def _all_stands_alone(self) -> DataSection:
        if "all" in self.leave_out and len(self.leave_out) > 1:
            raise ValueError("leave_out: all leaves out each source in turn; name no other with it")
        return self

    @model_validator(mode="after")
    def _check_catalog(self) -> DataSection:
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
    finetune: FinetuneOptions = FinetuneOptions()
    """Course of the fine-tuning, where that is the method."""


class Recipe(Options):
    """Everything that a training run depends on.

    Example:
        >>> recipe = Recipe.load("recipes/quickstart.yaml")
        >>> recipe.objective_set().names[0]
        'helpdesk-correctness'
        >>> recipe.debiasing.objective
        'helpdesk-verbosity'
    """

    name: str = "armorm"
    """Name of the run."""
    seed: Seed = 0
    """Seed of all randomness."""
    objectives: str | tuple[str | Objective, ...] = "paper"
    """Objectives that are regressed: paper for the paper's nineteen, the name of a dataset of the
    catalogue for those that it rates, or a list of such names and of objectives with their
    scales."""
    backbone: BackboneSource = BackboneSource()
    """The model that reads the conversations."""
    data: DataSection
    """Sources of the ratings and preferences."""
    pretraining: PretrainingOptions | None = None
    """Bradley–Terry training of the backbone before all else; null for none."""
    pairwise: PairwiseOptions = PairwiseOptions()
    """Training of a pairwise preference model on the same pairs, by `armorm train-pairwise`."""
    features: StoreOptions = StoreOptions()
    """Storage of the features."""
    head: HeadSection = HeadSection()
    """Stage 1, the regression of the objectives."""
    debiasing: DebiasingOptions = DebiasingOptions()
    """Removal of one objective, such as verbosity, from the others."""
    gate: GateOptions = GateOptions()
    """Stage 2, the gate."""

    @model_validator(mode="after")
    def _check_objectives(self) -> Recipe:
        objectives = self.objective_set()
        if mirrors := [one.name for one in objectives if one.mirrors is not None]:
            raise ValueError(
                f"objectives: {mirrors[0]} mirrors another one. Leave mirrors out: "
                "debiasing.confounder: kept adds such an objective to the model."
            )
        for source in self.data.rated:
            source.check_scales(objectives)
        if self.debiasing.objective is not None:
            confounder = objectives[objectives.column(self.debiasing.objective)]
            reverse = confounder.mirrored().name
            if self.debiasing.confounder == "kept" and reverse in objectives.names:
                raise ValueError(
                    f"objectives: debiasing.confounder: kept adds {reverse} to the model, and "
                    "there is an objective of this name. Rename it."
                )
        return self

    @model_validator(mode="after")
    def _prefixes_need_ridge(self) -> Recipe:
        if self.head.prefixes and self.head.method != "ridge":
            raise ValueError("head.prefixes: beginnings are fitted on by head.method: ridge only")
        if self.head.prefixes and self.backbone.engine == "vllm":
            raise ValueError("head.prefixes: vLLM does not return the states of beginnings")
        return self

    @property
    def prefix_cuts(self) -> PrefixCuts | None:
        """Beginnings of the rated responses that the head is fitted on too."""
        return PrefixCuts(self.head.prefix_cuts, self.seed) if self.head.prefixes else None

    @property
    def trains_head_with_backbone(self) -> bool:
        """True if W comes from fine-tuning and not from a ridge fit."""
        return self.head.method == "finetune" and self.head.finetune.final_head == "trained"

    def objective_set(self) -> ObjectiveSet:
        """Return the objectives, in the order of the reward columns."""
        parts = self.objectives
        return objective_set(*([parts] if isinstance(parts, str) else parts))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a YAML file.

        Args:
            path: The file.
            overrides: Changes such as ``gate.steps=500``.

        Raises:
            RecipeError: The file cannot be read, or keys or values are wrong; the message names
                every problem.

        Example:
            >>> recipe = Recipe.load("recipes/quickstart.yaml", ["gate.steps=500"])
            >>> recipe.gate.steps
            500
        """
        content = read_recipe_file(Path(path))
        for override in overrides:
            apply_override(content, override)
        try:
            return cls.validated(content, str(path))
        except RecursionError:
            raise RecipeError(f"{path} is nested too deeply.") from None

    def with_layer(self, layer: int) -> Recipe:
        """Return the recipe with another layer of the backbone."""
        backbone = self.backbone.model_copy(update={"layer": layer})
        return self.model_copy(update={"backbone": backbone})

    def dump(self) -> str:
        """Return the whole recipe as YAML, with all defaults written out."""
        content = self.model_dump(mode="json")
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return text
