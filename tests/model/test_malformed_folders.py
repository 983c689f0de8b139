"""Model folders that are damaged or made to harm are refused by name, before anything is built."""

from __future__ import annotations

import json
import shutil
import stat
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from armorm import Backbone, RewardModel
from armorm.errors import ArmormError, CheckpointError, OutputError
from tests.tiny_models import conversation, make_heads

HUGE = 10**7


@pytest.fixture(scope="module")
def saved(tiny_backbone: Backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "m"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "m")
    return tmp_path / "m"


def load(folder: Path, **options) -> RewardModel:
    return RewardModel.from_pretrained(folder, device="cpu", **{"dtype": "float32", **options})


def edit_json(folder: Path, name: str, **changes) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **changes}))


def edit_tensors(folder: Path, **changes) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def config(**changes):
    return lambda folder: edit_json(folder, "config.json", **changes)


def metadata(**changes):
    return lambda folder: edit_json(folder, "armorm.json", **changes)


def tensors(**changes):
    return lambda folder: edit_tensors(folder, **changes)


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def linked(name: str):
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("nowhere")

    return change


def rating(**changes):
    def change(folder: Path) -> None:
        content = json.loads((folder / "armorm.json").read_text())
        content["objectives"][0] |= changes
        (folder / "armorm.json").write_text(json.dumps(content))

    return change


