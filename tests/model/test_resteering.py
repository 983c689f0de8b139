"""Saved rows under another steering: the model's own scores, without its weights and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from armorm import Backbone, RewardModel, Steering, SteeringProfile
from armorm.errors import ArmormError, InputError, RecipeError
from armorm.evaluation.scoring import score_file
from armorm.integrations import annotate_file
from armorm.model.resteering import resteer_file
from armorm.model.saved_heads import SavedHeads
from tests.tiny_models import OBJECTIVES, conversation, make_heads

V = OBJECTIVES.names.index("verbosity")
PROMPTS = [f"{word} is the capital ?" for word in ("Paris", "Lyon", "one", "two ok", "France a b")]
TEXTS = ["Paris", "Lyon", "ok", "a very long answer please"]
STEERINGS = (
    Steering({"tone": 0.5, "verbosity": 0.0}, debiasing=0.5),
    Steering(weights={"safe": 1.0}, mixture=0.4, add={"verbosity": -0.1}),
    Steering({"tone": 2.0}, renormalise=True),
    Steering(),
)


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    heads = make_heads()
    transform = torch.eye(3)
    transform[V] -= torch.tensor([0.3, -0.2, 1.0])
    return RewardModel(tiny_backbone, replace(heads, transform=transform))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    rows = [{"messages": conversation(text)} for text in TEXTS]
    rows += [{"prompt": prompt, "response": "ok"} for prompt in PROMPTS]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": prompt, "responses": TEXTS} for prompt in PROMPTS]
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(model, folder / "in.jsonl", folder / "scored.jsonl")
    annotate_file(model, folder / "candidates.jsonl", folder / "annotated.jsonl")
    model.save_pretrained(folder / "model")
    return folder


def rows_of(file):
    return [json.loads(line) for line in file.open()]


@pytest.mark.parametrize("steering", STEERINGS, ids=str)
@pytest.mark.parametrize("with_model", [True, False])
def test_steered_rows_are_what_the_steered_model_writes(
    model, folder, steering, with_model, tmp_path
):
    saved = SavedHeads.in_folder(folder / "model") if with_model else None
    for source, write, field in (
        ("in.jsonl", score_file, "score"),
        ("candidates.jsonl", annotate_file, "rewards"),
    ):
        write(model.steer(steering), folder / source, tmp_path / f"{field}.jsonl")
        before = "scored.jsonl" if field == "score" else "annotated.jsonl"
        resteer_file(folder / before, tmp_path / "out.jsonl", steering, saved)
        found, expected = rows_of(tmp_path / "out.jsonl"), rows_of(tmp_path / f"{field}.jsonl")
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert one.get("steering") == other.get("steering")
            np.testing.assert_allclose(one[field], other[field], rtol=1e-4, atol=1e-5)
            if with_model:
                assert one == other


def test_a_profile_is_named_and_its_floors_apply(model, folder, tmp_path):
    floor = float(model.score_responses(PROMPTS[0], TEXTS).rewards[:, 1].median()) + 1e-6
    profile = SteeringProfile(
        name="wary", steering={"factors": {"tone": 0.5}}, floors={"safe": floor}
    )
    resteer_file(folder / "annotated.jsonl", tmp_path / "out.jsonl", profile)
    annotate_file(
        model.steer(profile=profile), folder / "candidates.jsonl", tmp_path / "expected.jsonl"
    )
    for one, other in zip(
        rows_of(tmp_path / "out.jsonl"), rows_of(tmp_path / "expected.jsonl"), strict=True
    ):
        assert one["profile"] == other["profile"] == profile.reference
        assert one["meets_floors"] == other["meets_floors"]
    with pytest.raises(RecipeError, match="Score the texts again"):
        resteer_file(
            folder / "annotated.jsonl", tmp_path / "out.jsonl", SteeringProfile(name="a", risk=1)
        )


def test_what_rows_do_not_determine_is_refused(model, folder, tmp_path):
    one_prompt = tmp_path / "one.jsonl"
    one_prompt.write_text((folder / "scored.jsonl").read_text().split("\n")[0] + "\n")
    plain = Steering(add={"tone": 0.2})  # the gate's own coefficients, which the row holds
    assert resteer_file(one_prompt, tmp_path / "out.jsonl", plain) == 1
    steered = model.steer(plain).score([conversation(TEXTS[0])]).score
    assert rows_of(tmp_path / "out.jsonl")[0]["score"] == pytest.approx(float(steered), abs=1e-5)
    with pytest.raises(InputError, match=r"one.jsonl, row 1: gating.*--model"):
        resteer_file(one_prompt, tmp_path / "no.jsonl", Steering({"tone": 0.0}))
    assert not (tmp_path / "no.jsonl").exists()
    resteer_file(folder / "scored.jsonl", tmp_path / "out.jsonl", STEERINGS[0])
    with pytest.raises(ArmormError, match="scored under a steering"):
        resteer_file(tmp_path / "out.jsonl", tmp_path / "no.jsonl", Steering())
    saved = SavedHeads.in_folder(folder / "model")
    resteer_file(tmp_path / "out.jsonl", tmp_path / "plain.jsonl", Steering(), saved)
    assert rows_of(tmp_path / "plain.jsonl") == rows_of(folder / "scored.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"score": 1}', "gating = None"),
        ('{"gating": {"a": 1}, "rewards": [1], "coefficients": {"a": 1}}', "rewards"),
        ('{"gating": {"a": "x"}, "rewards": {"a": 1}, "coefficients": {"a": 1}}', "gating.a = 'x'"),
        ('{"gating": {"a": 1}, "rewards": {"b": 1}, "coefficients": {"a": 1}}', "rewards"),
    ],
)
def test_rows_that_are_not_scored_are_refused(row, message, tmp_path):
    (tmp_path / "in.jsonl").write_text(row + "\n")
    with pytest.raises(InputError, match=rf"row 1: {message}"):
        resteer_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", Steering())


def test_the_command_imports_no_torch(folder, tmp_path):
    code = (
        "import sys; from armorm.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    arguments = ["steer", "rescore", str(folder / "scored.jsonl"), "--steer", "tone=0.5"]
    for more in ([], ["--model", str(folder / "model")]):
        output = tmp_path / f"{len(more)}.jsonl"
        command = [sys.executable, "-c", code, *arguments, "-o", str(output), *more]
        subprocess.run(command, check=True)
        assert len(rows_of(output)) == len(rows_of(folder / "scored.jsonl"))
