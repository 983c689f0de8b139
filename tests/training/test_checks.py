"""All that recipe and data tell is said before a feature is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from armorm import Recipe, train
from armorm.errors import ArmormError, MissingExtraError, OutputError
from armorm.training import (
    checks,
    features_stage,
    finetune_stage,
    fit_gate_stage,
    fit_head_stage,
    merge_heads,
    pretrain_stage,
    update_head,
)
from tests.commands import write

OBJECTIVES = [
    {"name": "tone", "minimum": 1, "maximum": 5},
    {"name": "verbosity", "minimum": 0, "maximum": 4},
]


def messages(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


@pytest.fixture
def data(tmp_path) -> Path:
    """Eight prompts, of which the last two are held out."""
    rated, pairs = [], []
    for number in range(8):
        split = "val" if number >= 6 else "train"
        ratings = {"tone": 1 + number % 5, "verbosity": number % 4}
        prompt = f"question {number}"
        rated.append(
            {"messages": messages(prompt, f"a {number}"), "ratings": ratings, "split": split}
        )
        pairs.append({"prompt": prompt, "chosen": f"a {number}", "rejected": "b", "split": split})
    write(tmp_path / "rated.jsonl", rated)
    write(tmp_path / "pairs.jsonl", pairs)
    return tmp_path


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    content = {
        "objectives": OBJECTIVES,
        "backbone": {"model": "/there/is/no/such/backbone"},  # nothing may get as far as this
        "data": {
            "rated": [{"path": str(folder / "rated.jsonl"), "source": "r"}],
            "preferences": [{"path": str(folder / "pairs.jsonl"), "source": "p"}],
            "held_out": {"column": "split", "values": ["val"]},
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return Recipe.load(file, overrides)


@pytest.mark.parametrize("command", [train, features_stage])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.held_out.values=[none]"], "No preference pair is held out"),
        (["data.held_out.values=[val, train]"], "no rating in the data"),
        (["data.preferences.0.limit=1"], "No preference pair is held out"),
        (["data.held_out.values=[train]", "data.rated.0.limit=6"], "no rating in the data"),
        (
            ["debiasing.objective=verbosity", "debiasing.reference=[p, q]"],
            "source q gives no training pair",
        ),
        (["objectives.0={name: never, minimum: 0, maximum: 1}"], "never"),
    ],
)
def test_data_that_do_not_suffice_are_named_first(data, command, overrides, message):
    with pytest.raises(ArmormError, match=message):
        command(recipe_of(data, *overrides), data / "run")


def test_an_objective_that_nobody_rates_in_training_is_named(data):
    rows = [json.loads(line) for line in (data / "rated.jsonl").open()]
    for row in rows:
        if row["split"] == "train":
            del row["ratings"]["verbosity"]
    write(data / "rated.jsonl", rows)
    with pytest.raises(ArmormError, match="objective verbosity has no rating"):
        train(recipe_of(data), data / "run")


def test_one_training_prompt_is_too_few(data):
    pairs = [json.loads(line) for line in (data / "pairs.jsonl").open()]
    write(data / "pairs.jsonl", [pairs[0], pairs[0], *pairs[6:]])
    with pytest.raises(ArmormError, match=r"at least 2 prompts .* have 1"):
        train(recipe_of(data), data / "run")


def test_a_missing_extra_is_named_first(data, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    for override, extra in (
        ("gate.report_to=tensorboard", "log"),
        ("pretraining={}", "train"),
        ("head={method: finetune, finetune: {lora: {}}}", "train"),
    ):
        with pytest.raises(MissingExtraError, match=rf"armorm\[{extra}\]"):
            train(recipe_of(data, override), data / "run")


def test_an_output_that_cannot_be_written_is_named_first(data):
    (data / "file").write_text("x")
    (data / "taken" / "metrics.json").mkdir(parents=True)
    (data / "other").mkdir()
    (data / "other" / "model").write_text("x")
    for output in (data / "file", data / "file" / "run", data / "taken", data / "other"):
        with pytest.raises(OutputError):
            train(recipe_of(data), output)


def _update(recipe: Recipe, run: Path) -> None:
    update_head(run, recipe.data.rated, "add")


def _merge(_: Recipe, run: Path) -> None:
    merge_heads([run], run)


@pytest.mark.parametrize(
    "command",
    [
        train,
        features_stage,
        fit_head_stage,
        fit_gate_stage,
        pretrain_stage,
        finetune_stage,
        _update,
        _merge,
    ],
)
def test_a_second_run_in_a_folder_is_refused_at_once(data, command):
    """The lock is held by a process of its own, as another `armorm train` would hold it."""
    run = data / "run"
    code = (
        "import sys, pathlib; from armorm.files import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'training'): print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ArmormError, match=rf"in use by process {holder.pid} .*training"):
            command(recipe_of(data, "pretraining={}"), run)
    finally:
        holder.communicate("\n")
