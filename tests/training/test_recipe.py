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


def test_the_papers_recipe_has_the_papers_settings():
    recipe = Recipe.load(RECIPES / "armorm-llama3-8b.yaml")
    assert recipe.objective_set() == PAPER_OBJECTIVES
    assert recipe.head.alphas == (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
    assert (recipe.gate.n_hidden, recipe.gate.hidden_dim) == (3, 1024)
    assert (recipe.gate.steps, recipe.gate.batch_size) == (10_000, 1024)
    assert (recipe.gate.beta, recipe.gate.learning_rate) == (100.0, 1e-3)
    assert (recipe.gate.folds, recipe.gate.shrinkage) == (0, "none")
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfename: x", "cannot be read"),
        (b"[" * 5000, "nested too deeply"),
        (b"name: a\nname: b\n", "'name' stands twice"),
        (b"gate: {steps: 1, steps: 2}\n", "'steps' stands twice"),
        (b"seed: " + b"9" * 5000, "not valid YAML"),
        (b"name: 2026-99-99", "not valid YAML"),
        (b"name: \x01", "not valid YAML"),
        (b'name: "\\ud800"', "half a character"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"1: x\ndata: {rated: [], preferences: []}", r"1"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 10))
                for i in range(8)
            ),
            "more than 100,000 values",
        ),
        (b"name: &x [*x]", "more than 100,000 values|nested|name"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path, content, message):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(file)


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "{a: 1, a: 2}", '"\\ud800"', "[1"])
def test_an_override_that_is_no_yaml_is_refused(tmp_path, text):
    with pytest.raises(RecipeError, match="--set name="):
        Recipe.load(write(tmp_path, MINIMAL), [f"name={text}"])


def test_an_override_reaches_a_section_that_is_written_as_null(tmp_path):
    recipe = Recipe.load(write(tmp_path, {**MINIMAL, "gate": None}), ["gate.steps=5"])
    assert recipe.gate.steps == 5


@pytest.mark.parametrize(
    "override",
    [
        "head.alphas=[.nan]",
        "head.alphas=[1, .inf]",
        "head.alphas=[-1]",
        "head.alphas=[]",
        "gate.temperature=.inf",
        "gate.beta=.nan",
        "gate.learning_rate=.inf",
        "seed=99999999999999999999",
        "seed=-1",
        "gate.folds=1",
        "gate.folds=0",
        "debiasing.measured_by=words",
        "data.held_out.fraction=.nan",
    ],
)
def test_numbers_that_no_run_can_use_are_refused_before_any_work(tmp_path, override):
    with pytest.raises(RecipeError, match=override.partition("=")[0].split(".")[0]):
        Recipe.load(write(tmp_path, MINIMAL), [override])
