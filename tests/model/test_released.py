"""The released checkpoint's layout with random weights: right scores, or a refusal by name."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoTokenizer, LlamaModel
from transformers.utils import chat_template_utils

from armorm import PAPER_OBJECTIVES, Backbone, InputError, RewardModel
from armorm.errors import CheckpointError
from armorm.heads import GatingNetwork
from tests.tiny import TEMPLATES, released_heads, save_tiny_backbone, save_tiny_released
from tests.tiny_models import PROMPT, conversation, make_heads

BOUNDARY = [128009, 128006, 78191, 128007, 271]
TEXTS = ["Paris", "Lyon , very long answer one two three four five", "ok", "a b c d e"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    save_tiny_released(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return RewardModel.from_pretrained(folder, device="cpu", dtype="float32")


def published_score(folder, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Oracle: rewards, gating and score of one sequence, as METHOD's section on the release says.

    Written apart from the package: one sequence at a time, plain Llama, plain matrix products.
    """
    body = {
        name.removeprefix("model."): tensor.float()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith("model.")
    }
    llama = LlamaModel.from_pretrained(folder, dtype=torch.float32)
    llama.load_state_dict(body)
    heads = released_heads(32)
    with torch.no_grad():
        states = llama(torch.tensor([ids])).last_hidden_state[0]
    starts = [i for i in range(len(ids)) if ids[i : i + 5] == BOUNDARY]
    rewards = heads["regression_layer.weight"] @ states[-1]
    hidden = states[starts[-1]]
    for i in range(3):
        hidden = functional.relu(
            heads[f"gating.layers.{i}.weight"] @ hidden + heads[f"gating.layers.{i}.bias"]
        )
    logits = heads["gating.layers.3.weight"] @ hidden + heads["gating.layers.3.bias"]
    gating = torch.softmax(logits / 10, dim=0) * heads["gating.logit_scale"]
    return rewards, gating, torch.sum(gating * (rewards @ heads["reward_transform_matrix"]))


def rendered_ids(folder, text: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(conversation(text))["input_ids"]


def test_scores_are_those_of_the_published_forward_pass(folder, model):
    rewards = model.score([conversation(text) for text in TEXTS])
    for i, text in enumerate(TEXTS):
        expected = published_score(folder, rendered_ids(folder, text))
        found = (rewards.rewards[i], rewards.gating[i], rewards.score[i])
        for ours, published in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, published, rtol=1e-4, atol=1e-5)


def test_objectives_and_scales_are_attached(model):
    assert model.objectives == PAPER_OBJECTIVES
    shares = {share.objective: share for share in model.explain(conversation("Paris")).objectives}
    helpfulness = shares["helpsteer-helpfulness"]
    assert helpfulness.rating == pytest.approx(helpfulness.reward * 5 - 0.5)
    assert model.compare(PROMPT, "a", "b").probability is None  # beta was not released


def test_bfloat16_is_near_float32(folder, model):
    low = RewardModel.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert low.backbone.model.dtype == torch.bfloat16
    assert low.heads.weight.dtype == torch.float32
    texts = [conversation(text) for text in TEXTS]
    high = model.score(texts)
    scale = high.contributions.abs().sum(dim=1)
    assert ((low.score(texts).score - high.score).abs() <= 0.05 * scale).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 128009], ids=["own-padding-token", "padding-is-end-of-turn"])
def test_padded_batches_of_ids_score_like_single_rows(folder, model, side, pad):
    rows = [rendered_ids(folder, text) for text in TEXTS]
    width = max(map(len, rows))
    filler = [[pad] * (width - len(row)) for row in rows]
    pairs = [(f, r) if side == "left" else (r, f) for f, r in zip(filler, rows, strict=True)]
    marks = [(0, 1) if side == "left" else (1, 0)] * len(rows)
    ids = torch.tensor([[*a, *b] for a, b in pairs])
    mask = torch.tensor(
        [[*[m] * len(a), *[n] * len(b)] for (a, b), (m, n) in zip(pairs, marks, strict=True)]
    )
    expected = model.score([conversation(text) for text in TEXTS]).score
    torch.testing.assert_close(model.score_ids(ids, mask).score, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.score_ids(rows).score, expected, rtol=1e-4, atol=1e-5)


def test_ids_that_would_score_silently_wrong_are_refused(folder, model):
    row = rendered_ids(folder, "Paris")
    with pytest.raises(InputError, match="attention_mask"):
        model.score_ids(torch.tensor([row, row]))
    with pytest.raises(InputError, match=r"row 2: .*two BOS tokens"):
        model.score_ids([row, [128000, *row]])
    header = row.index(BOUNDARY[0])
    with pytest.raises(InputError, match="followed by a response"):
        model.score_ids([row[: header + 5]])
    with pytest.raises(InputError, match="by another model's template"):
        model.score_ids([row[:header]])


