"""A GGUF file is a backbone like any other, dequantised when it is loaded."""

from __future__ import annotations

import json
import shutil
from importlib import util

import gguf
import pytest
import torch
from transformers import AutoModel
from transformers.utils import logging

from armorm import Backbone, Recipe, RewardModel
from armorm.errors import CheckpointError, MissingExtraError
from armorm.features import gguf as armorm_gguf
from armorm.features import resolve_model_folder
from armorm.features.backbone import layers_of_model
from armorm.features.options import BackboneOptions
from armorm.features.vllm_backbone import VllmBackbone
from armorm.training import pretrain_stage
from armorm.training.run_backbone import load_backbone
from tests.features.gguf_files import LAYERS, TEMPLATE, tiny_llama, write_gguf
from tests.tiny_models import PROMPT, conversation, make_heads

TEXTS = ["Paris.", "The capital is Lyon, I think.", "no"]


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


@pytest.fixture(scope="module")
def backbone(file):
    return Backbone.from_pretrained(file, dtype="float32", device="cpu")


def scores(backbone):
    return RewardModel(backbone, make_heads()).score([conversation(text) for text in TEXTS]).score


def test_states_are_those_of_the_same_weights_in_transformers(model, backbone):
    encoded = backbone.encoder.encode(PROMPT, TEXTS)
    found = backbone.features([encoded])
    with torch.no_grad():
        for ids, state in zip(encoded.sequences, found.responses, strict=True):
            expected = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-5)


def test_tokenizer_and_template_come_from_the_file(backbone):
    assert backbone.encoder.template == TEMPLATE
    ids = backbone.encoder.encode(PROMPT, ["he had"]).sequences[0]
    text = backbone.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>user\nwhat is the capital of France ?<|im_end|>")
    assert backbone.tokenizer.convert_ids_to_tokens(ids)[-5:-1].count("he") <= 1
    assert "he" in backbone.tokenizer.convert_ids_to_tokens(ids)


def test_a_saved_backbone_is_an_ordinary_folder_with_equal_scores(backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in config
    assert not backbone.quantized
    again = Backbone.from_pretrained(tmp_path / "plain", dtype="float32", device="cpu")
    assert torch.equal(scores(again), scores(backbone))
    AutoModel.from_pretrained(tmp_path / "plain")


def test_a_reward_model_on_it_saves_and_loads(backbone, tmp_path):
    RewardModel(backbone, make_heads()).save_pretrained(tmp_path / "model")
    again = RewardModel.from_pretrained(tmp_path / "model", dtype="float32", device="cpu")
    assert "quantization_config" not in (tmp_path / "model" / "config.json").read_text()
    expected = scores(backbone)
    found = again.score([conversation(text) for text in TEXTS]).score
    torch.testing.assert_close(found, expected)


def test_quantised_weights_are_dequantised(model, tmp_path, backbone):
    kind = gguf.GGMLQuantizationType.Q8_0
    file = write_gguf(tmp_path / "q8.gguf", model, quantization=kind)
    coarse = Backbone.from_pretrained(file, dtype="bfloat16", device="cpu")
    assert coarse.model.dtype == torch.bfloat16
    weight = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    expected = torch.from_numpy(gguf.dequantize(gguf.quantize(weight, kind), kind))
    torch.testing.assert_close(coarse.model.layers[0].mlp.up_proj.weight, expected.bfloat16())


def test_a_layer_of_it_can_be_chosen(file, model):
    assert layers_of_model(file, BackboneOptions()) == LAYERS
    cut = Backbone.from_pretrained(file, dtype="float32", device="cpu", layer=2)
    assert len(cut.model.layers) == 2
    encoded = cut.encoder.encode(PROMPT, TEXTS[:1])
    ids = torch.tensor([encoded.sequences[0]])
    with torch.no_grad():
        states = model.model(ids, output_hidden_states=True).hidden_states[2]
        expected = model.model.norm(states)[0, -1]
    torch.testing.assert_close(cut.features([encoded]).responses[0], expected, atol=1e-5, rtol=0)


def test_a_folder_with_one_file_is_enough_and_several_must_be_named(file, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(file, folder)
    assert resolve_model_folder(folder) == folder / "tiny.gguf"
    shutil.copy(file, folder / "other.gguf")
    with pytest.raises(CheckpointError, match=r"other\.gguf, tiny\.gguf.*such as .*other\.gguf"):
        resolve_model_folder(folder)
    assert resolve_model_folder(folder / "tiny.gguf") == folder / "tiny.gguf"


def test_repositories_name_their_file(monkeypatch, file, tmp_path):
    import huggingface_hub

    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        return str(file)

    class Hub:
        def list_repo_files(self, repository, revision=None):
            return ["README.md", *names]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert resolve_model_folder("some/chat:q8.gguf", "main") == file
    names = ["q4.gguf"]
    assert resolve_model_folder("some/chat") == file
    assert asked == [("some/chat", "q8.gguf", "main"), ("some/chat", "q4.gguf", None)]
    names = ["q4.gguf", "q8.gguf"]
    with pytest.raises(CheckpointError, match=r"such as some/chat:q4\.gguf"):
        resolve_model_folder("some/chat")


def test_identity_is_that_of_the_file(file, backbone, model, tmp_path):
    copy = shutil.copy(file, tmp_path / "copy.gguf")
    same = Backbone.from_pretrained(copy, dtype="float32", device="cpu")
    assert same.identity["weights_sha256"] == backbone.identity["weights_sha256"]
    with torch.no_grad():
        model.model.norm.weight[0] += 1
        changed = write_gguf(tmp_path / "changed.gguf", model)
        model.model.norm.weight[0] -= 1
    other = Backbone.from_pretrained(changed, dtype="float32", device="cpu")
    assert other.identity["weights_sha256"] != backbone.identity["weights_sha256"]
    prints = {RewardModel(one, make_heads()).fingerprint() for one in (backbone, other)}
    assert len(prints) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(file, tmp_path, share):
    content = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.gguf is .*cut off\. Download"):
        Backbone.from_pretrained(tmp_path / "cut.gguf", device="cpu")
    with pytest.raises(CheckpointError, match=r"cut\.gguf is .*cut off\. Download"):
        layers_of_model(tmp_path / "cut.gguf", BackboneOptions())


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        (["add_token_list", "add_token_types"], r"tokenizer\.ggml\.tokens missing"),
        (["add_token_merges"], r"merges or tokenizer\.ggml\.scores missing"),
    ],
)
def test_a_file_without_a_whole_tokenizer_is_refused(
    model, tmp_path, monkeypatch, left_out, missing
):
    for method in left_out:
        monkeypatch.setattr(gguf.GGUFWriter, method, lambda *_: None)
    file = write_gguf(tmp_path / "mute.gguf", model)
    with pytest.raises(CheckpointError, match=rf"mute\.gguf holds no complete tok.*{missing}"):
        Backbone.from_pretrained(file, device="cpu")