def word_above_the_embeddings(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["Paris"] = 99_999
    (folder / "tokenizer.json").write_text(json.dumps(content))


def header(size: int):
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(struct.pack("<Q", size) + file.read_bytes()[8:])

    return change


def index(name: str, tensor: str = "model.norm.weight"):
    return text("model.safetensors.index.json", json.dumps({"weight_map": {tensor: name}}))


MALFORMED = {
    "num_objectives text": config(num_objectives="3"),
    "num_objectives true": config(num_objectives=True),
    "num_objectives negative": config(num_objectives=-3),
    "num_objectives huge": config(num_objectives=HUGE),
    "num_objectives missing": config(num_objectives=None),
    "n_hidden huge": config(gating_n_hidden=HUGE),
    "n_hidden negative": config(gating_n_hidden=-1),
    "n_hidden list": config(gating_n_hidden=[2]),
    "hidden_dim huge": config(gating_hidden_dim=10**12),
    "hidden_dim zero": config(gating_hidden_dim=0),
    "hidden_dim fraction": config(gating_hidden_dim=16.5),
    "temperature zero": config(gating_temperature=0),
    "temperature text": config(gating_temperature="hot"),
    "temperature not a number": config(gating_temperature=float("nan")),
    "hidden_size text": config(hidden_size="32"),
    "hidden_size negative": config(hidden_size=-32),
    "hidden_size huge": config(hidden_size=10**12),
    "vocab_size huge": config(vocab_size=10**12),
    "layers huge": config(num_hidden_layers=10**9),
    "layers zero": config(num_hidden_layers=0),
    "heads zero": config(num_attention_heads=0),
    "heads text": config(num_attention_heads="four"),
    "key heads negative": config(num_key_value_heads=-2),
    "positions text": config(max_position_embeddings="many"),
    "activation unknown": config(hidden_act="nothing"),
    "activation number": config(hidden_act=3),
    "rope list": config(rope_parameters=[1]),
    "backbone unknown": config(backbone_model_type="nothing"),
    "backbone list": config(backbone_model_type=["llama"]),
    "quantization text": config(quantization_config="yes"),
    "config list": text("config.json", "[]"),
    "config broken": text("config.json", "{"),
    "config deep": text("config.json", "[" * 100_000),
    "config link": linked("config.json"),
    "metadata list": text("armorm.json", "[]"),
    "metadata link": linked("armorm.json"),
    "metadata version": metadata(format_version=99),
    "metadata beta": metadata(beta=-5),
    "metadata beta text": metadata(beta="NaN"),
    "metadata objectives": metadata(objectives="tone"),
    "metadata unknown key": metadata(extra=1),
    "objective renamed": rating(name="other"),
    "objective scale": rating(unit_zero=4.5, unit_one=4.5),
    "weight 0-d": tensors(regression_layer__weight=torch.tensor(1.0)),
    "weight 1-d": tensors(regression_layer__weight=torch.zeros(3)),
    "weight 3-d": tensors(regression_layer__weight=torch.zeros(3, 32, 1)),
    "weight empty": tensors(regression_layer__weight=torch.zeros(3, 0)),
    "weight integers": tensors(regression_layer__weight=torch.zeros(3, 32, dtype=torch.int64)),
    "transform 1-d": tensors(reward_transform_matrix=torch.zeros(3)),
    "scale 0-d": tensors(gating__logit_scale=torch.tensor(1.0)),
    "scale infinite": tensors(gating__logit_scale=torch.tensor([float("inf")])),
    "layer missing shape": tensors(gating__layers__0__bias=torch.zeros(2)),
    "backbone shape": tensors(model__norm__weight=torch.zeros(7)),
    "file truncated": lambda f: (f / "model.safetensors").write_bytes(b"12"),
    "file empty": text("model.safetensors", ""),
    "header huge": header(2**62),
    "header short": header(2),
    "file link": linked("model.safetensors"),
    "index outside": index("../other.safetensors"),
    "index absolute": index("/etc/passwd"),
    "index number": index(3),  # type: ignore[arg-type]
    "index wrong file": index("model.safetensors", "nothing"),
    "index list": text("model.safetensors.index.json", "[]"),
    "index broken": text("model.safetensors.index.json", "{"),
    "same tensor twice": lambda f: shutil.copy(
        f / "model.safetensors", f / "model-00002-of-00002.safetensors"
    ),
    "tokenizer broken": text("tokenizer.json", "{"),
    "tokenizer list": text("tokenizer.json", "[]"),
    "tokenizer link": linked("tokenizer.json"),
    "tokenizer config list": text("tokenizer_config.json", "[]"),
    "word above the embeddings": word_above_the_embeddings,
    "template syntax": text("chat_template.jinja", "{% for %}"),
    "template division": text("chat_template.jinja", "{{ 1 / 0 }}"),
    "template endless macro": text(
        "chat_template.jinja", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"
    ),
    "template nested": text("chat_template.jinja", "{% if 1 %}" * 2000 + "{% endif %}" * 2000),
    "template constant": text("chat_template.jinja", "hello"),
    "template link": linked("chat_template.jinja"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("verify", [True, False], ids=["", "unverified"])
def test_a_malformed_folder_is_refused(folder, change, verify):
    change(folder)
    with pytest.raises(ArmormError) as caught:
        load(folder, verify=verify)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_saved_model_loads_in_every_number_format(folder, dtype):
    assert load(folder, dtype=dtype).backbone.dtype == dtype


def test_the_models_of_the_quickstart_kind_load_in_low_precision(tmp_path):
    """A gate that enlarges rounding a hundredfold does not make the self-check fail."""
    backbone = Backbone.from_pretrained("builtin", device="cpu", dtype="float32")
    heads = make_heads(backbone.hidden_size)
    for layer in heads.gate.layers:
        layer.weight.mul_(6)
    model = RewardModel(backbone, heads)
    model.save_pretrained(tmp_path / "m")
    exact = model.score([conversation("Paris is the capital of France.")]).score
    for dtype in ("bfloat16", "float16"):
        loaded = load(tmp_path / "m", dtype=dtype)
        rough = loaded.score([conversation("Paris is the capital of France.")]).score
        assert rough.isfinite().all()
        assert not torch.equal(rough, exact)


def flip(tensors):
    name = "model.layers.0.mlp.up_proj.weight"
    return {name: -tensors[name]}


def swap(tensors):
    first, second = (f"model.layers.{i}.mlp.up_proj.weight" for i in range(2))
    return {first: tensors[second], second: tensors[first]}


def scale_a_little(tensors):
    return {"model.norm.weight": tensors["model.norm.weight"] * 1.001}


@pytest.mark.parametrize("change", [flip, swap, scale_a_little])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_weights_are_caught_in_every_number_format(folder, change, dtype):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | change(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="--no-verify"):
        load(folder, dtype=dtype)
    load(folder, dtype=dtype, verify=False)


def test_a_quantization_config_does_not_switch_the_self_check_off(folder):
    edit_json(folder, "config.json", quantization_config={"quant_method": "nothing"})
    load(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | flip(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="self-check"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        rating(unit_zero=4.5, unit_one=-0.5),
        rating(minimum=1),
        metadata(beta=3.0),
        tensors(reward_transform_matrix=torch.eye(3)),
    ],
)
def test_changed_scales_beta_or_heads_are_caught(folder, change):
    change(folder)
    with pytest.raises(CheckpointError, match="self-check"):
        load(folder, dtype="bfloat16")


def test_a_folder_with_other_files_is_never_replaced(saved, tiny_backbone, tmp_path):
    model = RewardModel(tiny_backbone, make_heads())
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"someone else's")
    with pytest.raises(OutputError, match="holds files"):
        model.save_pretrained(other)
    assert (other / "model.safetensors").read_bytes() == b"someone else's"
    shutil.copytree(saved, tmp_path / "mine")
    model.save_pretrained(tmp_path / "mine")  # an older model of this package
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="holds files"):
        model.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_a_save_that_fails_keeps_the_old_model(folder, tiny_backbone, monkeypatch):
    from armorm.model import saving

    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_save_tokenizer", full)
    with pytest.raises(OutputError, match="No space left"):
        RewardModel(tiny_backbone, make_heads(seed=1)).save_pretrained(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()} == before
    load(folder)


def test_all_files_of_a_folder_can_be_read_by_the_same_accounts(saved):
    modes = {stat.S_IMODE(file.stat().st_mode) for file in saved.rglob("*") if file.is_file()}
    assert len(modes) == 1


def test_a_gate_without_hidden_layers_saves_and_loads(tiny_backbone, tmp_path):
    from dataclasses import replace

    from armorm.heads import GatingNetwork

    gate = GatingNetwork(32, 3, 16, 0).eval().requires_grad_(False)
    model = RewardModel(tiny_backbone, replace(make_heads(), gate=gate))
    model.save_pretrained(tmp_path / "m")
    text = [conversation("Paris")]
    torch.testing.assert_close(load(tmp_path / "m").score(text).score, model.score(text).score)
