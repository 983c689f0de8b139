"""Training the backbone: what comes out, what is never touched, and what a kill costs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback
from typer.testing import CliRunner

from armorm import Backbone, Recipe, RewardModel, train
from armorm.cli import app
from armorm.data import DataSource, HeldOut
from armorm.errors import ArmormError, MissingExtraError, RecipeError, StoreError
from armorm.features import FeatureStore
from armorm.quickstart import generate_corpus
from armorm.training import (
    features_stage,
    finetune_stage,
    fit_head_stage,
    head_influence,
    merge_heads,
    pretrain_stage,
    update_head,
)
from armorm.training.feature_stage import read_data
from armorm.training.run_backbone import load_backbone
from armorm.training.tuning.options import PretrainingOptions
from armorm.training.tuning.pretraining import pretraining_pairs
from tests.tiny import TEMPLATES, save_tiny_backbone

QUICK = {
    "learning_rate": 3e-3,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": False,
    "max_steps": 6,
    "save_steps": 2,
}
LORA = "{r: 4, alpha: 8}"
CORPUS = generate_corpus(0)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole chain on a random backbone: quick, and wrong in a known way."""
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    # One response a prompt: every objective is rated for prompts of every fold.
    rows = {"rated": CORPUS.rated[::3][:240], "preferences": CORPUS.preferences[:100]}
    for kind, lines in rows.items():
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / f"{kind}.jsonl").write_text(text)
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"path": str(folder / "rated.jsonl")}],
            "preferences": [{"path": str(folder / "preferences.jsonl")}],
            "held_out": {"fraction": 0.3},
        },
        "pretraining": dict(QUICK),
        "head": {"method": "finetune", "finetune": dict(QUICK), "alphas": [1.0, 10.0]},
        "debiasing": {"objective": "helpdesk-verbosity"},
        "gate": {"hidden_dim": 16, "n_hidden": 1, "steps": 30, "batch_size": 64},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def chain(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    train(Recipe.load(recipe_file), folder)
    return folder


def _record(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text())["report"]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _assert_same(one: Path, other: Path) -> None:
    expected = _weights(other)
    for name, tensor in _weights(one).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_one_recipe_runs_the_whole_chain(chain):
    metrics = json.loads((chain / "metrics.json").read_text())
    assert 0 <= metrics["pretraining"]["accuracy"]["held_out"] <= 1
    assert metrics["pretraining"]["accuracy"]["held_out_pairs"] == metrics["pairs"]["held_out"]
    assert set(metrics["finetuning"]["held_out"]) == {"probe", "finetuned"}
    for fits in metrics["finetuning"]["held_out"].values():
        assert set(fits) == set(metrics["objectives"])
        rows = {name: fit["held_out_rows"] for name, fit in metrics["objectives"].items()}
        assert {name: fit["rows"] for name, fit in fits.items()} == rows
    assert {"pretraining", "finetuning"} <= set(metrics["seconds"])
    assert not list(chain.glob("*.unfinished"))
    assert not [file for file in chain.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]


def test_the_model_at_the_end_is_an_ordinary_one_with_the_trained_body(chain):
    model = RewardModel.from_pretrained(chain / "model", device="cpu", dtype="float32")
    rows = [json.loads(line) for line in (chain / "held_out_pairs.jsonl").open()]
    chosen = model.score([row["chosen"] for row in rows]).score
    rejected = model.score([row["rejected"] for row in rows]).score
    metrics = json.loads((chain / "metrics.json").read_text())
    accuracy = (chosen > rejected).float().mean().item()
    assert accuracy == pytest.approx(metrics["accuracy"]["gate"], abs=1.01 / len(rows))
    body = _weights(chain / "model")
    for name, tensor in _weights(chain / "finetuned").items():
        if name != "score.weight":
            torch.testing.assert_close(body[name], tensor, rtol=0, atol=0)


def test_training_lowers_the_loss_over_all_rows(recipe_file, tmp_path):
    """A batch that holds all rows, so that the curve is the loss of the whole training set."""
    everything = {"batch_size": 256, "gradient_accumulation_steps": 1, "max_steps": 4}
    overrides = [f"pretraining.{key}={value}" for key, value in everything.items()]
    overrides += [f"head.finetune.{key}={value}" for key, value in everything.items()]
    overrides += ["data.rated.0.limit=140", "data.preferences.0.limit=40"]
    overrides += ["head.folds=2"]
    recipe = Recipe.load(recipe_file, overrides)
    pretrain_stage(recipe, tmp_path)
    finetune_stage(recipe, tmp_path)
    for stage in ("pretrained", "finetuned"):
        losses = [point["loss"] for point in _record(tmp_path / stage)["curve"]]
        assert len(losses) == 4
        assert losses[-1] < 0.98 * losses[0]


def test_features_are_read_from_the_last_trained_weights(chain, recipe_file):
    start, pretrained, finetuned = (
        Backbone.from_pretrained(folder, device="cpu").identity["weights_sha256"]
        for folder in (recipe_file.parent / "backbone", chain / "pretrained", chain / "finetuned")
    )
    assert len({start, pretrained, finetuned}) == 3
    stored = FeatureStore.open(chain / "features" / "rated").manifest.backbone
    assert stored["weights_sha256"] == finetuned


def test_the_reported_accuracy_is_that_of_the_saved_classifier(chain, recipe_file):
    """Recomputed with transformers' own class, from text, one conversation at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(chain / "pretrained")
    encoder = Backbone.from_pretrained(chain / "pretrained", device="cpu").encoder
    _, pairs = read_data(Recipe.load(recipe_file), chain)
    right = []
    for pair in pairs.rows:
        if pair.held_out:
            encoded = encoder.encode(pair.prompt, pair.responses)
            with torch.inference_mode():
                scores = [model(torch.tensor([ids])).logits.item() for ids in encoded.sequences]
            right.append(scores[0] > scores[1])
    accuracy = _record(chain / "pretrained")["accuracy"]["held_out"]
    assert sum(right) / len(right) == pytest.approx(accuracy, abs=1.01 / len(right))


def test_held_out_rows_are_never_trained_on(recipe_file, chain, tmp_path, monkeypatch):
    seen = {}
    for module, stage in (("pretraining", pretrain_stage), ("finetuning", finetune_stage)):
        name = f"armorm.training.tuning.{module}"

        def stop(trainer, *_, key=module):
            seen[key] = trainer.train_dataset
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules[name], "run_trainer", stop)
        overrides = ["backbone.model=builtin"]  # its tokenizer tells all texts apart
        if stage is finetune_stage:
            overrides.append("pretraining=null")
        recipe = Recipe.load(recipe_file, overrides)
        with pytest.raises(KeyboardInterrupt):
            stage(recipe, tmp_path)
    rated, pairs = read_data(Recipe.load(recipe_file), tmp_path)
    encoder = Backbone.from_pretrained("builtin", device="cpu").encoder
    kept_out = {
        tuple(ids)
        for row in [*rated.rows, *pairs.rows]
        if row.held_out
        for ids in encoder.encode(row.prompt, row.responses).sequences
    }
    trained = {tuple(row["input_ids"].tolist()) for row in seen["finetuning"]}
    trained |= {tuple(row[side]) for row in seen["pretraining"] for side in row}
    assert trained
    assert not trained & kept_out


@pytest.mark.parametrize(
    ("stage", "section", "folder", "lora"),
    [
        (pretrain_stage, "pretraining", "pretrained", "null"),
        (pretrain_stage, "pretraining", "pretrained", LORA),
        (finetune_stage, "head.finetune", "finetuned", LORA),
    ],
    ids=["pretrain", "pretrain-lora", "finetune-lora"],
)
def test_a_killed_training_ends_with_the_same_weights(
    recipe_file, tmp_path, monkeypatch, stage, section, folder, lora
):
    overrides = [f"{section}.lora={lora}"]
    if stage is finetune_stage:
        overrides.append("pretraining=null")
    recipe = Recipe.load(recipe_file, overrides)
    stage(recipe, tmp_path / "whole")

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    module = sys.modules[stage.__module__]
    run_trainer = module.run_trainer

    def killed(trainer, *rest):
        trainer.add_callback(Kill())
        return run_trainer(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_trainer", killed)
        with pytest.raises(KeyboardInterrupt):
            stage(recipe, tmp_path / "killed")
    assert not (tmp_path / "killed" / folder).exists()
    checkpoints = tmp_path / "killed" / f"{folder}.unfinished" / "checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-4"]
    (checkpoints / "checkpoint-5").mkdir()  # torn by the kill
    stage(recipe, tmp_path / "killed")
    _assert_same(tmp_path / "whole" / folder, tmp_path / "killed" / folder)
    curves = [_record(tmp_path / run / folder)["curve"] for run in ("whole", "killed")]
    assert curves[0] == curves[1]


def test_activations_computed_twice_give_the_same_weights(chain, recipe_file, tmp_path):
    sections = ("pretraining", "head.finetune")
    recipe = Recipe.load(recipe_file, [f"{one}.gradient_checkpointing=true" for one in sections])
    pretrain_stage(recipe, tmp_path)
    finetune_stage(recipe, tmp_path)
    for stage in ("pretrained", "finetuned"):
        expected = _weights(chain / stage)
        for name, tensor in _weights(tmp_path / stage).items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-3)


def test_adapters_on_a_bfloat16_backbone(recipe_file, tmp_path):
    """What runs on a GPU by default, here on a CPU."""
    half = "{max_steps: 2, precision: bfloat16, lora: {r: 4}}"
    recipe = Recipe.load(
        recipe_file,
        [f"pretraining={half}", f"head.finetune={half}", "backbone.dtype=bfloat16"],
    )
    pretrain_stage(recipe, tmp_path)
    finetune_stage(recipe, tmp_path)
    weights = _weights(tmp_path / "finetuned")
    assert weights.pop("score.weight").dtype == torch.float32
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert load_backbone(recipe, tmp_path).identity["dtype"] == "bfloat16"


def test_merged_adapters_score_as_the_model_that_was_trained(recipe_file, tmp_path, monkeypatch):
    """The folder's W f(x, y) equals the rewards of the unmerged adapters in memory."""
    module = sys.modules[finetune_stage.__module__]
    recipe = Recipe.load(recipe_file, ["pretraining=null", f"head.finetune.lora={LORA}"])
    captured = {}
    run_trainer = module.run_trainer

    def capture(trainer, *rest):
        report = run_trainer(trainer, *rest)
        rows = [trainer.train_dataset[i] for i in range(8)]
        trainer.model.eval()
        with torch.inference_mode():
            captured["rewards"] = trainer.model(**trainer.data_collator(rows))["rewards"]
        captured["ids"] = [row["input_ids"].tolist() for row in rows]
        return report

    monkeypatch.setattr(module, "run_trainer", capture)
    finetune_stage(recipe, tmp_path)
    backbone = load_backbone(recipe, tmp_path)
    prompts = [backbone.encoder.from_ids(ids) for ids in captured["ids"]]
    weight = _weights(tmp_path / "finetuned")["score.weight"]
    rewards = backbone.features(prompts).responses @ weight.T
    torch.testing.assert_close(rewards, captured["rewards"], atol=1e-4, rtol=1e-4)
    unadapted = Backbone.from_pretrained(recipe_file.parent / "backbone", device="cpu")
    before = unadapted.features(prompts).responses @ weight.T
    assert (rewards - before).abs().max() > 1e-2


def test_a_finished_training_is_not_repeated_and_another_one_refused(chain, recipe_file):
    recipe = Recipe.load(recipe_file)
    before = {
        stage: (chain / stage / "model.safetensors").stat().st_mtime_ns
        for stage in ("pretrained", "finetuned")
    }
    pretrain_stage(recipe, chain)
    finetune_stage(recipe, chain)
    for stage, time in before.items():
        assert (chain / stage / "model.safetensors").stat().st_mtime_ns == time
    pretrain_stage(Recipe.load(recipe_file, ["pretraining.save_steps=5"]), chain)
    with pytest.raises(StoreError, match=r"trained with other settings:\n  options"):
        pretrain_stage(Recipe.load(recipe_file, ["pretraining.max_steps=7"]), chain)
    with pytest.raises(StoreError, match="data: "):
        finetune_stage(Recipe.load(recipe_file, ["data.rated.0.limit=200"]), chain)


def test_commands_report_what_was_trained(chain, recipe_file):
    def command(*words: object) -> str:
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "Bradley–Terry accuracy" in command("pretrain", recipe_file, "-o", chain)
    assert "R² of the probe" in command("finetune", recipe_file, "-o", chain)
    assert json.loads(command("finetune", recipe_file, "-o", chain, "--json"))["steps"] == 6
    trained = command("train", recipe_file, "-o", chain)
    assert "pretraining: 6 steps" in trained
    assert "finetuning: 6 steps" in trained
    page = (chain / "report.html").read_text()
    assert "Bradley–Terry training of the backbone" in page
    assert "R², fine-tuned" in page


def test_pairs_of_which_none_is_left_are_named(recipe_file, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "q", "chosen": "same", "rejected": "same"}\n')
    overrides = [f"pretraining.preferences=[{{path: {bad}}}]", "data.invalid=skip"]
    with pytest.raises(ArmormError, match=r"No preference pair is left.*same text as chosen"):
        pretrain_stage(Recipe.load(recipe_file, overrides), tmp_path / "run")
    assert (tmp_path / "run" / "invalid-pretraining.jsonl").exists()


def test_a_stage_without_the_one_before_says_which(recipe_file, tmp_path):
    recipe = Recipe.load(recipe_file)
    with pytest.raises(StoreError, match="armorm pretrain"):
        finetune_stage(recipe, tmp_path)
    with pytest.raises(StoreError, match="armorm finetune"):
        features_stage(recipe, tmp_path)
    with pytest.raises(ArmormError, match="no section `pretraining`"):
        pretrain_stage(Recipe.load(recipe_file, ["pretraining=null"]), tmp_path)


def test_a_head_on_a_fine_tuned_backbone_cannot_claim_to_forget(chain, tmp_path):
    with pytest.raises(ArmormError, match="trained with its backbone"):
        update_head(chain, [], "add")
    with pytest.raises(ArmormError, match="trained with its backbone"):
        merge_heads([chain], chain)
    with pytest.raises(ArmormError, match="trained together with its backbone"):
        head_influence(chain, "p", "r")
    ridge = tmp_path / "recipe.yaml"
    ridge.write_text((chain / "recipe.yaml").read_text().replace("trained", "ridge"))
    (tmp_path / "head").symlink_to(chain / "head")
    with pytest.raises(ArmormError, match="fine-tuned on its ratings"):
        update_head(tmp_path, [], "remove")


def test_the_final_head_is_the_trained_one_or_a_ridge_fit(chain, recipe_file, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(chain, run)
    trained = fit_head_stage(Recipe.load(recipe_file), run)
    uncertainty = json.loads((run / "head" / "head.json").read_text())["uncertainty"]
    assert "trained with its backbone" in uncertainty["unavailable"]
    score = _weights(run / "finetuned")["score.weight"]
    torch.testing.assert_close(torch.from_numpy(trained.weight), score.double())
    report = json.loads((run / "head" / "head.json").read_text())["objectives"]
    expected = _record(run / "finetuned")["held_out"]["finetuned"]
    for name, fit in expected.items():
        assert report[name]["r2"] == pytest.approx(fit["r2"], abs=1e-4)
    ridge = fit_head_stage(Recipe.load(recipe_file, ["head.finetune.final_head=ridge"]), run)
    assert np.abs(ridge.weight - trained.weight).max() > 1e-3
    assert ridge.alphas == trained.alphas


def test_pairs_of_pretrainings_own_sources_keep_off_held_out_prompts(recipe_file, tmp_path):
    """A held-out prompt of the recipe, unmarked in the other source, is left out and counted."""
    recipe = Recipe.load(recipe_file)
    rated, preferences = read_data(recipe, tmp_path)
    held = next(row for row in rated.rows if row.held_out and len(row.prompt) == 1)
    rows = [
        {"prompt": prompt, "chosen": "a", "rejected": "b", "split": "train"}
        for prompt in ("new", held.prompt[0]["content"])
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = recipe.model_copy(
        update={
            "pretraining": PretrainingOptions(preferences=(DataSource(path=str(own)),)),
            "data": recipe.data.model_copy(
                update={"held_out": HeldOut(column="split", values=("test",))}
            ),
        }
    )
    pairs = pretraining_pairs(recipe, (rated, preferences))
    assert [pair.prompt[0]["content"] for pair in pairs.rows] == ["new"]
    assert sum(pairs.tally.skipped.values()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretraining.learning_rat=1", "Did you mean 'learning_rate'"),
        ("head.finetune.lora={rank: 4}", "lora.rank: unknown key"),
        ("head.method=probe", "'ridge' or 'finetune'"),
        ("pretraining.preferences=[{catalog: reward-bench}]", "is a benchmark"),
    ],
)
def test_wrong_keys_and_values_are_named(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(recipe_file, [override])


@pytest.mark.parametrize("package", ["trl", "peft"])
def test_a_missing_extra_is_named(recipe_file, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    recipe = Recipe.load(recipe_file, [f"pretraining.lora={LORA}"])
    with pytest.raises(MissingExtraError, match=r"armorm\[train\]"):
        pretrain_stage(recipe, tmp_path)


def test_several_processes_and_other_gpus_are_refused(recipe_file, tmp_path, monkeypatch):
    with pytest.raises(ArmormError, match="CUDA_VISIBLE_DEVICES"):
        pretrain_stage(Recipe.load(recipe_file, ["backbone.device=cuda:1"]), tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArmormError, match="one process"):
        pretrain_stage(Recipe.load(recipe_file), tmp_path)
