"""What the stages read: the recipe's data, and the backbone that features come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.data import Loaded, read_preferences, read_rated, separate_prompts
from armorm.errors import ArmormError
from armorm.features import Backbone, FeatureBackbone, load_engine
from armorm.training.recipe import Recipe
from armorm.training.tuning.folders import backbone_folder

RecipeData = tuple[Loaded[RatedResponse], Loaded[PreferencePair]]


def read_data(recipe: Recipe, output: Path, *, show_progress: bool = False) -> RecipeData:
    """Both kinds of data; skipped rows are listed in ``invalid-*.jsonl`` in the run folder."""
    data = recipe.data
    reading: dict[str, Any] = {
        "held_out": data.held_out,
        "invalid": data.invalid,
        "scratch": output,
        "show_progress": show_progress,
    }
    rated = read_rated(data.rated, recipe.objective_set(), **reading)
    pairs = read_preferences(data.preferences, **reading)
    if data.held_out.column is not None:  # by its hash, a prompt falls on one side everywhere
        separate_prompts(rated, pairs)
    if rated.invalid:
        rated.write_invalid(output / "invalid-rated.jsonl")
    if pairs.invalid:
        pairs.write_invalid(output / "invalid-preferences.jsonl")
    for kind, loaded in (("rated responses", rated), ("preference pairs", pairs)):
        if not loaded.rows:
            raise ArmormError(f"The recipe's sources hold no valid {kind}: {loaded.tally}.")
    return rated, pairs


def load_backbone(recipe: Recipe, run: Path) -> Backbone:
    """The backbone that features are read from: the recipe's, or what the run made of it.

    Raises:
        StoreError: the recipe trains the backbone and the run has not done so yet.
    """
    backbone = Backbone.from_pretrained(backbone_folder(recipe, run), **recipe.backbone.options())
    backbone.name = recipe.backbone.model
    return backbone


@contextmanager
def feature_engine(
    recipe: Recipe, run: Path, backbone: FeatureBackbone | None = None
) -> Iterator[FeatureBackbone]:
    """The recipe's engine while it is needed; the given backbone where there is one."""
    if backbone is not None:
        yield backbone
        return
    arguments = recipe.backbone.engine_arguments()
    with closing(load_engine(backbone_folder(recipe, run), **arguments)) as engine:
        yield engine
