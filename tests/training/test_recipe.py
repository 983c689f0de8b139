"""Recipes: the paper's defaults, overrides, and errors that name their neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from armorm import PAPER_OBJECTIVES, Recipe
from armorm.errors import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = {"data": {"rated": [{"path": "r.jsonl"}], "preferences": [{"path": "p.jsonl"}]}}


def write(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_defaults_are_the_papers(tmp_path):
    recipe = Recipe.load(write(tmp_path, MINIMAL))
    assert recipe.objective_set() == PAPER_OBJECTIVES
    assert recipe.head.alphas == (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
    assert (recipe.gate.n_hidden, recipe.gate.hidden_dim) == (3, 1024)
    assert (recipe.gate.steps, recipe.gate.batch_size) == (10_000, 1024)
    assert (recipe.gate.beta, recipe.gate.learning_rate) == (100.0, 1e-3)
    assert recipe.debiasing.correlation == "spearman"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_recipes_are_valid_and_survive_a_round_trip(file, tmp_path):
    recipe = Recipe.load(file)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump())
    assert Recipe.load(again) == recipe


def test_overrides_reach_sections_lists_and_new_keys(tmp_path):
    overrides = ["gate.steps=500", "data.rated.0.limit=7", "head.alphas=[1, 10]", "name=x"]
    recipe = Recipe.load(write(tmp_path, MINIMAL), overrides)
    assert recipe.gate.steps == 500
    assert recipe.data.rated[0].limit == 7
    assert recipe.head.alphas == (1.0, 10.0)
    assert recipe.name == "x"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gate.step=5", r"gate\.step: unknown key\. Did you mean 'steps'"),
        ("gat.steps=5", r"gat: unknown key\. Did you mean 'gate'"),
        ("data.rated.0.pth=x", r"data\.rated\.0\.pth: unknown key\. Did you mean 'path'"),
        ("gate.steps=many", r"gate\.steps = 'many'"),
        ("gate.steps=0", "greater than or equal to 1"),
        ("data.rated.3.limit=1", "not a position"),
        ("gate.steps", "section.key=value"),
        ("gate.steps.x=1", "gate.steps"),
        ("data.rated.0.dataset=a/b", "exactly one of catalog, path and dataset"),
        ("data.rated.0={catalog: helpstear}", "Did you mean 'helpsteer'"),
        ("data.rated.0={catalog: shp}", "shp has no rated rows"),
        ("data.preferences.0={catalog: reward-bench}", "is a benchmark"),
        ("data.preferences.0={catalog: shp, options: {ratio: 2}}", "there is no such option"),
        ("data.preferences.0={catalog: shp, weight: -1}", "greater than 0"),
        ("debiasing.objective=verbosity", "There is no objective 'verbosity'"),
        ("backbone.dtype=float8", "dtype = 'float8'"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, override, message):
    content = {**MINIMAL, "gate": {"steps": 10}}
    with pytest.raises(RecipeError, match=message):
        Recipe.load(write(tmp_path, content), [override])


def test_a_missing_section_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(RecipeError, match="data: required"):
        Recipe.load(write(tmp_path, {"name": "x"}))
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")