def test_the_suffix_may_be_in_capitals(file, tmp_path):
    (tmp_path / "A.GGUF").write_bytes(file.read_bytes())
    assert resolve_model_folder(tmp_path) == tmp_path / "A.GGUF"
    assert Backbone.from_pretrained(tmp_path, device="cpu").hidden_size == 32


def test_the_bars_of_transformers_can_be_turned_off(file, capfd):
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        Backbone.from_pretrained(file, device="cpu")
    finally:
        if before:
            logging.enable_progress_bar()
    assert "GGUF" not in capfd.readouterr().err


def test_what_cannot_be_read_is_named(file, model, tmp_path):
    bare = write_gguf(tmp_path / "bare.gguf", model, template=None)
    with pytest.raises(CheckpointError, match=r"bare\.gguf holds no chat template"):
        Backbone.from_pretrained(bare, device="cpu")
    unknown = write_gguf(tmp_path / "unknown.gguf", model, architecture="unheard")
    with pytest.raises(CheckpointError, match="unheard"):
        Backbone.from_pretrained(unknown, device="cpu")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(CheckpointError, match=r"text\.gguf"):
        Backbone.from_pretrained(tmp_path / "text.gguf", device="cpu")
    with pytest.raises(CheckpointError, match=r"absent\.gguf"):
        Backbone.from_pretrained(tmp_path / "absent.gguf", device="cpu")


def test_the_extra_is_named_where_it_is_missing(file, monkeypatch):
    monkeypatch.setattr(armorm_gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"armorm\[gguf\]"):
        Backbone.from_pretrained(file, device="cpu")


@pytest.mark.skipif(util.find_spec("vllm") is not None, reason="needs no vLLM")
def test_vllm_is_refused(file):
    with pytest.raises((CheckpointError, MissingExtraError)):
        VllmBackbone.from_pretrained(file)


def test_pretraining_starts_from_it_and_writes_an_ordinary_folder(file, tmp_path):
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(file), "device": "cpu", "max_length": 512, "layer": 2},
        "data": {
            "rated": [{"catalog": "quickstart", "limit": 450}],
            "preferences": [{"catalog": "quickstart", "limit": 30}],
            "held_out": {"fraction": 0.3},
        },
        "pretraining": {"max_steps": 1, "batch_size": 2},
    }
    recipe = Recipe.validated(content)
    pretrain_stage(recipe, tmp_path)
    config = json.loads((tmp_path / "pretrained" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert "quantization_config" not in config
    assert load_backbone(recipe, tmp_path).layer is None
