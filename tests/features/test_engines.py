"""The choice of an engine, and the plugin's own rules, where vLLM is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from armorm import Backbone, InputError, RewardModel, extract_features
from armorm.errors import ArmormError, CheckpointError, MissingExtraError, RecipeError
from armorm.features import BackboneOptions, FeatureBackbone, load_engine
from armorm.training import Recipe
from armorm.vllm_plugin import REWARD_SUFFIX
from armorm.vllm_plugin.boundary import admit, boundary_of, with_boundary
from armorm.vllm_plugin.scheduling import computed_blocks_before_boundary
from tests.tiny_models import make_heads

without_vllm = pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")


def test_transformers_is_the_engine_unless_another_is_named(tiny_folder):
    backbone = load_engine(tiny_folder, dtype="float32", device="cpu")
    assert isinstance(backbone, FeatureBackbone)
    assert "engine" not in backbone.identity


@without_vllm
def test_an_engine_that_is_not_installed_names_its_extra(tiny_folder):
    with pytest.raises(MissingExtraError, match=r"armorm\[vllm\]"):
        load_engine(tiny_folder, engine="vllm")


@pytest.mark.parametrize("option", [{"device": "cuda"}, {"attn_implementation": "sdpa"}])
def test_options_of_another_engine_are_refused(tiny_folder, option):
    with pytest.raises(ArmormError, match="vLLM"):
        load_engine(tiny_folder, engine="vllm", **option)


def test_engine_options_go_to_the_engine_that_was_chosen(tiny_folder):
    recipe = "recipes/quickstart.yaml"
    option = "backbone.engine_options.low_cpu_mem_usage=true"
    for engine in ("transformers", "vllm"):
        chosen = Recipe.load(recipe, [f"backbone.engine={engine}", option]).backbone
        assert chosen.engine_options == {"low_cpu_mem_usage": True}
    # Stage 2 loads the backbone of a run with vLLM in transformers, which knows no such option.
    for_vllm = BackboneOptions(engine="vllm", engine_options={"enforce_eager": True}, device="cpu")
    Backbone.from_pretrained(tiny_folder, for_vllm)
    with pytest.raises(CheckpointError, match="tensor_parallel_size"):
        load_engine(tiny_folder, tensor_parallel_size=2)


def test_options_and_their_fields_as_keywords_mean_the_same(tiny_folder):
    options = BackboneOptions(device="cpu", max_length=40, overlong="drop_oldest_turns")
    by_options = Backbone.from_pretrained(tiny_folder, options)
    by_fields = Backbone.from_pretrained(
        tiny_folder, device="cpu", max_length=40, overlong="drop_oldest_turns"
    )
    changed = Backbone.from_pretrained(tiny_folder, options, max_length=30)
    encoders = [one.encoder for one in (by_options, by_fields, changed)]
    assert [encoder.max_length for encoder in encoders] == [40, 40, 30]
    assert {encoder.overlong for encoder in encoders} == {"drop_oldest_turns"}
    with pytest.raises(RecipeError, match=r"dtype = 'int3'"):
        Backbone.from_pretrained(tiny_folder, dtype="int3")
    with pytest.raises(RecipeError, match=r"shard_response: unknown key\. .*shard_responses"):
        extract_features([], by_options, tiny_folder / "no", shard_response=3)


def test_only_transformers_can_save(tiny_backbone, tmp_path):
    class Other:
        def __getattr__(self, name: str) -> object:
            return getattr(tiny_backbone, name)

    with pytest.raises(ArmormError, match="engine='transformers'"):
        RewardModel(Other(), make_heads()).save_pretrained(tmp_path)


def test_a_requests_boundary_is_the_patterns_last_occurrence():
    config = SimpleNamespace(boundary_pattern=[5, 6, 7], bos_token_id=1)

    def admitted(ids: list[int]) -> int | None:
        params = SimpleNamespace(extra_kwargs=None)
        request = SimpleNamespace(prompt_token_ids=ids, pooling_params=params)
        admit(request, config, REWARD_SUFFIX)
        return boundary_of(params)

    assert admitted([1, 5, 6, 7, 2, 5, 6, 7, 3]) == 5
    for ids, words in (
        ([1, 5, 6, 7], "followed by a response"),
        ([1, 2, 3], "no end of a user turn"),
        ([1, 1, 5, 6, 7, 2], "two BOS tokens"),
    ):
        with pytest.raises(InputError, match=words):
            admitted(ids)


@pytest.mark.parametrize(("boundary", "seen"), [(40, 41), (0, 1), (None, 1)])
def test_the_prefix_cache_is_read_up_to_the_boundary(boundary, seen):
    params = SimpleNamespace(extra_kwargs={"else": 1})
    if boundary is not None:
        with_boundary(params, boundary)
    assert boundary_of(params) == boundary
    request = SimpleNamespace(pooling_params=params, num_tokens=100, block_hashes=["a"])
    # What vLLM reads at most: all tokens but the last.
    found = computed_blocks_before_boundary(lambda r: (r.num_tokens, r.block_hashes), request)
    assert found == (seen, ["a"])
