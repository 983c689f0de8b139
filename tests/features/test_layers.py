"""A model cut after a layer has the state of that layer as its last hidden state."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, LlamaModel

from armorm import Backbone, RewardModel
from armorm.conversations import RatedResponse
from armorm.errors import ArmormError, NonFiniteError, RecipeError, StoreError
from armorm.features import extract_features
from armorm.features.layer_extraction import extract_layers, view_of_layer
from armorm.features.layers import cut_config
from armorm.features.options import BackboneOptions, StoreOptions
from armorm.features.store_writing import StoreWriter
from armorm.features.vllm_backbone import refuse_options_of_transformers
from tests.features.families import make_model
from tests.tiny import TEMPLATES, tiny_tokenizer
from tests.tiny_models import PROMPT, conversation, make_heads

FAMILIES = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "smollm3"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A random Llama of five layers, as a folder."""
    folder = tmp_path_factory.mktemp("deep")
    shape = {"num_hidden_layers": 5, "vocab_size": TEMPLATES["chatml"].size}
    make_model("llama", shape).save_pretrained(folder)
    tiny_tokenizer(TEMPLATES["chatml"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cut(deep):
    return Backbone.from_pretrained(deep, dtype="float32", device="cpu", layer=3)


def encode(backbone):
    return [backbone.encoder.encode(PROMPT, ["Paris", "Lyon , very long answer", "no"])]


def state_after(model, layer, ids):
    """The state after a layer and the final norm, by transformers' own list of states."""
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        return model.norm(states[layer][0])


def test_features_are_the_states_after_the_layer_and_the_final_norm(deep, cut):
    whole = LlamaModel.from_pretrained(deep)
    encoded = encode(cut)
    found = cut.features(encoded)
    for ids, state in zip(encoded[0].sequences, found.responses, strict=True):
        expected = state_after(whole, 3, ids)
        torch.testing.assert_close(state, expected[-1], rtol=0, atol=1e-5)
        torch.testing.assert_close(
            found.prompts[0], expected[encoded[0].boundary], rtol=0, atol=1e-5
        )


def test_the_later_layers_are_never_allocated(cut):
    assert len(cut.model.layers) == cut.model.config.num_hidden_layers == 3
    assert cut.layer == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_cut_with_their_lists_of_layers(family, tmp_path):
    shape = {"num_hidden_layers": 5, "vocab_size": TEMPLATES["chatml"].size, "head_dim": 8}
    make_model(family, shape).save_pretrained(tmp_path)
    tiny_tokenizer(TEMPLATES["chatml"]).save_pretrained(tmp_path)
    cut = Backbone.from_pretrained(tmp_path, dtype="float32", device="cpu", layer=2)
    config = cut.model.config
    assert config.num_hidden_layers == 2
    assert len(getattr(config, "layer_types", None) or [0, 0]) == 2
    cut.save_pretrained(tmp_path / "saved")
    again = Backbone.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    assert again.layer is None
    ids = torch.tensor([encode(cut)[0].sequences[0]])
    with torch.no_grad():
        left, right = cut.model(ids).last_hidden_state, again.model(ids).last_hidden_state
    assert torch.equal(left, right)


@pytest.mark.parametrize("layer", [6, 100])
def test_a_layer_that_is_not_there_is_refused_with_the_range(deep, layer):
    with pytest.raises(RecipeError, match=r"has 5 layers.*from 1 to 5"):
        Backbone.from_pretrained(deep, device="cpu", layer=layer)


def test_the_last_layer_is_the_whole_model(deep):
    whole = Backbone.from_pretrained(deep, dtype="float32", device="cpu")
    last = Backbone.from_pretrained(deep, dtype="float32", device="cpu", layer=5)
    assert last.layer is None
    assert last.identity == whole.identity


def test_models_with_other_parts_are_refused():
    with pytest.raises(RecipeError, match="an encoder and a decoder"):
        cut_config(AutoConfig.for_model("t5", num_layers=4), 2, "t5")
    with pytest.raises(RecipeError, match="several kinds of input"):
        cut_config(AutoConfig.for_model("llava"), 2, "llava")
    with pytest.raises(RecipeError, match="share keys and values"):
        cut_config(AutoConfig.for_model("gemma3n_text"), 2, "gemma3n")


def test_a_store_of_another_layer_is_refused_by_name(deep, cut, tmp_path):
    rows = [RatedResponse(tuple(PROMPT), text, {}) for text in ("Paris", "Lyon")]
    extract_features(rows, cut, tmp_path / "store")
    other = Backbone.from_pretrained(deep, dtype="float32", device="cpu", layer=4)
    with pytest.raises(StoreError, match=r"backbone\.layer: 3 in the store, 4 now"):
        extract_features(rows, other, tmp_path / "store")


def test_a_saved_reward_model_holds_the_cut_weights_alone(cut, tmp_path):
    model = RewardModel(cut, make_heads())
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "layers.3." in name]  # noqa: SIM118
    expected = model.score([conversation("Paris")]).score
    again = RewardModel.from_pretrained(tmp_path / "model", dtype="float32", device="cpu")
    torch.testing.assert_close(again.score([conversation("Paris")]).score, expected)
    again.save_pretrained(tmp_path / "exported")
    plain = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "exported", trust_remote_code=True
    )
    ids = cut.encoder.encode(PROMPT, ["Paris"]).sequences[0]
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([ids])).score, expected)


