"""Layers are compared by heads on one extraction, and training goes on from the best one's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from scipy.stats import spearmanr

from armorm import Recipe, train
from armorm.errors import RecipeError
from armorm.evaluation.layer_comparison import mean_fits
from armorm.features import extraction
from armorm.training import compare_layers, features_stage, fit_head_stage
from armorm.training.layers_stage import spread_layers
from tests.commands import invoke


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    content = {
        "objectives": "quickstart",
        "backbone": {"model": "builtin", "device": "cpu"},
        "data": {
            "rated": [{"catalog": "quickstart", "limit": 450}],
            "preferences": [{"catalog": "quickstart", "limit": 120}],
            "held_out": {"fraction": 0.3},
        },
        "debiasing": {"objective": "helpdesk-verbosity"},
        "gate": {"hidden_dim": 16, "n_hidden": 1, "steps": 30, "batch_size": 64},
    }
    file = tmp_path_factory.mktemp("layers") / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def compared(recipe_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, compare_layers(Recipe.load(recipe_file), folder, [2, 1])


def test_figures_of_every_layer_are_written_with_intervals(compared):
    folder, _ = compared
    report = json.loads((folder / "layers.json").read_text())
    assert [fit["layer"] for fit in report["fits"]] == [1, 2]
    assert report["best"] == min(report["fits"], key=lambda fit: fit["log_loss"])["layer"]
    assert report["recipe"] == f"backbone.layer: {report['best']}"
    for fit in report["fits"]:
        for head in ("bradley_terry_head", "fixed_weights"):
            one = fit[head]["all"]
            assert one["low"] <= one["accuracy"] <= one["high"]
            assert one["n"] == report["held_out_pairs"] > 0
        for mean in ("r2", "spearman"):
            assert fit[mean]["low"] < fit[mean]["value"] < fit[mean]["high"]
    assert report["fits"][1]["bradley_terry_head"]["mcnemar_p"] is None
    assert "<svg" in (folder / "layers.svg").read_text()


def test_the_head_of_a_layer_is_that_of_a_recipe_with_the_layer(compared, recipe_file, tmp_path):
    folder, _ = compared
    recipe = Recipe.load(recipe_file, ["backbone.layer=1"])
    features_stage(recipe, tmp_path)
    fit_head_stage(recipe, tmp_path)
    ours = load_file(folder / "layers" / "1" / "head" / "head.safetensors")
    theirs = load_file(tmp_path / "head" / "head.safetensors")
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, rtol=1e-3, atol=1e-5)


def test_training_goes_on_with_the_features_of_a_layer(compared, monkeypatch):
    def refuse(*_):
        raise AssertionError("a shard was computed again")

    folder, comparison = compared
    own = folder / "layers" / "1"
    monkeypatch.setattr(extraction, "extract_shard", refuse)
    result = train(Recipe.load(own / "recipe.yaml"), own)
    fit = comparison.fits[0].bradley_terry_head.all.accuracy
    methods = result.metrics.preferences.methods
    assert methods["bradley_terry_head"].all.accuracy == pytest.approx(fit)
    assert result.model.backbone.model.config.num_hidden_layers == 1


def test_the_command_prints_a_table_and_the_recipes_line(compared, recipe_file):
    folder, comparison = compared
    printed = invoke("layers", recipe_file, "-o", folder, "--layers", "1,2", "-q")
    assert comparison.recipe_line in printed
    for layer in (99, 0, -1):
        with pytest.raises(RecipeError, match=rf"layer = {layer}: .*from 1 to"):
            compare_layers(Recipe.load(recipe_file), folder, [1, layer])


def test_a_recipe_that_finetunes_is_refused(recipe_file, tmp_path):
    with pytest.raises(RecipeError, match=r"head\.method: ridge"):
        compare_layers(Recipe.load(recipe_file, ["head.method=finetune"]), tmp_path)


def test_layers_are_spread_evenly():
    assert spread_layers(30) == [5, 10, 15, 20, 25, 30]
    assert spread_layers(32) == [5, 11, 16, 21, 27, 32]
    assert spread_layers(1) == [1]


def test_intervals_of_the_means_hold_the_truth():
    """Coverage of a planted correlation over many draws of prompts."""
    generator = np.random.default_rng(0)
    hits = 0
    truth = spearmanr(*_draw(generator, 200_000)[:2]).statistic
    for seed in range(20):
        predicted, ratings, prompts = _draw(generator, 100)
        _, found = mean_fits(predicted[:, None], ratings[:, None], prompts, seed)
        hits += found.low <= truth <= found.high
    assert hits >= 16  # of 19 expected; fewer have a probability below 1 in 300


def _draw(generator, prompts, responses=3):
    """Predictions and ratings that share a part of each prompt."""
    shared = np.repeat(generator.normal(size=prompts), responses)
    predicted = shared + generator.normal(size=prompts * responses)
    ratings = shared + generator.normal(size=prompts * responses)
    return predicted, ratings, np.repeat(np.arange(prompts), responses)
