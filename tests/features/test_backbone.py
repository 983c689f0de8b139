"""Hidden states in batches equal hidden states one at a time."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Model

from armorm import Backbone, RewardModel
from armorm.errors import CheckpointError
from tests.features.families import make_model
from tests.tiny import TEMPLATES, tiny_tokenizer
from tests.tiny_models import make_heads

PROMPTS = [
    [{"role": "user", "content": "what is the capital of France ?"}],
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "the answer is short"},
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four five six"},
        {"role": "user", "content": "seven ?"},
    ],
]
RESPONSES = [["Paris", "Lyon , very long answer one two three four"], ["ok"], ["no", "yes", "a b"]]


def _encode(backbone: Backbone):
    pairs = zip(PROMPTS, RESPONSES, strict=True)
    return [backbone.encoder.encode(prompt, responses) for prompt, responses in pairs]


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_states_equal_one_sequence_at_a_time(tiny_folder, batch_tokens):
    backbone = Backbone.from_pretrained(
        tiny_folder, dtype="float32", device="cpu", batch_tokens=batch_tokens
    )
    encoded = _encode(backbone)
    features = backbone.features(encoded)
    at_end, at_boundary = [], []
    with torch.no_grad():
        for prompt in encoded:
            for ids in prompt.sequences:
                states = backbone.model(torch.tensor([ids])).last_hidden_state[0]
                at_end.append(states[-1])
            at_boundary.append(states[prompt.boundary])
    scale = torch.stack(at_end).abs().max()
    torch.testing.assert_close(features.responses, torch.stack(at_end), rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(
        features.prompts, torch.stack(at_boundary), rtol=0, atol=1e-5 * scale
    )


def test_a_model_in_pieces_gives_the_states_of_the_whole(tiny_folder, tiny_backbone, tmp_path):
    """Layers on other devices, or on a disk, as accelerate's hooks fetch them."""
    layers = range(tiny_backbone.model.config.num_hidden_layers)
    pieces = Backbone.from_pretrained(
        tiny_folder,
        dtype="float32",
        device_map={
            "embed_tokens": "cpu",
            "rotary_emb": "cpu",
            "norm": "cpu",
            **{f"layers.{i}": "disk" if i else "cpu" for i in layers},
        },
        offload_folder=str(tmp_path),
    )
    assert pieces.runner.sharing_obstacle is None
    assert any(weight.is_meta for weight in pieces.model.parameters())
    expected = tiny_backbone.features(_encode(tiny_backbone))
    found = pieces.features(_encode(pieces))
    torch.testing.assert_close(found.responses, expected.responses, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.prompts, expected.prompts, rtol=0, atol=1e-5)


def test_identity_changes_with_weights_and_template(tiny_folder, tiny_backbone, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    tensors = load_file(other / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"] * 1.001
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    changed = Backbone.from_pretrained(other, dtype="float32", device="cpu")
    assert changed.identity["weights_sha256"] != tiny_backbone.identity["weights_sha256"]
    assert changed.identity["template_sha256"] == tiny_backbone.identity["template_sha256"]


@pytest.mark.parametrize("damage", ["missing", "unexpected"])
def test_incomplete_weights_are_never_made_up(tiny_folder, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    if damage == "missing":
        del tensors["layers.1.mlp.up_proj.weight"]
    else:
        tensors["layers.0.mlp.extra.weight"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.[01]\.mlp\.(up_proj|extra)"):
        Backbone.from_pretrained(folder, device="cpu")


def test_a_pickle_is_never_loaded(tiny_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Backbone.from_pretrained(folder, device="cpu")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no/such/folder"):
        Backbone.from_pretrained(tmp_path / "no/such/folder")


def test_capped_attention_is_never_run_without_its_cap(tmp_path):
    """SDPA knows no cap, and some versions of transformers run it all the same."""
    shape = {"vocab_size": TEMPLATES["chatml"].size, "head_dim": 8, "initializer_range": 1.0}
    make_model("gemma2", {**shape, "attn_logit_softcapping": 0.5}).save_pretrained(tmp_path)
    tiny_tokenizer(TEMPLATES["chatml"]).save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(tmp_path, dtype="float32", device="cpu")
    assert backbone.model.config._attn_implementation == "eager"
    encoded = _encode(backbone)
    with pytest.warns(UserWarning, match="not plain causal"):
        found = backbone.features(encoded).responses
    oracle = Gemma2Model.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        expected = [
            oracle(torch.tensor([ids])).last_hidden_state[0, -1]
            for prompt in encoded
            for ids in prompt.sequences
        ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-4)


WITHOUT_HASHING = """
import sys
from armorm import RewardModel
from armorm.features import backbone

def refuse(files):
    raise AssertionError("weights were hashed")

backbone.sha256_of_files = refuse
model = RewardModel.from_pretrained(sys.argv[1], device="cpu")
conversation = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "ok"}]
model.explain(conversation)
model.compare("hello", "ok", "no")
model.save_pretrained(sys.argv[2])
"""


def test_weights_are_hashed_only_for_what_needs_their_identity(tiny_backbone, tmp_path):
    RewardModel(tiny_backbone, make_heads()).save_pretrained(tmp_path / "model")
    # In a process of its own: the type checks of these tests look at every property.
    command = [sys.executable, "-c", WITHOUT_HASHING, str(tmp_path / "model"), str(tmp_path / "b")]
    subprocess.run(command, check=True)
