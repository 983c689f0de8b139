"""Steering fitted to pairs, from a model and from the command line."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from armorm import PreferencePair, RewardModel, Steering
from armorm.errors import ArmormError
from armorm.evaluation.choices import fit_steering
from tests.commands import invoke, write
from tests.tiny_models import make_heads

WORDS = "a b c d e one two three four five Paris Lyon ok yes no hello thanks answer".split()  # noqa: SIM905
USER = Steering(add={"safe": 2.0})


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


def judged(model: RewardModel, steering: Steering, pairs: int, seed: int) -> list[PreferencePair]:
    """Return pairs as a user with this steering would decide them."""
    generator = random.Random(seed)
    text = lambda: " ".join(generator.choices(WORDS, k=generator.randint(1, 8)))  # noqa: E731
    user, rows = model.steer(steering), []
    for _ in range(pairs):
        prompt, a, b = ({"role": "user", "content": text()},), text(), text()
        first = user.score_responses(list(prompt), [a, b]).score
        chosen, rejected = (a, b) if first[0] > first[1] else (b, a)
        rows.append(PreferencePair(prompt, chosen, rejected))
    return rows


def accuracy(model: RewardModel, rows: list[PreferencePair]) -> float:
    scores = [model.score_responses(list(row.prompt), row.responses).score for row in rows]
    return float(np.mean([float(score[0]) > float(score[1]) for score in scores]))


def test_the_steering_decides_new_pairs_as_the_user_does(model):
    found = fit_steering(model, judged(model, USER, 80, seed=0))
    new = judged(model, USER, 80, seed=1)
    gate, steered = accuracy(model, new), accuracy(model.steer(found.steering), new)
    assert steered > max(gate + 0.05, 0.85)
    assert found.pairs == 80
    assert found.gate_accuracy.n == found.accuracy.n == 80
    assert found.accuracy.accuracy > found.gate_accuracy.accuracy
    safe = next(one for one in found.counts if one.objective == "safe")
    assert safe.differs
    assert safe.low < safe.coefficient < safe.high
    assert safe.coefficient > safe.gate
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_counts_are_the_mean_coefficients_of_the_steered_model(model):
    rows = judged(model, USER, 40, seed=2)
    found = fit_steering(model, rows)
    steered = model.steer(found.steering)
    encoded = [model.backbone.encoder.encode(row.prompt, row.responses) for row in rows]
    expected = steered.score_encoded(encoded).coefficients.mean(dim=0)
    by_name = {one.objective: one.coefficient for one in found.counts}
    counts = torch.tensor([by_name[name] for name in model.objectives.names])
    torch.testing.assert_close(counts, expected, rtol=1e-3, atol=1e-4)


def test_too_few_choices_are_refused(model):
    rows = judged(model, USER, 12, seed=3)
    with pytest.raises(ArmormError, match="say too little"):
        fit_steering(model, rows[:9])
    same = [PreferencePair(rows[0].prompt, row.chosen, row.rejected) for row in rows]
    with pytest.raises(ArmormError, match="of 1 prompts"):
        fit_steering(model, same)
    with pytest.raises(ArmormError, match="is steered"):
        fit_steering(model.steer(USER), rows)


def test_the_command_prints_options_that_score_so(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    rows = judged(model, USER, 30, seed=4)
    lines = [
        {"prompt": list(row.prompt), "chosen": row.chosen, "rejected": row.rejected} for row in rows
    ]
    source = write(tmp_path / "pairs.jsonl", lines)
    record = json.loads(invoke("steer", "fit", tmp_path / "model", source, "--json"))
    expected = fit_steering(model, rows)
    assert record["pairs"] == 30
    assert Steering.from_dict(record["steering"]).as_dict().keys() == {"factors", "add"}
    added = expected.steering.add["safe"]
    assert record["steering"]["add"]["safe"] == pytest.approx(added, rel=1e-3)
    printed = invoke("steer", "fit", tmp_path / "model", source)
    words = printed[printed.index("Score so with:") :].split()
    items = [words[i + 1] for i, word in enumerate(words) if word == "--steer"]
    again = Steering.parse(items)
    assert again.add["safe"] == pytest.approx(added, rel=1e-3)
