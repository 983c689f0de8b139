"""RewardBench's rows and result files, read and written by `armorm evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armorm import InputError, RewardModel
from armorm.evaluation.benchmarks.reward_bench_files import read_rewardbench_outputs
from tests.commands import invoke, write
from tests.tiny_models import PROMPT, conversation, make_heads

PAIRS = [("Paris", "Lyon"), ("ok", "no no"), ("yes", "one two three four")]


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rewardbench") / "tiny-armorm"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path) -> Path:
    """Rows as RewardBench's program takes them with --load_json."""
    whole = [
        {"chosen": conversation(a), "rejected": conversation(b), "subset": f"s{i % 2}", "id": i + 1}
        for i, (a, b) in enumerate(PAIRS)
    ]
    return write(tmp_path / "rows.jsonl", whole)


def test_result_files_have_rewardbench_names_and_fields(model, folder, rows, tmp_path):
    out = tmp_path / "results"
    report = json.loads(invoke("evaluate", folder, rows, "--rewardbench", out, "--json"))
    written = [json.loads(line) for line in (out / "tiny-armorm_outputs.jsonl").open()]
    expected = [model.score_responses(PROMPT, pair).score.tolist() for pair in PAIRS]
    for row, (chosen, rejected) in zip(written, expected, strict=True):
        assert row["scores_chosen"] == pytest.approx(chosen, rel=1e-4, abs=1e-5)
        assert row["scores_rejected"] == pytest.approx(rejected, rel=1e-4, abs=1e-5)
        assert row["results"] == int(row["scores_chosen"] > row["scores_rejected"])
        assert row["prompt"] == PROMPT
    assert "Paris" in written[0]["text_chosen"]
    assert "<|im_start|>" in written[0]["text_chosen"]
    summary = json.loads((out / "tiny-armorm.json").read_text())
    assert summary["accuracy"] == pytest.approx(report["accuracy"])
    assert summary["num_prompts"] == 3
    assert summary["extra_results"].keys() == {"s0", "s1"}


def test_results_are_read_back_without_a_model(folder, rows, tmp_path):
    out = tmp_path / "results"
    first = json.loads(invoke("evaluate", folder, rows, "--rewardbench", out, "--json"))
    outputs = out / "tiny-armorm_outputs.jsonl"
    again = json.loads(invoke("evaluate", "--scored", outputs, "--json"))
    for key in ("accuracy", "n", "ties", "subsets", "length", "shorter_won"):
        assert again[key] == first[key]


def test_rewardbenchs_own_outputs_are_read(tmp_path):
    row = {
        "prompt": PROMPT,
        "results": 1,
        "scores_chosen": [0.5],
        "scores_rejected": [0.25],
        "text_chosen": "long text",
        "text_rejected": "text",
    }
    (scored,) = read_rewardbench_outputs(write(tmp_path / "x_outputs.jsonl", [row]))
    assert scored.margin == 0.25
    del row["scores_chosen"]
    with pytest.raises(InputError, match="row 1: scores_chosen"):
        read_rewardbench_outputs(write(tmp_path / "y_outputs.jsonl", [row]))
