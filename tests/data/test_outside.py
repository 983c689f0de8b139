"""A dataset added from outside the package, with an objective that the package does not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from armorm import PAPER_OBJECTIVES, Objective, Recipe, RewardModel, train
from armorm.data import DataSource, objective_set, read_rated, register_dataset
from armorm.data.catalog import registry
from armorm.errors import RecipeError
from tests.data import politeness
from tests.data.hub_layouts import write_json_lines

TESTS = Path(__file__).parents[1]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    register_dataset(politeness.ENTRY)


def write_answers(root: Path) -> None:
    rows = [
        {
            "question": f"Where is house {number}?",
            "answer": "There you are, please." if number % 2 else "Go away now.",
            "polite": 90 + number % 10 if number % 2 else number % 10,
        }
        for number in range(80)
    ]
    write_json_lines(root / "acme/politeness/train.jsonl", rows)


def recipe(root: Path) -> dict:
    pairs = [
        {"prompt": f"Where is tree {i}?", "chosen": "Here, please.", "rejected": "Go away."}
        for i in range(40)
    ]
    write_json_lines(root / "pairs.jsonl", pairs)
    return {
        "name": "polite",
        "objectives": ["acme-politeness", "helpsteer"],
        "data": {
            "rated": [
                {"catalog": "acme-politeness", "root": str(root)},
                {"path": str(root / "more.jsonl")},
            ],
            "preferences": [{"path": str(root / "pairs.jsonl")}],
            "held_out": {"fraction": 0.25},
        },
        "debiasing": {"objective": "helpsteer-verbosity"},
        "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 5, "batch_size": 8},
    }


def write_more(root: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {number}?"},
                {"role": "assistant", "content": "A number. " * (number % 5 + 1)},
            ],
            "ratings": dict.fromkeys(objective_set("helpsteer").names, number * 3 % 5),
        }
        for number in range(80)
    ]
    write_json_lines(root / "more.jsonl", rows)


def test_a_dataset_with_a_new_objective_is_trained_on(registered, tmp_path):
    write_answers(tmp_path)
    write_more(tmp_path)
    loaded = Recipe.model_validate(recipe(tmp_path))
    names = loaded.objective_set().names
    assert names[0] == "acme-politeness"
    assert names[1:] == PAPER_OBJECTIVES.names[:5]
    rated = read_rated(loaded.data.rated[:1], loaded.objective_set()).rows
    assert rated[0].ratings == {"acme-politeness": 1.0}
    assert rated[1].ratings["acme-politeness"] == pytest.approx(1 + 6 * 0.91)
    train(loaded, tmp_path / "run")
    model = RewardModel.from_pretrained(tmp_path / "run" / "model", device="cpu", dtype="float32")
    assert model.objectives[0] == politeness.POLITENESS
    answer = {"role": "assistant", "content": "There you are, please."}
    explained = model.explain([{"role": "user", "content": "Where is house 7?"}, answer])
    assert "acme-politeness" in {share.objective for share in explained.objectives}


def test_an_installed_package_adds_datasets_to_every_command(tmp_path):
    (tmp_path / "acme.py").write_text((TESTS / "data" / "politeness.py").read_text())
    metadata = tmp_path / "acme-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    points = metadata / "entry_points.txt"
    points.write_text("[armorm.datasets]\npolite = acme:ENTRY\n")
    write_answers(tmp_path)

    def armorm(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return subprocess.run(
            [sys.executable, "-m", "armorm", *arguments],
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    shown = armorm("data", "show", "acme-politeness", "--from", str(tmp_path), "--json")
    described = json.loads(shown.stdout)
    assert described["objectives"] == ["acme-politeness"]
    assert described["sample"]["rated"]["read"] == 80
    points.write_text("[armorm.datasets]\npolite = acme:NOTHING\n")
    failed = armorm("data", "list")
    assert failed.returncode != 0
    assert "polite = acme:NOTHING" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_name_is_given_once():
    with pytest.raises(RecipeError, match="'helpsteer' already"):
        register_dataset(replace(politeness.ENTRY, name="helpsteer"))


def test_sets_of_objectives_are_joined_in_order():
    own = Objective(name="own", maximum=3)
    assert objective_set("paper") == PAPER_OBJECTIVES
    assert objective_set("helpsteer", "beavertails-30k", own).names == (
        *PAPER_OBJECTIVES.names[:5],
        "beavertails-is_safe",
        "own",
    )
    assert objective_set("helpsteer", "helpsteer2") == objective_set("helpsteer")
    for wrong, message in [
        (("shp",), "shp rates nothing"),
        (("helpstear",), "Did you mean 'helpsteer'"),
        ((own, own), "repeated: own"),
        (("beavertails-30k", Objective(name="beavertails-is_safe", maximum=2)), "repeated"),
    ]:
        with pytest.raises(RecipeError, match=message):
            objective_set(*wrong)


def test_the_catalogue_and_the_recipe_agree_on_scales(tmp_path):
    source = DataSource(catalog="helpsteer", root=str(tmp_path))
    wide = objective_set(Objective(name="helpsteer-helpfulness", maximum=10))
    with pytest.raises(RecipeError, match=r"helpsteer-helpfulness from 0 to 4.*has 0 to 10"):
        read_rated([source], wide)


def test_the_guide_shows_the_dataset_that_is_tested_here():
    code = (TESTS / "data" / "politeness.py").read_text()
    guide = (TESTS.parent / "CONTRIBUTING.md").read_text()
    assert f"```python\n{code[code.index('from armorm import') :]}```" in guide