def test_bos_is_written_once_even_where_the_tokenizer_adds_its_own(folder, model, tmp_path):
    """Llama 3's own tokenizer adds BOS to any text, and its template writes one too."""
    adding = tmp_path / "adding"
    shutil.copytree(folder, adding)
    file = adding / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    bos = "<|begin_of_text|>"
    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, text],
        "pair": [text, other],
        "special_tokens": {bos: {"id": bos, "ids": [128000], "tokens": [bos]}},
    }
    file.write_text(json.dumps(tokenizer))
    assert AutoTokenizer.from_pretrained(adding)("a")["input_ids"][0] == 128000
    loaded = RewardModel.from_pretrained(adding, device="cpu", dtype="float32")
    texts = [conversation(text) for text in TEXTS]
    torch.testing.assert_close(loaded.score(texts).score, model.score(texts).score)


def test_the_score_is_the_same_tomorrow(tmp_path, monkeypatch):
    save_tiny_backbone(tmp_path / "b", TEMPLATES["llama3.1"])
    backbone = Backbone.from_pretrained(tmp_path / "b", dtype="float32", device="cpu")
    RewardModel(backbone, make_heads()).save_pretrained(tmp_path / "m")
    scores = []
    for day in (datetime.datetime(2026, 11, 21), datetime.datetime(2031, 2, 3)):

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return day

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        loaded = RewardModel.from_pretrained(tmp_path / "m", device="cpu", dtype="float32")
        scores.append(loaded.score([conversation("Paris")]).score)
    torch.testing.assert_close(*scores, rtol=0, atol=0)
    unpinned = AutoTokenizer.from_pretrained(tmp_path / "b")
    text = unpinned.apply_chat_template(conversation("Paris"), tokenize=False)
    assert "2031" in text  # the clock was really moved


def test_a_gate_without_hidden_layers_is_saved_and_loaded(model, tmp_path):
    torch.manual_seed(0)
    linear = GatingNetwork(model.heads.weight.shape[1], 19, n_hidden=0, temperature=2.0)
    saved = RewardModel(model.backbone, replace(model.heads, gate=linear))
    saved.save_pretrained(tmp_path / "linear")
    assert json.loads((tmp_path / "linear" / "config.json").read_text())["gating_n_hidden"] == 0
    gate = RewardModel.from_pretrained(tmp_path / "linear", device="cpu", dtype="float32").gate
    prompts = torch.randn(3, model.heads.weight.shape[1])
    torch.testing.assert_close(gate(prompts), linear(prompts))


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_model_keeps_the_released_names(saved, folder):
    original, copy = load_file(folder / "model.safetensors"), load_file(saved / "model.safetensors")
    assert set(original) == set(copy)
    config = json.loads((saved / "config.json").read_text())
    assert config["architectures"] == ["LlamaForRewardModelWithGating"]
    assert config["num_objectives"] == 19
    assert list(config["id2label"].values()) == list(PAPER_OBJECTIVES.names)
    written = "".join(
        file.read_text() for file in saved.glob("*.json") if file.stat().st_size < 1e6
    )
    assert str(folder) not in written


def test_the_self_check_notices_a_changed_template(saved):
    file = saved / "chat_template.jinja"
    file.write_text(file.read_text().replace("| trim", "+ ' '"))
    with pytest.raises(CheckpointError, match="chat template or BOS handling has changed"):
        RewardModel.from_pretrained(saved, device="cpu", dtype="float32")
    RewardModel.from_pretrained(saved, device="cpu", dtype="float32", verify=False)


def test_the_self_check_notices_changed_weights(saved):
    file = saved / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"] = -tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="self-check scores"):
        RewardModel.from_pretrained(saved, device="cpu", dtype="float32")


def test_the_self_check_allows_for_bfloat16(saved):
    RewardModel.from_pretrained(saved, device="cpu", dtype="bfloat16")


def test_a_sharded_folder_loads(model, tmp_path, monkeypatch):
    import huggingface_hub

    save = huggingface_hub.save_torch_state_dict
    monkeypatch.setattr(
        huggingface_hub,
        "save_torch_state_dict",
        lambda *args, **options: save(*args, **options, max_shard_size="4MB"),
    )
    model.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    loaded = RewardModel.from_pretrained(tmp_path / "sharded", device="cpu", dtype="float32")
    texts = [conversation(text) for text in TEXTS]
    torch.testing.assert_close(loaded.score(texts).score, model.score(texts).score)


@pytest.mark.parametrize("elsewhere", ["disk", 0], ids=["disk", "gpu"])
def test_layers_in_several_places_score_the_same(folder, model, elsewhere, tmp_path):
    if elsewhere == 0 and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    places = {"embed_tokens": "cpu", "layers.0": elsewhere, "layers.1": "cpu"}
    spread = RewardModel.from_pretrained(
        folder,
        device="cpu",
        dtype="float32",
        device_map={**places, "norm": "cpu", "rotary_emb": "cpu"},
        offload_folder=str(tmp_path),
    )
    texts = [conversation(text) for text in TEXTS]
    expected = model.score(texts).score
    torch.testing.assert_close(spread.score(texts).score, expected, rtol=1e-3, atol=1e-4)
