"""The stages one by one, resumed, and equal to the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from armorm import Recipe, RewardModel, train
from armorm.errors import ArmormError, StoreError
from armorm.training import features_stage, fit_gate_stage, fit_head_stage
from tests.commands import armorm, write
from tests.tiny import TEMPLATES, WORDS, save_tiny_backbone, tiny_tokenizer


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in corpus on a random backbone: quick, and wrong in a known way."""
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"catalog": "quickstart", "limit": 600}],
            "preferences": [{"catalog": "quickstart", "limit": 200}],
            "held_out": {"fraction": 0.3},
        },
        "debiasing": {"objective": "helpdesk-verbosity"},
        "gate": {"hidden_dim": 16, "n_hidden": 1, "steps": 30, "batch_size": 64},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe.load(recipe_file), folder)
    return folder


def test_metrics_have_the_promised_names(run):
    metrics = json.loads((run / "metrics.json").read_text())
    methods = {"gate", "fixed_weights", "bradley_terry_head", "best_single_objective", "length"}
    assert set(metrics["accuracy"]) == set(metrics["accuracy_shorter_won"]) == methods
    assert metrics["accuracy_shorter_won"]["length"] == 0.0
    assert set(metrics["verbosity_spearman"]) == {"before", "after"}
    for fit in metrics["objectives"].values():
        assert {"r2", "spearman", "rows", "alpha"} <= set(fit)
    assert set(metrics["seconds"]) == {"features", "head", "debiasing", "gate", "total"}
    assert 0 <= metrics["gate_recovery"] <= 1
    assert metrics["verbosity_spearman"]["after"] < metrics["verbosity_spearman"]["before"]


def test_the_saved_model_scores_as_the_metrics_say(run):
    """Accuracy recomputed from text and the saved folder, not from stored features."""
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    rows = [json.loads(line) for line in (run / "held_out_pairs.jsonl").open()]
    chosen = model.score([row["chosen"] for row in rows]).score
    rejected = model.score([row["rejected"] for row in rows]).score
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(rows) == metrics["pairs"]["held_out"]
    accuracy = (chosen > rejected).float().mean().item()
    assert accuracy == pytest.approx(metrics["accuracy"]["gate"], abs=1.01 / len(rows))


def test_stage_by_stage_gives_the_same_model(recipe_file, run, tmp_path):
    recipe = Recipe.load(recipe_file)
    features_stage(recipe, tmp_path)
    fit_head_stage(recipe, tmp_path)
    fit_gate_stage(recipe, tmp_path)
    whole = load_file(run / "model" / "model.safetensors")
    staged = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, staged[name], rtol=0, atol=0)


def test_a_gate_for_other_objectives_than_the_heads_is_refused(recipe_file, run):
    recipe = Recipe.load(recipe_file).model_copy(update={"objectives": "paper"})
    with pytest.raises(StoreError, match=r"the recipe now has others. Run `armorm fit-head`"):
        fit_gate_stage(recipe, run)


def test_training_again_uses_the_features_that_are_there(recipe_file, run):
    before = (run / "features" / "rated" / "manifest.json").stat().st_mtime_ns
    features_stage(Recipe.load(recipe_file), run)
    assert (run / "features" / "rated" / "manifest.json").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused(recipe_file, run):
    recipe = Recipe.load(recipe_file, ["data.rated.0.limit=100"])
    with pytest.raises(StoreError, match="made with other settings"):
        features_stage(recipe, run)


def test_a_stage_without_the_one_before_says_which(recipe_file, tmp_path):
    recipe = Recipe.load(recipe_file)
    with pytest.raises(StoreError, match="armorm features"):
        fit_head_stage(recipe, tmp_path)
    features_stage(recipe, tmp_path)
    with pytest.raises(StoreError, match="armorm fit-head"):
        fit_gate_stage(recipe, tmp_path)


def test_an_objective_nobody_rates_is_named(recipe_file, tmp_path):
    recipe = Recipe.load(recipe_file, ["data.rated.0.limit=3"])
    with pytest.raises(ArmormError, match="has no rating in the data"):
        train(recipe, tmp_path)


def test_held_out_prompts_are_in_no_training_row(run, recipe_file):
    from armorm.data import read_preferences, read_rated

    recipe = Recipe.load(recipe_file)
    data = recipe.data
    rated = read_rated(data.rated, recipe.objective_set(), held_out=data.held_out).rows
    pairs = read_preferences(data.preferences, held_out=data.held_out).rows
    rows = [*rated, *pairs]
    held_out = {row.prompt[-1]["content"] for row in rows if row.held_out and len(row.prompt) == 1}
    training = {
        row.prompt[-1]["content"] for row in rows if not row.held_out and len(row.prompt) == 1
    }
    assert held_out
    assert not held_out & training


def test_a_held_out_pair_that_overflows_is_named_before_any_training(tmp_path):
    save_tiny_backbone(tmp_path / "backbone", TEMPLATES["chatml"])
    file = tmp_path / "backbone" / "model.safetensors"
    tensors = load_file(file)
    token = tiny_tokenizer(TEMPLATES["chatml"]).convert_tokens_to_ids("Knowledge")
    # A large activation, as real models have: infinite in float16.
    tensors[next(name for name in tensors if name.endswith("embed_tokens.weight"))][token] = 1e5
    save_file(tensors, file, {"format": "pt"})
    rated, pairs = [], []
    for number, word in enumerate(WORDS[4:20]):
        split = "val" if number >= 12 else "train"
        asked = {"prompt": f"{word} ?", "split": split}
        messages = [
            {"role": "user", "content": asked["prompt"]},
            {"role": "assistant", "content": "ok"},
        ]
        rated.append({"messages": messages, "split": split, "ratings": {"tone": number % 5}})
        chosen = "Knowledge" if number == 13 else "ok"
        pairs.append({**asked, "id": f"pair {number}", "chosen": chosen, "rejected": "no thanks"})
    recipe = {
        "objectives": [{"name": "tone", "minimum": 0, "maximum": 4}],
        "backbone": {"model": str(tmp_path / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"path": str(write(tmp_path / "rated.jsonl", rated))}],
            "preferences": [{"path": str(write(tmp_path / "pairs.jsonl", pairs))}],
            "held_out": {"column": "split", "values": ["val"]},
        },
        "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 5},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    command = ["train", tmp_path / "recipe.yaml", "-o", run, "--set"]
    done = armorm(*command, "backbone.dtype=float16")
    assert done.returncode != 0
    assert "pair 13" in done.stderr
    assert "pairs" in done.stderr
    assert "not finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "head").exists()
    assert not (run / "model").exists()
    done = armorm(*command, "backbone.dtype=float32")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text())["pairs"]["held_out"] == 4
    RewardModel.from_pretrained(run / "model", device="cpu")


def test_the_card_shows_intervals_and_the_test_against_the_gate(run):
    metrics = json.loads((run / "metrics.json").read_text())
    card = (run / "model" / "README.md").read_text()
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| length |")]
    (row,) = rows
    found = metrics["methods"]["length"]
    for cell, part in zip(row[1:4], ("all", "shorter_won", "longer_won"), strict=True):
        one = found[part]
        share, low, high = (f"{100 * one[key]:.1f}" for key in ("accuracy", "low", "high"))
        assert cell == f"{share} ({low}–{high})"
    p = found["mcnemar_p"]
    assert row[4].strip(" |") == ("< 0.001" if p < 0.001 else f"{p:.3f}")
