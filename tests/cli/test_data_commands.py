"""``armorm data``: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from armorm.cli import app
from tests.commands import armorm, invoke
from tests.data.hub_layouts import hh_rows, write_hub, write_json_lines


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


def recipe(folder: Path, **data) -> Path:
    content = {
        "data": {
            "rated": [{"catalog": "helpsteer2"}],
            "preferences": [{"catalog": "hh-rlhf-helpful-base", "limit": 2}],
            **data,
        }
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_list_names_every_dataset_with_its_licence_and_hub_id():
    table = invoke("data", "list")
    assert "helpsteer2" in table
    assert "20,324" in table
    entries = json.loads(invoke("data", "list", "--json"))
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["beavertails-30k"]["licence"] == "CC-BY-NC-4.0"
    assert by_name["helpsteer2"]["hub_id"] == "nvidia/HelpSteer2"
    assert by_name["helpsteer2"]["kinds"] == ["rated", "preferences"]
    benchmarks = json.loads(invoke("data", "list", "--kind", "benchmark", "--json"))
    assert {entry["name"] for entry in benchmarks} == {
        "reward-bench",
        "reward-bench-raw",
        "preference-test-sets",
        "reward-bench-2",
    }


def test_show_has_schema_sample_and_histograms(hub):
    shown = invoke("data", "show", "ultrafeedback", "--from", hub)
    assert "the user's turn" in shown
    assert "Say hello." in shown
    assert "option by = aspects" in shown
    assert "from memory" in shown
    assert "█" in shown
    assert "rating N/A or empty: read as missing" in shown
    described = json.loads(invoke("data", "show", "ultrafeedback", "--from", hub, "--json"))
    counts = described["sample"]["rated"]["ratings"]["ultrafeedback-honesty"]
    assert counts == {"n": 3, "mean": pytest.approx(11 / 3), "histogram": [[1.0, 1], [5.0, 2]]}


def test_show_says_so_where_the_data_is_out_of_reach(tmp_path):
    shown = invoke("data", "show", "helpsteer2", "--from", tmp_path)
    assert "No sample: There is no folder" in shown
    assert "preferences" in shown
    assert json.loads(invoke("data", "show", "helpsteer2", "--rows", "0", "--json"))["sample"] == {}


def test_prepare_writes_files_a_manifest_and_a_recipe(hub, tmp_path):
    arguments = ["data", "prepare", recipe(tmp_path), "-o", tmp_path / "out", "--from", hub]
    printed = invoke(*arguments)
    assert "turns do not alternate between user and assistant" in printed
    manifest = json.loads(invoke(*arguments, "--json"))
    assert [source["kept"] for source in manifest["sources"]] == [2, 1]
    for source in manifest["sources"]:
        for name, file in source["files"].items():
            assert pq.read_metadata(tmp_path / "out" / name).num_rows == file["rows"]
    written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert written["data"]["held_out"]["column"] == "split"


def test_check_reports_and_exits_with_3_where_a_row_is_invalid(hub, tmp_path):
    good = {"prompt": "a [bold]b[/nope]", "chosen": "x", "rejected": "y"}
    write_json_lines(tmp_path / "good.jsonl", [good])
    write_json_lines(tmp_path / "bad.jsonl", [good, {**good, "rejected": ""}])
    options = ["--against", "reward-bench", "--from", hub]
    report = json.loads(invoke("data", "check", tmp_path / "good.jsonl", *options, "--json"))
    assert report["contamination"]["reward-bench"]["found"] == {"prompt": 0, "response": 0}
    command = [str(argument) for argument in ("data", "check", tmp_path / "bad.jsonl", *options)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert "empty assistant message" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "show", "helpstear"], 2, "Did you mean"),
        (["data", "check", "none.jsonl"], 2, "There is no file 'none.jsonl'"),
        (["data", "prepare", "none.yaml", "-o", "x"], 2, "cannot be read"),
    ],
)
def test_exit_codes(arguments, code, message):
    done = armorm(*arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_a_killed_preparation_goes_on_and_leaves_the_same_files(hub, tmp_path):
    folder = tmp_path / "hub"
    start = "\n\nHuman: Hello {}\n\nAssistant: "
    many = [
        {"chosen": start.format(i) + "Yes.", "rejected": start.format(i) + "No."}
        for i in range(20_000)
    ]
    for part in ("helpful-base", "helpful-online"):
        write_json_lines(folder / "Anthropic/hh-rlhf" / part / "train.jsonl", [*many, *hh_rows()])
    sources = [{"catalog": "hh-rlhf-helpful-base"}, {"catalog": "hh-rlhf-helpful-online"}]
    file = recipe(tmp_path, rated=[], preferences=sources)
    command = ["data", "prepare", str(file), "--from", str(folder), "-o"]
    whole = json.loads(invoke(*command, tmp_path / "whole", "--json"))
    output = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-c", "from armorm.cli import main; main()", *command, str(output)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (output / ".progress.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / "manifest.json").exists()
    resumed = json.loads(invoke(*command, output, "--json"))
    assert resumed["sources"] == whole["sources"]
    second = whole["sources"][1]["skipped"]
    assert second["the same row again"] == 20_001
