"""Sources left out of stage 2, on the built-in corpus with each of its domains as a source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from armorm import FeatureStore, Recipe, train
from armorm.data import DataSource, read_preferences
from armorm.errors import ArmormError
from armorm.evaluation.leave_out import leave_each_out
from armorm.features.store import PairIndex
from armorm.training import features_stage, fit_gate_stage
from tests.commands import armorm, write
from tests.tiny import TEMPLATES, save_tiny_backbone

SOURCES = ["advice", "arithmetic", "code", "facts", "risky"]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    rows = read_preferences([DataSource(catalog="quickstart", limit=200)]).rows
    pairs = [
        {"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected, "source": r.subset}
        for r in rows
    ]
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"catalog": "quickstart", "limit": 450}],
            "preferences": [{"path": str(write(folder / "pairs.jsonl", pairs))}],
            "held_out": {"fraction": 0.3},
        },
        "gate": {"hidden_dim": 8, "steps": 10, "batch_size": 32, "folds": 2},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe.load(recipe_file), folder)
    return folder


def test_a_source_left_out_is_measured_whole_and_trained_on_no_more(recipe_file, run):
    pairs = FeatureStore.open(run / "features" / "preferences").pairs()
    of_code = sum(source == "code" for source in pairs.source)
    recipe = Recipe.load(recipe_file, ["data.leave_out=[code]"])
    metrics = fit_gate_stage(recipe, run).metrics
    assert list(metrics.preferences.methods["gate"].sources) == ["code"]
    assert metrics.preferences.methods["gate"].all.n == of_code
    assert metrics.left_out is None
    with pytest.raises(ArmormError, match=r"poetry.*no source.*advice, arithmetic"):
        fit_gate_stage(Recipe.load(recipe_file, ["data.leave_out=[poetry]"]), run)


def test_each_source_is_left_out_in_turn_and_shown_in_the_report(recipe_file, run):
    done = armorm("fit-gate", recipe_file, "-o", run, "--leave-out", "all", "-q")
    assert done.returncode == 0, done.stderr
    assert "Sources that stage 2 has not seen" in done.stdout
    assert "Does it travel?" in (run / "report.html").read_text()
    table = json.loads((run / "leave_out.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["leave_out"] == table
    assert list(table["sources"]) == SOURCES
    alone = fit_gate_stage(Recipe.load(recipe_file, ["data.leave_out=[facts]"]), run).metrics
    for method, found in alone.preferences.methods.items():
        assert table["sources"]["facts"]["methods"][method] == json.loads(
            json.dumps(found.as_dict())
        )
    counted = [table["sources"][name] for name in table["mean_over"]]
    assert all(one["pairs"] >= 20 for one in counted)
    for method, mean in table["mean"].items():
        shares = [one["methods"][method]["all"]["accuracy"] for one in counted]
        assert mean["all"]["accuracy"] == pytest.approx(np.mean(shares))
        assert mean["all"]["low"] < mean["all"]["accuracy"] < mean["all"]["high"]


def test_moved_prompts_are_held_out_ones_one_of_each_source(recipe_file, run):
    metrics = fit_gate_stage(Recipe.load(recipe_file), run).metrics
    rows = [json.loads(line) for line in (run / "held_out_pairs.jsonl").open()]
    texts = json.dumps(rows)
    moved = metrics.moved_prompts
    assert len({one.source for one in moved}) == len(moved) > 1
    assert [one.moved for one in moved] == sorted((one.moved for one in moved), reverse=True)
    assert all(json.dumps(one.prompt.rstrip("…"))[1:-1] in texts for one in moved)
    assert all(0 <= one.moved <= 1 for one in moved)


def _pairs(source: list[str], prompt: list[int], held_out: list[bool]) -> PairIndex:
    numbers = np.arange(len(source))
    return PairIndex(
        chosen=2 * numbers,
        rejected=2 * numbers + 1,
        prompt=np.array(prompt),
        held_out=np.array(held_out),
        chosen_length=numbers + 1,
        rejected_length=numbers + 2,
        subset=list(source),
        source=list(source),
        id=[str(number) for number in numbers],
    )


def test_prompts_of_a_source_left_out_are_trained_on_nowhere():
    pairs = _pairs(
        ["a", "a", "b", "b", "b", "c"],
        [0, 1, 1, 2, 3, 4],  # prompt 1 is in a and in b
        [False, True, False, False, True, False],
    )
    split = pairs.leaving_out(["a"])
    assert split.chosen.tolist() == [0, 2, 6, 10]
    assert split.held_out.tolist() == [True, True, False, False]
    assert split.source == ["a", "a", "b", "c"]


def test_one_source_alone_cannot_be_left_out_in_turn():
    pairs = _pairs(["a", "a"], [0, 1], [False, True])
    with pytest.raises(ArmormError, match="at least 2 sources"):
        leave_each_out(pairs, lambda split: pytest.fail("not measured"))


def test_leaving_out_every_source_is_refused():
    pairs = _pairs(["a", "b"], [0, 1], [False, False])
    with pytest.raises(ArmormError, match=r"leave_out: without a, b no pair is left to train on"):
        pairs.leaving_out(["a", "b"])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("[poetry]", r"source poetry gives no preference pair\. Sources: advice, arith"),
        ("[all, code]", "name no other with it"),
    ],
)
def test_a_wrong_name_is_refused_before_features_are_extracted(
    recipe_file, tmp_path, names, problem
):
    with pytest.raises(ArmormError, match=problem):
        features_stage(Recipe.load(recipe_file, [f"data.leave_out={names}"]), tmp_path)
    assert not (tmp_path / "features").exists()
