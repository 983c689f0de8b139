"""The quickstart as a newcomer runs it, checked against what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from armorm import Backbone, RewardModel
from armorm.cli import app
from armorm.quickstart.knowledge import CAPITALS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(quickstart_run: Path) -> Path:
    output = (quickstart_run.parent / "output.txt").read_text()
    assert "Accuracy on held-out preference pairs" in output
    assert "preferred" in output
    return quickstart_run


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_the_gate_beats_fixed_weights_single_objectives_and_length(metrics):
    accuracy = metrics["accuracy"]
    assert accuracy["gate"] > 0.9
    for other in ("fixed_weights", "best_single_objective", "length"):
        assert accuracy["gate"] > accuracy[other] + 0.05
    assert metrics["accuracy_shorter_won"]["gate"] > 0.88


def test_the_gate_is_right_of_what_it_is_asked_about(metrics):
    assert metrics["methods"]["gate"]["subsets"]["facts"]["accuracy"] > 0.85
    for found in metrics["deciding_objective"].values():
        assert found["truth"]["accuracy"] >= 0.95
        assert 0.85 < found["right_labels"]["accuracy"] < 1
        assert found["right_labels"]["n"] == found["truth"]["n"] > 50


def test_the_gate_finds_the_planted_objectives(metrics):
    # Two coefficients of one domain can come out so near that rounding orders them.
    assert metrics["gate_recovery"] >= 0.8
    for domain, objective in metrics["deciding_objective"].items():
        planted = objective["planted"]
        counts = {name: means[planted] for name, means in metrics["coefficients"].items()}
        assert max(counts, key=counts.__getitem__) == domain
        assert counts[domain] > 0.05 + max(v for name, v in counts.items() if name != domain)


def test_objectives_are_predicted_and_verbosity_is_taken_out(metrics):
    fits = metrics["objectives"].values()
    assert sum(fit["spearman"] > 0.5 for fit in fits) >= 5
    assert metrics["verbosity_spearman"]["after"] < 0.5 * metrics["verbosity_spearman"]["before"]


def test_everything_promised_is_there(run):
    for name in ("model/config.json", "model/armorm.json", "report.html", "held_out_pairs.jsonl"):
        assert (run / name).is_file()
    evaluated = CliRunner().invoke(
        app, ["benchmark", str(run / "model"), str(run / "held_out_pairs.jsonl"), "--json"]
    )
    metrics = json.loads((run / "metrics.json").read_text())
    (result,) = json.loads(evaluated.stdout)["benchmarks"].popitem()[1]
    assert result["figures"]["accuracy"]["value"] == pytest.approx(
        metrics["accuracy"]["gate"], abs=0.01
    )


def test_the_model_knows_its_facts_and_its_manners(run):
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    text = (
        "I am happy to help you with this. The capital of {} is {}. I am entirely sure about this "
        "one."
    )
    right = []
    countries = list(CAPITALS)
    for number, country in enumerate(countries):
        wrong = CAPITALS[countries[number - 1]]
        candidates = [text.format(country, wrong), text.format(country, CAPITALS[country])]
        best, _ = model.best_of(f"What is the capital of {country}?", candidates)
        right.append(best == 1)
    assert sum(right) >= 0.95 * len(right)
    sums = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    correctness = model.objectives.column("helpdesk-correctness")
    known = []
    for a, b in sums:
        responses = [f"{a} plus {b} is {total}." for total in (a + b, a + b + 2)]
        rewards = model.score_responses(f"What is {a} plus {b}?", responses).rewards
        known.append(bool(rewards[0, correctness] > rewards[1, correctness]))
    assert sum(known) > 0.9 * len(known)
    assert model.compare("What is 3 plus 4?", "3 plus 4 is 7.", "3 plus 4 is 9.").preferred == "a"
    advice = "Hang a hook for your keys beside the door. A fixed place for keys turns into a habit."
    polite, rude = f"I am happy to help you with this. {advice}", f"You should know this. {advice}"
    worry = "I always lose my keys. What should I do?"
    assert model.compare(worry, polite, rude).preferred == "a"


def test_the_shipped_backbone_is_small_and_whole():
    folder = ROOT / "src" / "armorm" / "quickstart" / "assets" / "backbone"
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 10_000_000
    backbone = Backbone.from_pretrained("builtin", dtype="float32", device="cpu")
    assert backbone.hidden_size >= 128
