"""Objectives whose labels are computed from the text: every stage has them, and on new rows too."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from transformers import AutoTokenizer

from armorm import FeatureStore, InputError, Objective, Recipe, RewardModel, train
from armorm.computed_labels import COMPUTED_LABELS
from armorm.data import DataSource
from armorm.errors import RecipeError, StoreError
from armorm.objectives import ObjectiveSet
from armorm.quickstart import generate_corpus
from armorm.training import features_stage, fit_head_stage, merge_heads, update_head
from armorm.training.statistics import HeadStatistics
from tests.tiny import TEMPLATES, save_tiny_backbone

ROWS = generate_corpus(0).rated[:450]
LENGTH = {"name": "length", "computed": "log_tokens"}
FIXED = {"name": "lists", "computed": "lists", "minimum": 0, "maximum": 2}


@pytest.fixture(scope="module")
def make_recipe(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)

    def make(name: str, rows: list[dict], *objectives: dict) -> Recipe:
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        content = {
            "objectives": ["quickstart", *objectives],
            "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
            "data": {
                "rated": [{"path": str(file)}],
                "preferences": [{"catalog": "quickstart", "limit": 120}],
                "held_out": {"fraction": 0.2},
            },
            "head": {"alphas": [1.0]},
            "debiasing": {"objective": "length"},
            "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 10, "batch_size": 32},
        }
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(content))
        return Recipe.load(recipe)

    return make


@pytest.fixture(scope="module")
def recipe(make_recipe) -> Recipe:
    return make_recipe("whole", ROWS, LENGTH, FIXED)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(recipe, folder)
    return folder


def labels_of(run: Path) -> dict[str, float]:
    """Return log(1 + tokens) of each row by id, counted apart from the code under test."""
    recipe = Recipe.load(run / "recipe.yaml")
    tokenizer = AutoTokenizer.from_pretrained(recipe.backbone.model)
    return {
        row["id"]: math.log1p(
            len(tokenizer(row["messages"][-1]["content"], add_special_tokens=False).input_ids)
        )
        for row in ROWS
    }


def test_every_rated_row_has_the_label_and_its_range_comes_from_the_training_rows(run):
    store = FeatureStore.open(run / "features" / "rated")
    lines, labels = store.responses().to_pylist(), labels_of(run)
    expected = np.array([labels[line["id"]] for line in lines])
    training = np.array([not line["held_out"] for line in lines])
    low, high = np.quantile(expected[training], [0.005, 0.995])
    length, lists = store.objectives[-2:]
    assert (length.minimum, length.maximum) == pytest.approx((low, high))
    assert (lists.minimum, lists.maximum, length.direction) == (0, 2, "neutral")
    rewards = store.ratings()[0][:, -2]
    assert rewards == pytest.approx((expected - low) / (high - low))
    assert rewards.min() < 0 or rewards.max() > 1  # the mapping is not clipped
    assert [length.to_rating(reward) for reward in rewards] == pytest.approx(expected.tolist())


def test_the_head_is_the_ridge_fit_of_the_labels(run):
    store = FeatureStore.open(run / "features" / "rated")
    x = np.concatenate([shard.double().numpy() for shard in store.response_features()])
    rewards, held_out = store.ratings()
    ridge = Ridge(alpha=1.0, fit_intercept=False).fit(x[~held_out], rewards[~held_out, -2])
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    assert model.heads.weight[-2].numpy() == pytest.approx(ridge.coef_, abs=1e-4)
    fit = json.loads((run / "metrics.json").read_text())["objectives"]["length"]
    assert fit["rows"] == (~held_out).sum()


def test_the_model_keeps_the_scale_and_is_debiased_by_it(run):
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    length = model.objectives[model.objectives.column("length")]
    assert length in FeatureStore.open(run / "features" / "rated").objectives
    assert length.computed == "log_tokens"
    assert not length.range_from_data
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["debiasing"]["objective"] == "length"
    assert metrics["verbosity_spearman"]["before"] > metrics["verbosity_spearman"]["after"]


def test_new_rows_are_labelled_with_the_range_of_the_head(make_recipe, tmp_path):
    part = tmp_path / "part"
    recipe = make_recipe("part", ROWS[:200], LENGTH)
    features_stage(recipe, part)
    fit_head_stage(recipe, part)
    before = HeadStatistics.load(part / "head" / "statistics").objectives
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in ROWS[200:]))
    added = update_head(part, [DataSource(path=str(more))], "add").head
    assert HeadStatistics.load(part / "head" / "statistics").objectives == before

    length = before[before.column("length")]
    fixed = LENGTH | {"minimum": length.minimum, "maximum": length.maximum}
    recipe, whole = make_recipe("fixed", ROWS, fixed), tmp_path / "whole"
    features_stage(recipe, whole)
    at_once = fit_head_stage(recipe, whole)
    atol = 1e-5 * np.abs(at_once.weight).max()
    np.testing.assert_allclose(added.weight, at_once.weight, atol=atol)
    assert added.rows == at_once.rows


def test_heads_with_ranges_of_their_own_are_not_merged(make_recipe, tmp_path):
    for name, rows in (("one", ROWS[:120]), ("two", ROWS[120:])):
        recipe = make_recipe(name, rows, LENGTH)
        features_stage(recipe, tmp_path / name)
        fit_head_stage(recipe, tmp_path / name)
    with pytest.raises(StoreError, match=r"scale of length .*give minimum and maximum"):
        merge_heads([tmp_path / "one", tmp_path / "two"], tmp_path / "one")


def test_what_is_computed_cannot_be_rated():
    objectives = ObjectiveSet([Objective(name="tone"), Objective.model_validate(LENGTH)])
    with pytest.raises(InputError, match=r"ratings.length.*computed from the response"):
        objectives.validate_ratings({"tone": 1, "length": 3.0})


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"computed": "log_token"}, "Did you mean 'log_tokens'"),
        ({"computed": "log_tokens", "maximum": 9}, "minimum and maximum, or neither"),
        ({"range_from_data": True}, "for computed objectives"),
    ],
)
def test_an_entry_that_cannot_be_used_says_why(entry, problem):
    with pytest.raises(ValidationError, match=problem):
        Objective.model_validate({"name": "length", **entry})


def test_other_objectives_need_other_features(make_recipe, run):
    recipe = make_recipe("other", ROWS, LENGTH | {"computed": "log_characters"}, FIXED)
    with pytest.raises(StoreError, match="Extract the features again"):
        fit_head_stage(recipe, run)


def test_the_docs_list_every_kind():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [name for name in COMPUTED_LABELS if f"`{name}`" not in page] == []


def test_labels_that_hardly_vary_still_have_a_range():
    rare = Objective(name="rare", computed="refusals")
    assert rare.with_range([0.0] * 999 + [2.0]).maximum == 2.0
    assert rare.with_range([0.0] * 9).maximum == 1.0


def test_the_name_of_the_reverse_of_a_kept_confounder_is_taken(recipe):
    content = recipe.model_dump() | {"debiasing": {"objective": "length", "confounder": "kept"}}
    content["objectives"] = ["quickstart", LENGTH, {"name": "length-reversed"}]
    with pytest.raises(RecipeError, match=r"kept adds length-reversed .*Rename it"):
        Recipe.validated(content)
    Recipe.validated(content | {"debiasing": {"objective": "length"}})


def test_an_unknown_kind_is_one_line_that_names_its_place(recipe):
    content = recipe.model_dump() | {"objectives": [{"name": "length", "computed": "token"}]}
    with pytest.raises(RecipeError) as caught:
        Recipe.validated(content)
    assert str(caught.value) == (
        "objectives.0 = {'name': 'length', 'computed': 'token'}: no label 'token' can be computed. "
        "Did you mean 'log_tokens'?"
    )


def test_a_missing_confounder_is_named(make_recipe):
    with pytest.raises(RecipeError, match="no objective 'length'"):
        make_recipe("none", ROWS)
