"""Scores, explanations, comparisons and checkpoints at the public surface."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from armorm import (
    Backbone,
    InputError,
    RewardModel,
)
from armorm.conversations import OverlongError
from armorm.errors import ArmormError, CheckpointError, NonFiniteError, RecipeError
from tests.tiny_models import OBJECTIVES, PROMPT, conversation, make_heads


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


def test_score_is_the_released_formula(model):
    rewards = model.score([conversation("Paris"), conversation("Lyon , one two three")])
    transform = model.heads.transform
    debiased = rewards.rewards @ transform
    expected = (rewards.gating * debiased).sum(dim=1)
    torch.testing.assert_close(rewards.score, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rewards.coefficients, rewards.gating @ transform.T)
    assert rewards.rewards.shape == (2, 3)
    assert np.asarray(rewards.score).shape == (2,)
    assert rewards.objectives == ("tone", "safe", "verbosity")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("abcdef ,.?", min_size=1).filter(str.strip), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(OBJECTIVES.names), st.floats(-3, 3), max_size=3),
)
def test_contributions_sum_to_the_score(model, responses, factors):
    rewards = model.steer(factors).score([conversation(text) for text in responses])
    total = rewards.contributions.sum(dim=1)
    scale = rewards.contributions.abs().sum(dim=1).clamp(min=1e-3)
    assert ((total - rewards.score).abs() <= 1e-5 * scale).all()


def test_a_score_does_not_depend_on_batch_mates_or_order(model):
    texts = ["Paris", "ok", "Lyon , very long answer one two three four five", "a b c"]
    together = model.score([conversation(text) for text in texts])
    backwards = model.score([conversation(text) for text in reversed(texts)])
    for i, text in enumerate(texts):
        alone = model.score([conversation(text)])
        torch.testing.assert_close(together.score[i], alone.score[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.score[i], backwards.score[-1 - i], rtol=1e-4, atol=1e-5)


def test_gating_depends_on_the_prompt_alone(model):
    same = model.score([conversation("Paris"), conversation("ok one two")])
    torch.testing.assert_close(same.gating[0], same.gating[1], rtol=1e-4, atol=1e-6)
    other = model.score([conversation("Paris", [{"role": "user", "content": "hello"}])])
    assert (same.gating[0] - other.gating[0]).abs().max() > 1e-4


def test_an_explanation_speaks_in_rating_units(model):
    explanation = model.explain(conversation("Paris"))
    shares = {share.objective: share for share in explanation.objectives}
    assert shares["tone"].rating == pytest.approx(shares["tone"].reward * 5 - 0.5)
    assert shares["verbosity"].rating == pytest.approx(shares["verbosity"].reward * 4)
    assert sum(s.contribution for s in explanation.objectives) == pytest.approx(
        explanation.score, abs=1e-5
    )
    sizes = [abs(share.contribution) for share in explanation.objectives]
    assert sizes == sorted(sizes, reverse=True)
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_a_comparison_splits_the_margin_and_is_antisymmetric(model):
    one = model.compare("what is the capital of France ?", "Paris", "Lyon")
    two = model.compare(PROMPT, "Lyon", "Paris")
    assert sum(d.contribution for d in one.objectives) == pytest.approx(one.margin, abs=1e-5)
    assert one.margin == pytest.approx(-two.margin, abs=1e-6)
    assert one.probability == pytest.approx(1 / (1 + np.exp(-7.0 * one.margin)), abs=1e-6)
    assert {one.preferred, two.preferred} == {"a", "b"}
    assert model.compare(PROMPT, "ok", "ok").preferred == "tie"


def test_rows_with_one_prompt_are_computed_together_and_equal_ones_once(model):
    texts = ["Paris", "ok", "Lyon , one two", "ok", "Paris"]
    rows = [conversation(text) for text in texts]
    rewards = model.score(rows)
    assert rewards.score[1] == rewards.score[3]
    assert torch.equal(rewards.contributions[0], rewards.contributions[4])
    assert torch.equal(rewards.gating[0], rewards.gating[2])
    encode = model.backbone.encoder.encode
    apart = model.backbone.features([encode(PROMPT, [text]) for text in texts])
    joined = model.backbone.features([encode(PROMPT, texts[:3])])
    assert apart.computed_tokens == joined.computed_tokens
    assert torch.equal(apart.responses, joined.responses[[0, 1, 2, 1, 0]])
    assert torch.equal(apart.prompts, joined.prompts[[0] * 5])


def test_best_of_takes_the_highest_score(model):
    responses = ["Paris", "Lyon", "ok , yes", "one two three"]
    best, rewards = model.best_of(PROMPT, responses)
    assert rewards.score[best] == rewards.score.max()
    assert len(rewards) == 4


def test_steering_scales_coefficients_and_leaves_the_model_alone(model):
    before = model.score([conversation("Paris")])
    steered = model.steer({"tone": 0.0, "safe": 2.0}).score([conversation("Paris")])
    expected = before.gating * torch.tensor([0.0, 2.0, 1.0]) @ model.heads.transform.T
    torch.testing.assert_close(steered.coefficients, expected)
    torch.testing.assert_close(model.score([conversation("Paris")]).score, before.score)
    with pytest.raises(RecipeError, match="no objective 'ton'"):
        model.steer({"ton": 1.0})
    with pytest.raises(ArmormError, match="finite"):
        model.steer({"tone": float("inf")})


def test_bad_conversations_are_named_by_their_position(model):
    with pytest.raises(InputError, match=r"row 2: messages\[0\].role"):
        model.score([conversation("Paris"), [{"role": "bot", "content": "x"}]])
    with pytest.raises(OverlongError, match="256"):
        model.score([conversation("one " * 400)])


def test_saved_and_loaded_it_scores_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    loaded = RewardModel.from_pretrained(tmp_path / "m", device="cpu", dtype="float32")
    texts = [conversation(text) for text in ("Paris", "Lyon , one two")]
    torch.testing.assert_close(loaded.score(texts).score, model.score(texts).score, rtol=0, atol=0)
    assert loaded.objectives == model.objectives
    assert loaded.heads.beta == 7.0
    assert loaded.fingerprint() == RewardModel(loaded.backbone, make_heads()).fingerprint()


def test_the_folder_has_the_released_layout(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForRewardModelWithGating"]
    assert config["num_objectives"] == 3
    assert config["gating_temperature"] == 2.0
    assert config["id2label"]["1"] == "safe"
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["regression_layer.weight"].shape == (3, 32)
    assert tensors["reward_transform_matrix"].shape == (3, 3)
    assert tensors["gating.layers.0.weight"].shape == (16, 32)
    assert tensors["gating.logit_scale"].shape == (1,)
    assert "model.layers.1.mlp.up_proj.weight" in tensors
    assert not list((tmp_path / "m").glob("*.bin"))


def _edit(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("gating.layers.1.bias"), "gating.layers.1.bias is missing"),
        (lambda t: t.update({"gating.layers.9.bias": torch.zeros(1)}), "does not belong there"),
        (
            lambda t: t.update({"reward_transform_matrix": torch.eye(2)}),
            r"has shape \(2, 2\) instead of \(3, 3\)",
        ),
        (lambda t: t.pop("regression_layer.weight"), "not a gated reward model"),
        (lambda t: t.pop("model.norm.weight"), "norm.weight"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(model, tmp_path, change, message):
    model.save_pretrained(tmp_path / "m")
    _edit(tmp_path / "m", change)
    with pytest.raises(CheckpointError, match=message):
        RewardModel.from_pretrained(tmp_path / "m", device="cpu")


def test_a_plain_backbone_is_not_taken_for_a_reward_model(tiny_folder):
    with pytest.raises(CheckpointError, match="not a gated reward model"):
        RewardModel.from_pretrained(tiny_folder, device="cpu")


def test_a_folder_without_known_objectives_is_refused(model, tmp_path):
    folder = tmp_path / "m"
    model.save_pretrained(folder)
    shutil.move(folder / "armorm.json", tmp_path)
    with pytest.raises(CheckpointError, match="names and scales are unknown"):
        RewardModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def overflowing(tiny_folder) -> RewardModel:
    """A model whose hidden states overflow where a conversation says Lyon."""
    backbone = Backbone.from_pretrained(tiny_folder, dtype="float32", device="cpu")
    token = backbone.tokenizer.convert_tokens_to_ids("Lyon")
    backbone.model.get_input_embeddings().weight.data[token] = float("inf")
    return RewardModel(backbone, make_heads())


def test_nan_is_an_error_and_never_the_best_response(overflowing):
    with pytest.raises(NonFiniteError, match=r"responses\[1\].*1 of 3 conversations") as caught:
        overflowing.best_of(PROMPT, ["Paris", "Lyon", "ok"])
    assert caught.value.positions == (1,)
    rows = [conversation("Paris"), conversation("Lyon")]
    with pytest.raises(NonFiniteError, match="row 2"):
        overflowing.score(rows)
    with pytest.raises(NonFiniteError):
        overflowing.explain(rows[1])
    with pytest.raises(NonFiniteError):
        overflowing.compare(PROMPT, "Lyon", "Paris")
    ids = overflowing.backbone.tokenizer.apply_chat_template(rows[1], return_dict=False)
    with pytest.raises(NonFiniteError):
        overflowing.score_ids([ids])


def test_nan_of_one_response_leaves_its_neighbours_their_scores(overflowing, model):
    encode = overflowing.backbone.encoder.encode
    texts = ["Paris", "Lyon one", "ok", "Lyon"]
    encoded = [encode(PROMPT, texts), encode(PROMPT, ["one two"])]
    kept = overflowing.score_encoded(encoded, keep_nonfinite=True)
    assert kept.finite.tolist() == [True, False, True, False, True]
    expected = model.score([conversation(text) for text in ("Paris", "ok", "one two")])
    torch.testing.assert_close(kept.where(kept.finite).score, expected.score)


def test_a_folder_with_nan_in_its_heads_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    _edit(tmp_path / "m", lambda t: t["gating.layers.0.bias"].fill_(float("nan")))
    for verify in (True, False):
        with pytest.raises(CheckpointError, match=r"gating.layers.0.bias holds .* not finite"):
            RewardModel.from_pretrained(tmp_path / "m", device="cpu", verify=verify)


def test_eight_threads_get_the_scores_of_one(model):
    texts = ["Paris", "Lyon , one two", "ok", "a b c d e", "yes", "one two three four"]
    rows = [[conversation(text), conversation(f"{text} please")] for text in texts * 8]
    expected = [model.score(row).score for row in rows]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: model.score(row).score, rows))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ids", [[5, 9999, 3], [-1, 3]])
def test_ids_outside_the_vocabulary_are_named(model, ids):
    good = model.backbone.encoder.encode(PROMPT, ["Paris"]).sequences[0]
    with pytest.raises(InputError, match="row 2: input_ids"):
        model.score_ids([good, [*good[:-1], *ids, good[-1]]])


@pytest.mark.parametrize("value", ["a", 2.5, 5.0, None, True, [5]])
def test_ids_that_are_no_whole_numbers_are_named_by_row_and_value(model, value):
    good = list(model.backbone.encoder.encode(PROMPT, ["Paris"]).sequences[0])
    message = f"row 2: input_ids = {value!r}: not a whole number"
    with pytest.raises(InputError, match=re.escape(message)):
        model.score_ids([good, [*good[:-1], value, good[-1]]])


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.tensor([[1.0, 2.0]]), None, "row 1: input_ids = 1.0: not a whole number"),
        (torch.tensor([[True]]), None, "row 1: input_ids = True: not a whole number"),
        (torch.tensor([1, 2]), None, "row 1: input_ids = 1: not a row of token ids"),
        (["ab"], None, "row 1: input_ids = 'ab': not a row of token ids"),
        ([[1], None], None, "row 2: input_ids = None: not a row of token ids"),
        ("ab", None, "input_ids = 'ab': not a list of rows"),
        ([[1, 2]], [[1, "a"]], "row 1: attention_mask = 'a': neither 0 nor 1"),
        ([[1, 2]], [[0.0, -10000.0]], "row 1: attention_mask = -10000.0: neither 0 nor 1"),
    ],
)
def test_ids_and_masks_of_another_form_are_named(model, ids, mask, message):
    with pytest.raises(InputError, match=re.escape(message)):
        model.score_ids(ids, mask)


def test_ids_may_come_as_arrays_and_tensors(model):
    row = list(model.backbone.encoder.encode(PROMPT, ["Paris"]).sequences[0])
    expected = model.score_ids([row]).score
    for ids in (torch.tensor([row]), [np.array(row)], [torch.tensor(row)], [list(np.array(row))]):
        assert torch.equal(model.score_ids(ids, [[True] * len(row)]).score, expected)


def test_a_device_that_is_not_there_is_named(tiny_folder):
    if not torch.cuda.is_available():
        with pytest.raises(ArmormError, match="device = 'cuda' cannot be used"):
            Backbone.from_pretrained(tiny_folder, device="cuda")
    with pytest.raises(ArmormError, match="device = 'gpu' cannot be used"):
        Backbone.from_pretrained(tiny_folder, device="gpu")


def test_explaining_comparing_and_saving_do_not_hash_the_weights(model, tmp_path):
    """In a process of its own: the type checks of these tests read every property."""
    model.save_pretrained(tmp_path / "m")
    program = f"""
from armorm import RewardModel
from armorm.features import backbone
backbone.sha256_of_files = None
model = RewardModel.from_pretrained({str(tmp_path / "m")!r}, device="cpu")
model.explain([*{PROMPT!r}, {{"role": "assistant", "content": "Paris"}}])
model.compare({PROMPT!r}, "Paris", "ok")
model.save_pretrained({str(tmp_path / "n")!r})
print(model.fingerprint() == RewardModel.from_pretrained({str(tmp_path / "m")!r}).fingerprint())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr
