"""Comparison of the layers of a recipe's backbone: one extraction, the heads of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from armorm.errors import RecipeError
from armorm.evaluation.accuracy import MethodAccuracy
from armorm.evaluation.layer_comparison import (
    LayerComparison,
    LayerFit,
    mean_fits,
)
from armorm.evaluation.report import write_layer_figure
from armorm.features import Backbone, FeatureStore, Process
from armorm.features.backbone import layers_of_model
from armorm.features.layer_extraction import extract_layers, view_of_layer
from armorm.features.layers import check_layer
from armorm.files import write_json
from armorm.heads import fit_fixed_weights
from armorm.training.feature_stage import RecipeData, features_stage, read_data
from armorm.training.gate_stage import debias, reward_pairs
from armorm.training.head_stage import fit_head_stage, rewards_of_responses
from armorm.training.linear_rival import bradley_terry_head, held_out_margins
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import fitted_objectives
from armorm.training.tuning.folders import backbone_folder

Margins = dict[str, npt.NDArray[np.floating]]

COMPARED = 6
"""Number of layers that are compared by default."""


def compare_layers(
    recipe: Recipe,
    output: str | Path | RunFolder,
    layers: Sequence[int] | None = None,
    *,
    show_progress: bool = False,
) -> LayerComparison:
    """Fit heads on several layers of the recipe's backbone, and compare them on held-out data.

    The states of all layers come from one pass over the data.  ``output/layers/L`` is a run folder
    with the features and the head of layer L, from which ``armorm train`` goes on with
    ``backbone.layer: L``.  An interrupted comparison is resumed.

    Args:
        recipe: The recipe. Its backbone is read as it is, or as it was pre-trained in ``output``.
        output: Run folder; the figures are written to ``layers.json`` and ``layers.svg`` in it.
        layers: Numbers of the layers; default six, evenly spread, the last one among them.
        show_progress: Draw progress bars on standard error.

    Raises:
        RecipeError: The backbone has no such layer or cannot be cut, or the recipe fine-tunes it.
        ArmormError: See :func:`armorm.train`.
    """
    Process.current().require_alone()
    if recipe.head.method == "finetune":
        raise RecipeError(
            "armorm layers compares the layers of a frozen backbone: set head.method: ridge."
        )
    if recipe.head.prefixes:
        raise RecipeError(
            "armorm layers compares heads of complete responses: set head.prefixes: false."
        )
    run = RunFolder.of(output)
    with run.locked("comparing layers"):
        return _compare(recipe, run, layers, show_progress)


def _compare(
    recipe: Recipe, run: RunFolder, layers: Sequence[int] | None, show_progress: bool
) -> LayerComparison:
    folder = backbone_folder(recipe, run)
    count = layers_of_model(folder, recipe.backbone)
    chosen = sorted(set(layers)) if layers else spread_layers(count)
    for layer in chosen:
        check_layer(layer, count, recipe.backbone.model)
    data = read_data(recipe, run, show_progress=show_progress)
    backbone = Backbone.from_pretrained(
        folder, recipe.backbone, layer=max(chosen), compile_model=False, engine="transformers"
    )
    backbone.name = recipe.backbone.model
    runs = {layer: RunFolder(run.layers / str(layer)) for layer in chosen}
    _extract(recipe, backbone, runs, data, show_progress)
    fits: list[LayerFit] = []
    of_last: Margins | None = None
    for layer in reversed(chosen):
        own = recipe.with_layer(layer)
        features_stage(own, runs[layer], backbone=view_of_layer(backbone, layer), data=data)
        fit, found = _fit(own, runs[layer], layer, of_last)
        of_last = of_last or found
        fits.append(fit)
    comparison = LayerComparison(
        model=recipe.backbone.model,
        layers=count,
        held_out_pairs=fits[0].bradley_terry_head.all.n,
        fits=tuple(reversed(fits)),
    )
    write_json(run.layer_report, comparison.as_dict())
    write_layer_figure(run.layer_figure, comparison)
    return comparison


def spread_layers(count: int, most: int = COMPARED) -> list[int]:
    """Return evenly spread numbers of layers, the last one among them.

    Example:
        >>> spread_layers(30), spread_layers(4)
        ([5, 10, 15, 20, 25, 30], [1, 2, 3, 4])
    """
    return sorted({round(count * part / most) or 1 for part in range(1, most + 1)})


def _extract(
    recipe: Recipe,
    backbone: Backbone,
    runs: dict[int, RunFolder],
    data: RecipeData,
    show_progress: bool,
) -> None:
    rated, pairs = data
    extract_layers(
        rated.rows,
        backbone,
        {layer: run.rated_features for layer, run in runs.items()},
        recipe.features,
        objectives=recipe.objective_set(),
        invalid=recipe.data.invalid,
        show_progress=show_progress,
    )
    extract_layers(
        pairs.rows,
        backbone,
        {layer: run.preference_features for layer, run in runs.items()},
        recipe.features,
        invalid=recipe.data.invalid,
        show_progress=show_progress,
    )


def _fit(
    recipe: Recipe, run: RunFolder, layer: int, of_last: Margins | None
) -> tuple[LayerFit, Margins]:
    """Return the figures of a layer, and the held-out margins of its two heads."""
    head = fit_head_stage(recipe, run)
    rated = FeatureStore.open(run.rated_features)
    ratings, held_out = rated.ratings()
    prompts = np.unique(rated.responses()["prompt_key"].to_numpy(), return_inverse=True)[1]
    r2, spearman = mean_fits(
        rewards_of_responses(rated, head)[held_out],
        ratings[held_out],
        prompts[held_out],
        recipe.seed,
    )

    store = FeatureStore.open(run.preference_features)
    pairs, rewards = store.pairs(), rewards_of_responses(store, head)
    debiasing = debias(recipe, fitted_objectives(run.statistics), store, rewards, pairs)
    compared = reward_pairs(store, pairs, rewards @ debiasing.transform)
    fixed = fit_fixed_weights(compared.where(~pairs.held_out))
    linear = bradley_terry_head(store, pairs, recipe.seed)
    differences = compared.where(pairs.held_out).differences.double().numpy()
    found = {
        "bradley_terry_head": held_out_margins(linear, store, pairs),
        "fixed_weights": fixed.margins(differences),
    }
    longer = (pairs.chosen_length - pairs.rejected_length)[pairs.held_out]
    subsets = np.array(pairs.subset)[pairs.held_out].tolist()
    accuracies = {
        name: MethodAccuracy.of(margin, longer, subsets, None if of_last is None else of_last[name])
        for name, margin in found.items()
    }
    return LayerFit(layer, min(linear.losses), **accuracies, r2=r2, spearman=spearman), found