def test_another_layer_of_a_reward_model_is_refused(cut, tmp_path):
    RewardModel(cut, make_heads()).save_pretrained(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"backbone\.layer of the recipe"):
        RewardModel.from_pretrained(tmp_path / "model", device="cpu", layer=2)


def test_layers_change_the_fingerprint(deep, cut):
    other = Backbone.from_pretrained(deep, dtype="float32", device="cpu", layer=2)
    prints = {RewardModel(one, make_heads()).fingerprint() for one in (cut, other)}
    assert len(prints) == 2


def test_vllm_is_given_a_saved_smaller_model(cut, tmp_path):
    with pytest.raises(ArmormError, match="save_pretrained"):
        refuse_options_of_transformers(BackboneOptions(engine="vllm", layer=3))
    cut.save_pretrained(tmp_path / "small")
    assert AutoModel.from_pretrained(tmp_path / "small").config.num_hidden_layers == 3


@pytest.fixture
def rows():
    """Rows whose prompts repeat, so that they are packed, in several shards."""
    texts = ["Paris", "Lyon , very long answer one two", "no", "yes please thanks"]
    prompts = [(PROMPT[0],), ({"role": "user", "content": "hello"},)]
    return [RatedResponse(p, f"{t} {n}", {}) for n in "abc" for p in prompts for t in texts]


@pytest.mark.parametrize("share_prompts", [True, False])
def test_one_pass_gives_each_layer_the_store_of_the_cut_model(deep, rows, tmp_path, share_prompts):
    options = {"dtype": "float32", "device": "cpu", "share_prompts": share_prompts}
    stores = {layer: tmp_path / str(layer) for layer in (1, 3, 4)}
    reader = Backbone.from_pretrained(deep, layer=4, **options)
    passes = []
    reader.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    extract_layers(rows, reader, stores, StoreOptions(shard_responses=8))
    done = len(passes)
    for layer, path in stores.items():
        view = view_of_layer(reader, layer)
        found = extract_features(rows, view, path, shard_responses=8)
        cut = Backbone.from_pretrained(deep, layer=layer, **options)
        assert view.identity == cut.identity
        expected = extract_features(rows, cut, tmp_path / f"cut-{layer}", shard_responses=8)
        for ours, theirs in (
            (found.response_features(), expected.response_features()),
            ([found.prompt_features()], [expected.prompt_features()]),
        ):
            for left, right in zip(ours, theirs, strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    # The probes of two norms and of sharing, but no pass over the data.
    assert len(passes) - done <= 4


def test_an_interrupted_pass_resumes_and_a_damaged_shard_is_computed_again(
    deep, rows, tmp_path, monkeypatch
):
    stores = {layer: tmp_path / str(layer) for layer in (2, 5)}
    options = StoreOptions(shard_responses=8)
    reader = Backbone.from_pretrained(deep, dtype="float32", device="cpu")
    written = []
    write_shard = StoreWriter.write_shard

    def stop_at_fourth(writer, shard, features, index):
        written.append((writer.path.name, shard))
        if len(written) == 4:
            raise KeyboardInterrupt
        write_shard(writer, shard, features, index)

    monkeypatch.setattr(StoreWriter, "write_shard", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        extract_layers(rows, reader, stores, options)
    extract_layers(rows, reader, stores, options)
    # Layer 2 of the second shard was written before the interruption, and stays.
    assert written == [("2", 0), ("5", 0), ("2", 1), ("5", 1), ("5", 1)]
    next(stores[2].glob("features-00000*")).unlink()
    written.clear()
    store = extract_features(rows, view_of_layer(reader, 2), stores[2], options)
    assert written == [("2", 0)]
    assert store.manifest.responses == len(rows)


def test_states_that_overflow_are_refused_in_all_stores(deep, rows, tmp_path):
    reader = Backbone.from_pretrained(deep, dtype="float32", device="cpu")
    reader.model.layers[4].mlp.down_proj.weight[:] = float("inf")
    stores = {layer: tmp_path / str(layer) for layer in (2, 5)}
    with pytest.raises(NonFiniteError):
        extract_layers(rows, reader, stores)
    whole = Backbone.from_pretrained(deep, dtype="bfloat16", device="cpu")
    extract_layers(rows, whole, stores)
    assert extract_features(rows, whole, stores[5]).manifest.complete
