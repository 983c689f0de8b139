"""Benchmarks by name, exact scores, and a benchmark that another package brings in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from armorm import InputError, PreferencePair, RewardModel, evaluate
from armorm.errors import RecipeError
from armorm.evaluation.benchmarks import (
    PreferenceBenchmark,
    benchmark,
    benchmarks,
    register_benchmark,
)
from armorm.evaluation.benchmarks import registry as registry_module
from armorm.evaluation.benchmarks.reward_bench import PRIOR_SETS, SECTIONS
from tests.commands import armorm, invoke, write
from tests.data.hub_layouts import write_hub
from tests.tiny_models import conversation, make_heads

PROMPT = [{"role": "user", "content": "what is the capital of France ?"}]


@pytest.fixture(scope="module")
def folder(tiny_backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny-armorm"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


def error_of(*arguments: object) -> str:
    done = armorm(*arguments)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    return done.stderr


def outputs(shares: dict[str, tuple[int, int]]) -> list[dict]:
    """Rows with scores: of each subset as many right and wrong ones."""
    return [
        {
            "prompt": PROMPT,
            "subset": subset,
            "scores_chosen": 1.0,
            "scores_rejected": 0.0 if number < right else 1.0,  # a tie is wrong
            "chosen": "a",
            "rejected": "b",
        }
        for subset, (right, wrong) in shares.items()
        for number in range(right + wrong)
    ]


def test_reward_bench_weighs_sections_as_published(tmp_path):
    """One wrong subset of each section: the expected numbers are worked out by hand."""
    wrong = {"mt-bench-easy", "llmbar-natural", "xstest-should-refuse", "math-prm", "shp"}
    subsets = [*(name for counts in SECTIONS.values() for name in counts), *PRIOR_SETS]
    shares = {name: (0, 2) if name in wrong else (1, 0) for name in subsets}
    file = write(tmp_path / "x_outputs.jsonl", outputs(shares))
    result = json.loads(
        invoke("evaluate", "--scored", file, "--benchmark", "reward-bench", "--json")
    )
    chat, hard, safety, reasoning = 330 / 358, 356 / 456, 586 / 740, 984 / 1968
    found = result["figures"]
    assert found["Chat"] == pytest.approx(chat)
    assert found["Chat Hard"] == pytest.approx(hard)
    assert found["Safety"] == pytest.approx(safety)
    assert found["Reasoning"] == pytest.approx(reasoning)
    assert found["Prior Sets"] == pytest.approx(0.75)
    four = chat + hard + safety + reasoning
    assert found["score"] == pytest.approx(four / 4)
    assert found["score with prior sets"] == pytest.approx((four + 0.5 * 0.75) / 4.5)
    assert "Chat Hard" in invoke("evaluate", "--scored", file, "--benchmark", "reward-bench")


def test_a_section_without_all_its_subsets_has_no_figure(tmp_path):
    file = write(tmp_path / "x_outputs.jsonl", outputs({"mt-bench-easy": (1, 0)}))
    result = json.loads(
        invoke("evaluate", "--scored", file, "--benchmark", "reward-bench", "--json")
    )
    assert set(result["figures"].values()) == {None}
    assert result["accuracy"] == 1.0


def test_a_catalogue_benchmark_is_named_and_read_from_a_local_copy(folder, tmp_path):
    write_hub(tmp_path / "hub")
    result = json.loads(
        invoke("evaluate", folder, "reward-bench", "--from", tmp_path / "hub", "--json")
    )
    assert result["n"] > 0
    assert "Chat" in result["figures"]


def test_a_benchmark_of_another_package_is_one_file(folder, tmp_path, monkeypatch):
    rows = [{"prompt": "hello", "chosen": "ok", "rejected": "no no", "subset": "a"}]
    data = write(tmp_path / "manners.jsonl", rows)
    (tmp_path / "outside_manners.py").write_text(
        "from armorm.data import DataSource\n"
        "from armorm.evaluation.benchmarks import PreferenceBenchmark\n"
        "class Manners(PreferenceBenchmark):\n"
        "    name = 'manners'\n"
        "    about = 'Polite and rude answers.'\n"
        f"    sources = (DataSource(path={str(data)!r}),)\n"
        "    def figures(self, pairs):\n"
        "        return {'politeness': 2 * pairs.accuracy - 1}\n"
    )
    info = tmp_path / "outside_manners-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-manners\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[armorm.benchmarks]\nmanners = outside_manners:Manners\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry_module._installed.cache_clear()
    try:
        result = json.loads(invoke("evaluate", folder, "manners", "--json"))
    finally:
        monkeypatch.undo()
        registry_module._installed.cache_clear()
    assert result["figures"]["politeness"] == 2 * result["accuracy"] - 1


def test_a_registered_benchmark_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {})

    class Taken(PreferenceBenchmark):
        name = "reward-bench"

    class Fresh(PreferenceBenchmark):
        name = "fresh"

    with pytest.raises(RecipeError, match="already"):
        register_benchmark(Taken())
    register_benchmark(Fresh())
    assert benchmark("fresh").name in benchmarks()
    with pytest.raises(RecipeError, match="Did you mean 'fresh'"):
        benchmark("fresch")


def test_a_pair_without_a_finite_score_is_never_counted(tiny_folder):
    from armorm import Backbone

    backbone = Backbone.from_pretrained(tiny_folder, device="cpu", dtype="float32")
    word = backbone.tokenizer.convert_tokens_to_ids("Lyon")
    backbone.model.get_input_embeddings().weight.data[word] = torch.inf
    model = RewardModel(backbone, make_heads())
    prompt = tuple(PROMPT)
    pairs = [
        PreferencePair(prompt, "Paris", "Lyon", id="p1"),
        PreferencePair(prompt, "Paris", "ok", id="p2"),
    ]
    with pytest.raises(InputError, match=r"pair p1: score = .*not a finite number"):
        evaluate(model, pairs)
    report = evaluate(model, pairs, invalid="skip")
    assert report.n == 1
    assert [error["file"] for error in report.invalid] == ["pair p1"]


def test_scores_that_are_no_numbers_and_missing_names_are_errors(folder, tmp_path):
    row = outputs({"a": (1, 0)})[0]
    for value in ("NaN", "1" + "0" * 400, '"x"', "true"):
        text = json.dumps({**row, "scores_chosen": "HERE"}).replace('"HERE"', value)
        (tmp_path / "bad_outputs.jsonl").write_text(text + "\n")
        assert "scores_chosen" in error_of("evaluate", "--scored", tmp_path / "bad_outputs.jsonl")
    assert "Name the preference files" in error_of("evaluate", folder)
    misspelt = error_of("evaluate", folder, "x.jsonl", "--benchmark", "rewardbench")
    assert "Did you mean 'reward-bench'" in misspelt


def test_intervals_and_both_lengths_are_reported(folder, tmp_path):
    rows = [
        {"chosen": conversation(a), "rejected": conversation(b), "subset": "s"}
        for a, b in [("Paris", "ok"), ("ok", "Paris"), ("yes", "no")]
    ]
    result = json.loads(invoke("evaluate", folder, write(tmp_path / "p.jsonl", rows), "--json"))
    assert result["low"] <= result["accuracy"] <= result["high"]
    assert result["longer_won"]["n"] + result["shorter_won"]["n"] == 3
    assert set(result["subsets"]["s"]) == {"accuracy", "n", "low", "high"}
