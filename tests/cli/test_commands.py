"""The command line as a script sees it: output, files and exit codes of real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from armorm import RewardModel
from tests.commands import armorm, invoke, run, write
from tests.tiny_models import make_heads


@pytest.fixture(scope="module")
def model_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


def conversation(response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "hello"}, {"role": "assistant", "content": response}]


def test_score_keeps_each_row_and_adds_the_parts(model_folder, tmp_path):
    rows = [
        {"messages": conversation("ok"), "note": "kept ☺"},
        {"prompt": "hello", "response": "yes"},
    ]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    summary = json.loads(invoke("score", model_folder, source, "-o", output, "--json"))
    assert (summary["rows"], summary["scored"], summary["skipped"]) == (2, 2, 0)
    scored = [json.loads(line) for line in output.open()]
    assert scored[0]["note"] == "kept ☺"
    model = RewardModel.from_pretrained(model_folder, device="cpu", dtype="float32")
    expected = model.score([conversation("ok"), conversation("yes")])
    for i, row in enumerate(scored):
        assert row["score"] == pytest.approx(float(expected.score[i]), rel=1e-4, abs=1e-5)
        assert set(row["rewards"]) == set(row["gating"]) == {"tone", "safe", "verbosity"}
        total = sum(row["coefficients"][name] * row["rewards"][name] for name in row["rewards"])
        assert total == pytest.approx(row["score"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_score_stops_at_a_bad_row_or_lists_it(model_folder, tmp_path):
    rows = [{"messages": conversation("ok")}, {"messages": conversation("")}, "{", {"text": "x"}]
    rows.append({"messages": conversation("one " * 400)})
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    failed = armorm("score", model_folder, source, "-o", output)
    assert failed.returncode == 3
    assert "in.jsonl, row 2: messages[1].content = ''" in failed.stderr
    assert not output.exists()
    summary = json.loads(
        run("score", model_folder, source, "-o", output, "--skip-invalid", "--json")
    )
    assert (summary["scored"], summary["skipped"]) == (1, 4)
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl.invalid").open()]
    assert summary["invalid_file"] == str(tmp_path / "out.jsonl.invalid")
    assert [error["row"] for error in listed] == [2, 3, 4, 5]
    assert "the model reads 256" in listed[3]["reason"]


def test_a_killed_score_resumes_with_no_row_lost_or_doubled(model_folder, tmp_path):
    rows = [
        {"messages": conversation(f"one two {'very ' * (i % 30)} ok"), "n": i} for i in range(6000)
    ]
    rows[1500] = {"messages": conversation(""), "n": 1500}
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = ["score", str(model_folder), str(source), "-o", str(output), "--skip-invalid"]
    generator = random.Random(0)
    parts = tmp_path / "out.jsonl.parts"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", "from armorm.cli import main; main()", *command],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        before = len(list(parts.glob("part-*.json")))
        while process.poll() is None and len(list(parts.glob("part-*.json"))) == before:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 0 < len(list(parts.glob("part-*.json"))) < 6000 / 256
    summary = json.loads(run(*command, "--json"))
    assert summary["resumed_at"] > 0
    scored = [json.loads(line)["n"] for line in output.open()]
    assert scored == [i for i in range(6000) if i != 1500]


def test_unfinished_output_of_another_input_is_not_continued(model_folder, tmp_path):
    output = tmp_path / "out.jsonl"
    first = write(tmp_path / "a.jsonl", [{"messages": conversation("ok")}, "{"])
    armorm("score", model_folder, first, "-o", output)
    (tmp_path / "out.jsonl.parts").mkdir()
    (tmp_path / "out.jsonl.parts" / "manifest.json").write_text('{"model": "other"}')
    failed = armorm("score", model_folder, first, "-o", output)
    assert failed.returncode == 1
    assert "another model, input or command" in failed.stderr


def test_explain_and_compare(model_folder, tmp_path):
    text = tmp_path / "response.txt"
    text.write_text("yes , ok")
    explained = json.loads(
        invoke("explain", model_folder, "--prompt", "hello", "--response", f"@{text}", "--json")
    )
    total = sum(share["contribution"] for share in explained["objectives"])
    assert total == pytest.approx(explained["score"], abs=1e-5)
    arguments = ["compare", model_folder, "--prompt", "hello", "--a", "ok", "--b", "no"]
    compared = json.loads(invoke(*arguments, "--json"))
    assert compared["preferred"] == ("a" if compared["margin"] > 0 else "b")
    table = invoke(*arguments)
    assert "verbosity" in table
    assert "margin" in table


def test_rank_prints_the_order_of_the_scores(model_folder):
    texts = ["ok", "no", "yes , very long answer"]
    arguments = ["rank", model_folder, "--prompt", "hello"]
    for text in texts:
        arguments += ["--response", text]
    ranked = json.loads(invoke(*arguments, "--json"))["responses"]
    model = RewardModel.from_pretrained(model_folder, device="cpu", dtype="float32")
    scores = model.score_responses("hello", texts).score
    assert [one["response"] for one in ranked] == scores.argsort(descending=True).tolist()
    table = invoke(*arguments)
    assert "on the front" in table
    assert f"{float(scores.max()):.4f}" in table


def test_steering_on_the_command_line(model_folder):
    arguments = ["explain", model_folder, "--prompt", "hello", "--response", "ok", "--json"]
    explained = json.loads(invoke(*arguments, "--steer", "tone=0"))
    shares = {share["objective"]: share for share in explained["objectives"]}
    assert shares["tone"]["coefficient"] == 0
    assert shares["safe"]["coefficient"] != 0


def test_benchmark_prints_accuracy_ties_and_subsets(model_folder, tmp_path):
    model = RewardModel.from_pretrained(model_folder, device="cpu", dtype="float32")
    texts = ["ok", "no", "yes , very long answer", "a b c", "Paris"]
    scores = {text: float(model.score([conversation(text)]).score[0]) for text in texts}
    pairs = [(a, b) for a in texts for b in texts if a != b]
    rows = [{"prompt": "hello", "chosen": a, "rejected": b, "subset": a[0]} for a, b in pairs] + [
        {"prompt": "hello", "chosen": "same", "rejected": "same"}
    ]
    source = write(tmp_path / "p.jsonl", rows)
    assert armorm("benchmark", model_folder, source).returncode == 3
    printed = json.loads(invoke("benchmark", model_folder, source, "--skip-invalid", "--json"))
    (result,) = printed["benchmarks"][str(source)]
    right = sum(scores[a] > scores[b] for a, b in pairs)
    assert result["rows"]["scored"] == len(pairs)
    assert result["figures"]["accuracy"]["value"] == pytest.approx(right / len(pairs))
    assert result["ties"] == 0
    assert set(result["subsets"]) == {a[0] for a, _ in pairs}
    assert sum(subset["n"] for subset in result["subsets"].values()) == len(pairs)
    assert [error["reason"] for error in result["invalid"]] == ["the same text as chosen"]
    assert "accuracy" in invoke("benchmark", model_folder, source, "--skip-invalid")


def test_text_is_never_read_as_markup(model_folder, tmp_path):
    rows = [{"prompt": "hello", "chosen": "ok", "rejected": "no", "subset": "[bold]x[/nope]"}]
    table = invoke("benchmark", model_folder, write(tmp_path / "p.jsonl", rows))
    assert "[bold]x[/nope]" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["train", "none.yaml", "-o", "x"], 2, "cannot be read"),
        (["explain", "no/model", "--prompt", "a", "--response", "b"], 1, "no/model"),
    ],
)
def test_exit_codes(arguments, code, message):
    done = armorm(*arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_export_writes_a_folder_that_scores_the_same(model_folder, tmp_path):
    printed = invoke("export", model_folder, "-o", tmp_path / "out", "--license", "apache-2.0")
    assert "AutoModelForSequenceClassification" in printed
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()
    first, second = (
        RewardModel.from_pretrained(folder, device="cpu", dtype="float32")
        for folder in (model_folder, tmp_path / "out")
    )
    text = [conversation("ok")]
    assert first.score(text).score.tolist() == second.score(text).score.tolist()
    low = tmp_path / "low"
    invoke("export", model_folder, "-o", low, "--dtype", "bfloat16")
    assert json.loads((low / "config.json").read_text())["dtype"] == "bfloat16"
    weights = "model.safetensors"
    assert (low / weights).stat().st_size < 0.6 * (tmp_path / "out" / weights).stat().st_size


def test_every_command_has_help():
    for command in (
        *("train", "features", "fit-head", "fit-gate", "score", "explain", "compare"),
        *("benchmark", "export", "annotate", "best-of", "pairs"),
    ):
        assert "Usage" in invoke(command, "--help")
