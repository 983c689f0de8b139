"""A head that learned or forgot rows equals one that was fitted on what remains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from armorm import Recipe
from armorm.cli import app
from armorm.errors import ArmormError
from armorm.quickstart import generate_corpus
from armorm.training import features_stage, fit_head_stage, merge_heads
from tests.tiny import TEMPLATES, save_tiny_backbone

ROWS = generate_corpus(0).rated[:450]


def _write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    save_tiny_backbone(folder, TEMPLATES["chatml"], positions=512)
    return folder


@pytest.fixture
def fit(backbone: Path, tmp_path: Path):
    """A run folder with a head fitted on some rows."""

    def make(name: str, rows: list[dict]) -> Path:
        content = {
            "objectives": "quickstart",
            "backbone": {"model": str(backbone), "device": "cpu"},
            "data": {
                "rated": [{"path": str(_write(tmp_path / f"{name}.jsonl", rows))}],
                "preferences": [{"catalog": "quickstart", "limit": 20}],
                "held_out": {"fraction": 0.2},
            },
            "head": {"alphas": [0.1, 10.0], "selection_fraction": 0.5},
        }
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(content))
        run = tmp_path / name
        features_stage(Recipe.load(recipe), run)
        fit_head_stage(Recipe.load(recipe), run)
        return run

    return make


def _weight(run: Path) -> np.ndarray:
    return load_file(run / "head" / "head.safetensors")["regression_layer.weight"]


def _command(*arguments: object) -> dict:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _assert_same_head(one: Path, other: Path) -> None:
    # The runs have computed their features in different batches: float32 rounds differently.
    expected = _weight(other)
    np.testing.assert_allclose(_weight(one), expected, atol=1e-5 * np.abs(expected).max())


def test_added_rows_count_as_if_they_had_been_there_and_removed_ones_leave_no_trace(fit, tmp_path):
    run, whole = fit("part", ROWS[:300]), fit("whole", ROWS)
    before = _weight(run)
    more = _write(tmp_path / "more.jsonl", ROWS[300:])
    report = _command("head", "add", run, more, "--json")
    _assert_same_head(run, whole)
    expected = json.loads((whole / "head" / "head.json").read_text())["objectives"]
    for name, fitted in report["objectives"].items():
        assert fitted["rows"] == expected[name]["rows"]
        assert fitted["alpha"] == expected[name]["alpha"]
    _command("head", "remove", run, more, "--json")
    np.testing.assert_allclose(_weight(run), before, atol=1e-6 * np.abs(before).max())


def test_rows_that_were_never_added_cannot_be_removed(fit, tmp_path):
    run = fit("part", ROWS[:300])
    before = _weight(run)
    strange = _write(tmp_path / "strange.jsonl", ROWS[290:310])
    with pytest.raises(ArmormError, match="are not in the head's statistics"):
        CliRunner().invoke(app, ["head", "remove", str(run), str(strange)], catch_exceptions=False)
    np.testing.assert_array_equal(_weight(run), before)


def test_merged_runs_equal_one_run_on_all_rows_and_share_none(fit):
    first, second, whole = fit("first", ROWS[:240]), fit("second", ROWS[240:]), fit("all", ROWS)
    _command("head", "merge", first, second, "-o", first, "--json")
    _assert_same_head(first, whole)
    with pytest.raises(ArmormError, match="count twice"):
        merge_heads([first, second], first)


def test_errors_across_parts_and_sources_need_no_rows(fit):
    run = fit("part", ROWS[:300])
    report = _command("head", "errors", run, "--json")
    assert report["alphas"] == [0.1, 10.0]
    courtesy = report["objectives"]["helpdesk-courtesy"]
    assert all(error > 0 for error in courtesy["parts"])
    assert courtesy["sources"] is None  # one source alone rates it
