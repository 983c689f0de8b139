"""A head that learned or forgot rows equals one that was fitted on what remains."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from armorm import Recipe
from armorm.cli import app
from armorm.data import DataSource
from armorm.errors import ArmormError, StoreError
from armorm.quickstart import generate_corpus
from armorm.training import features_stage, fit_head_stage, head_errors, merge_heads, update_head
from armorm.training.head_stage import load_head
from armorm.training.statistics import HeadStatistics
from tests.tiny import TEMPLATES, save_tiny_backbone

# Plain answers can come twice with the same ratings; the second is no new row.
_DISTINCT = {json.dumps([row["messages"], row["ratings"]]): row for row in generate_corpus(0).rated}
ROWS = list(_DISTINCT.values())[:450]
PAIRS = [
    {**pair, "split": "test" if number % 5 == 0 else "train"}
    for number, pair in enumerate(generate_corpus(0).preferences[:20])
]


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

    return partial(_make_run, backbone, tmp_path)


@pytest.fixture(scope="module")
def fit_once(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that tests copy and do not change."""
    return _make_run(backbone, tmp_path_factory.mktemp("once"), "run", ROWS[:120])


def _make_run(
    backbone: Path,
    folder: Path,
    name: str,
    rows: list[dict],
    *,
    held_out: dict | None = None,
    folds: int = 3,
    seed: int = 1,
) -> Path:
    content = {
        "seed": seed,
        "objectives": "quickstart",
        "backbone": {"model": str(backbone), "device": "cpu"},
        "data": {
            "rated": [{"path": str(_write(folder / f"{name}.jsonl", rows))}],
            "preferences": [{"path": str(_write(folder / "pairs.jsonl", PAIRS))}],
            "held_out": held_out or {"fraction": 0.2},
        },
        "head": {"alphas": [0.1, 10.0], "folds": folds},
    }
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(content))
    run = folder / name
    features_stage(Recipe.load(recipe), run)
    fit_head_stage(Recipe.load(recipe), run)
    return run


def _rows(run: Path) -> int:
    return HeadStatistics.load(run / "head" / "statistics").copies().total()


def _fails(*arguments: object) -> None:
    CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


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


def test_errors_across_folds_and_sources_need_no_rows(fit):
    run = fit("part", ROWS[:300])
    report = _command("head", "errors", run, "--json")
    assert report["alphas"] == [0.1, 10.0]
    courtesy = report["objectives"]["helpdesk-courtesy"]
    assert all(error > 0 for error in courtesy["folds"])
    assert courtesy["sources"] is None  # one source alone rates it


def test_rows_that_the_head_knows_are_skipped_and_counted(fit, tmp_path):
    run = fit("part", ROWS[:300])
    before, weight = _rows(run), _weight(run)
    mixed = _write(tmp_path / "mixed.jsonl", ROWS[290:310])
    update = update_head(run, [DataSource(path=str(mixed))], "add")
    added = update.tally.kept
    assert _rows(run) == before + added
    assert update.tally.skipped["in the head already"] > 0
    assert sum(update.tally.skipped.values()) + added == 20
    after = _weight(run)
    with pytest.raises(ArmormError, match=r"hold no row to add.*in the head already"):
        _fails("head", "add", run, mixed)
    np.testing.assert_array_equal(_weight(run), after)
    new = _write(tmp_path / "new.jsonl", ROWS[300:310])
    _command("head", "remove", run, new, "--json")
    assert _rows(run) == before
    np.testing.assert_allclose(_weight(run), weight, atol=1e-6 * np.abs(weight).max())


def test_rows_are_removed_from_the_source_they_were_recorded_with(fit, tmp_path):
    run = fit("part", ROWS[:300])
    before = _rows(run)
    withdrawn = [{k: v for k, v in row.items() if k not in ("source", "id")} for row in ROWS[:300]]
    _command("head", "remove", run, _write(tmp_path / "withdrawn.jsonl", withdrawn[::10]), "--json")
    assert _rows(run) < before
    with pytest.raises(ArmormError, match="are not in the head's statistics"):
        _fails("head", "remove", run, tmp_path / "withdrawn.jsonl")


def test_with_the_split_as_a_column_no_held_out_prompt_is_learned(fit, tmp_path):
    held = {"column": "split", "values": ["test"]}
    rows = [{**row, "split": "test" if i % 5 == 0 else "train"} for i, row in enumerate(ROWS)]
    # A prompt is on one side in the file, as the run asks for.
    side = {json.dumps(row["messages"][:-1]): row["split"] for row in rows}
    rows = [{**row, "split": side[json.dumps(row["messages"][:-1])]} for row in rows]
    run = fit("column", rows[:300], held_out=held)
    asked = next(row for row in rows[:300] if row["split"] == "test")
    leak = {**asked, "split": "train", "ratings": {**asked["ratings"]}}
    leak["messages"] = [*asked["messages"][:-1], {"role": "assistant", "content": "New answer."}]
    before = _rows(run)
    with pytest.raises(ArmormError, match=r"hold no row to add.*held out elsewhere"):
        _fails("head", "add", run, _write(tmp_path / "leak.jsonl", [leak]))
    assert _rows(run) == before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("held_out", {"held_out": {"fraction": 0.3}}),
        ("folds", {"folds": 4}),
        ("seed", {"seed": 9}),
    ],
)
def test_heads_with_other_rules_are_not_merged(fit, name, settings):
    first, second = fit("first", ROWS[:240]), fit("second", ROWS[240:], **settings)
    with pytest.raises(StoreError, match=f"differ in {name}"):
        merge_heads([first, second], first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: content.replace(b"a", b"b", 1),
        lambda content: b"[1, 2]",
        lambda content: b"",
        lambda content: b"\xff\xfe" + content,
        lambda content: b"{}",
    ],
)
@pytest.mark.parametrize("file", ["statistics/statistics.json", "statistics/rows.parquet", "sums"])
def test_damaged_statistics_are_an_error_that_names_the_file(fit_once, tmp_path, file, damage):
    run = tmp_path / "run"
    shutil.copytree(fit_once, run)
    place = next((run / "head").glob("statistics/sums-*" if file == "sums" else file))
    content = place.read_bytes()
    place.write_bytes(damage(content))
    if place.read_bytes() == content:
        return
    with pytest.raises(StoreError, match=place.name):
        head_errors(run)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b"null",
        b'{"objectives": 3, "alphas": [], "selection_errors": [], "uncertainty": {}}',
        b'{"objectives": {"a": 1}, "alphas": [], "selection_errors": [], "uncertainty": {}}',
        b'{"objectives": {}, "alphas": [], "selection_errors": [], "uncertainty": {}}',
    ],
)
def test_a_damaged_head_is_an_error_that_names_the_file(fit_once, tmp_path, content):
    run = tmp_path / "run"
    shutil.copytree(fit_once, run)
    (run / "head" / "head.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"head\.json"):
        load_head(run / "head")
