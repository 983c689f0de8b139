"""The feature store: what goes in comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from armorm import (
    Backbone,
    FeatureStore,
    PreferencePair,
    extract_features,
)
from armorm.errors import InputError, NonFiniteError, StoreError
from armorm.features.shards import plan_shards
from tests.features.rows import OBJECTIVES, hashes, make_pairs, make_rated
from tests.tiny import TEMPLATES, save_tiny_backbone


def test_features_and_ratings_come_back_in_the_same_order(tiny_backbone, tmp_path):
    rows = make_rated()
    store = extract_features(
        rows, tiny_backbone, tmp_path / "s", objectives=OBJECTIVES, shard_responses=7
    )
    assert store.manifest.shards > 3
    features = torch.cat(list(store.response_features()))
    ratings, held_out = store.ratings()
    prompts = store.prompt_features()
    index = store.index.to_pylist()
    assert len(features) == len(ratings) == len(rows) == store.manifest.responses
    assert len(prompts) == len({row.prompt[0]["content"] for row in rows})
    offsets = np.cumsum([0, *(len(shard) for shard in store.response_features())])
    prompts_of = [
        1 + max(line["prompt"] for line in index if line["shard"] == shard)
        for shard in range(store.manifest.shards)
    ]
    prompt_offsets = np.cumsum([0, *prompts_of])
    for line in index:
        row = rows[line["row"]]
        number = offsets[line["shard"]] + line["response"]
        encoded = tiny_backbone.encoder.encode(row.prompt, [row.response])
        expected = tiny_backbone.features([encoded])
        torch.testing.assert_close(features[number], expected.responses[0], atol=1e-5, rtol=0)
        prompt = prompts[prompt_offsets[line["shard"]] + line["prompt"]]
        torch.testing.assert_close(prompt, expected.prompts[0], atol=1e-5, rtol=0)
        np.testing.assert_array_equal(ratings[number], OBJECTIVES.to_rewards(row.ratings))
        assert held_out[number] == row.held_out
        assert line["id"] == row.id
        assert line["characters"] == len(row.response)


def test_pairs_know_their_responses_and_share_their_prompt(tiny_backbone, tmp_path):
    rows = make_pairs()
    store = extract_features(rows, tiny_backbone, tmp_path / "s", shard_responses=8)
    pairs = store.pairs()
    features = torch.cat(list(store.response_features()))
    assert len(store.prompt_features()) == 7
    for i, row in enumerate(rows):
        expected = tiny_backbone.features([tiny_backbone.encoder.encode(row.prompt, row.responses)])
        found = features[[pairs.chosen[i], pairs.rejected[i]]]
        torch.testing.assert_close(found, expected.responses, atol=1e-5, rtol=0)
        prompt = store.prompt_features()[pairs.prompt[i]]
        torch.testing.assert_close(prompt, expected.prompts[0], atol=1e-5, rtol=0)
        assert pairs.held_out[i] == row.held_out
        assert pairs.chosen_length[i] == len(row.chosen)


def test_every_row_falls_into_one_shard_and_every_prompt_too():
    rows = make_rated(50)
    plan = plan_shards(rows, 10)
    assert sorted(i for shard in plan for i in shard.rows.tolist()) == list(range(len(rows)))
    assert all(shard.responses == len(shard.rows) >= 10 for shard in plan[:-1])
    shards_of: dict[str, set[int]] = {}
    for number, shard in enumerate(plan):
        for i in shard.rows:
            shards_of.setdefault(rows[i].prompt[0]["content"], set()).add(number)
    assert all(len(shards) == 1 for shards in shards_of.values())


def test_the_files_can_be_read_without_this_package(tiny_backbone, tmp_path):
    extract_features(make_rated(), tiny_backbone, tmp_path / "s", objectives=OBJECTIVES)
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [
        "features-00000-of-00001.safetensors",
        "index.parquet",
        "manifest.json",
    ]
    tensors = load_file(tmp_path / "s" / "features-00000-of-00001.safetensors")
    index = pq.read_table(tmp_path / "s" / "index.parquet").to_pandas()
    assert tensors["responses"].shape == (len(index), 32)
    assert set(index["rating:tone"]) <= {0.0, 1.0, 2.0, 3.0, 4.0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_features_are_stored_in_the_dtype_asked_for(tiny_backbone, tmp_path, dtype):
    store = extract_features(make_pairs(4), tiny_backbone, tmp_path / "s", dtype=dtype)
    assert store.prompt_features().dtype == getattr(torch, dtype)


def test_too_long_rows_are_counted_and_stay_in_the_index(tiny_folder, tmp_path):
    rows = make_pairs(6)
    long = PreferencePair(rows[0].prompt, " ".join(["one"] * 60), "two", "long", "test")
    backbone = Backbone.from_pretrained(
        tiny_folder, dtype="float32", device="cpu", max_length=50, overlong="skip"
    )
    store = extract_features([*rows, long], backbone, tmp_path / "s")
    assert store.manifest.skipped_rows == 1
    assert len(store.pairs().chosen) == 6
    skipped = [line for line in store.index.to_pylist() if line["response"] is None]
    assert [line["id"] for line in skipped] == ["long", "long"]


def test_a_store_made_with_other_settings_is_refused_by_name(tiny_backbone, tiny_folder, tmp_path):
    folder = tmp_path / "s"
    extract_features(make_pairs(), tiny_backbone, folder)
    with pytest.raises(StoreError, match="feature_dtype: 'float32' in the store, 'bfloat16' now"):
        extract_features(make_pairs(), tiny_backbone, folder, dtype="bfloat16")
    with pytest.raises(StoreError, match="data_sha256"):
        extract_features(make_pairs(seed=2), tiny_backbone, folder)
    other = Backbone.from_pretrained(tiny_folder, dtype="bfloat16", device="cpu")
    with pytest.raises(StoreError, match=r"backbone\.dtype: 'float32' in the store"):
        extract_features(make_pairs(), other, folder)


def test_a_store_of_another_format_is_refused_by_name(tiny_backbone, tmp_path):
    extract_features(make_pairs(), tiny_backbone, tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    old = {**json.loads(manifest.read_text()), "format_version": 1, "no_longer": "known"}
    manifest.write_text(json.dumps(old))
    with pytest.raises(StoreError, match=r"has format 1, and this version of armorm .* reads 3"):
        FeatureStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    "content", ["", "[1]", "null", "{", '{"kind": "rated"}', "\ud800", "[" * 100_000]
)
def test_a_damaged_manifest_is_named_with_a_remedy(tiny_backbone, tmp_path, content):
    rows = make_pairs()
    extract_features(rows, tiny_backbone, tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    for use in (
        lambda: FeatureStore.open(tmp_path / "s"),
        lambda: extract_features(rows, tiny_backbone, tmp_path / "s"),
    ):
        with pytest.raises(StoreError, match=r"manifest\.json is not a .*Delete .* again\."):
            use()


def test_a_manifest_without_the_hashes_of_its_shards_is_refused(tiny_backbone, tmp_path):
    extract_features(make_pairs(), tiny_backbone, tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "shard_sha256": []}))
    with pytest.raises(StoreError, match="0 hashes of shards"):
        FeatureStore.open(tmp_path / "s")


class Overflowing:
    """A backbone whose states overflow in float16 after some words."""

    def __init__(self, backbone: Backbone, dtype: str) -> None:
        self.backbone, self.dtype = backbone, dtype
        self.identity = {**backbone.identity, "dtype": dtype}
        self.encoder, self.folder = backbone.encoder, backbone.folder
        self.hidden_size, self.vocabulary_size = 32, backbone.vocabulary_size
        self.layer = None
        self.quantized = False

    def close(self) -> None: ...

    def prefix_features(self, prompt, first, closing):
        raise NotImplementedError

    def features(self, prompts, advance=None, read_also=None):
        features = self.backbone.features(prompts, advance, read_also)
        if self.dtype != "float16":
            return features
        lyon, knowledge = self.backbone.tokenizer.convert_tokens_to_ids(["Lyon", "Knowledge"])
        sequences = [(ids[prompt.boundary :]) for prompt in prompts for ids in prompt.sequences]
        bad_responses = torch.tensor([lyon in ids for ids in sequences])
        bad_prompts = torch.tensor([knowledge in prompt.prompt_ids for prompt in prompts])
        at_end, at_boundary = features.responses.clone(), features.prompts.clone()
        at_end[bad_responses, 5] = torch.inf
        at_boundary[bad_prompts] = torch.nan
        return replace(features, responses=at_end, prompts=at_boundary)


@pytest.mark.parametrize("where", ["response", "prompt"])
def test_a_state_that_is_not_finite_is_named_and_another_dtype_then_works(
    tiny_backbone, tmp_path, where
):
    rows = [replace(row, chosen="a b", rejected="no") for row in make_pairs(20)]
    prompt = ({"role": "user", "content": "Knowledge ?"},)
    rows[17] = replace(
        rows[17], **{"rejected": "Lyon"} if where == "response" else {"prompt": prompt}
    )
    folder, options = tmp_path / "s", {"shard_responses": 4}
    for _ in range(2):  # the same command again finds the same row
        with pytest.raises(NonFiniteError, match=rf"test, row 18: id = 'p17'.*{where}.*bfloat16"):
            extract_features(rows, Overflowing(tiny_backbone, "float16"), folder, **options)
    assert list(folder.glob("features-*"))  # earlier shards stay for the same settings
    other = Overflowing(tiny_backbone, "bfloat16")
    store = extract_features(rows, other, folder, **options)
    assert torch.cat(list(store.response_features())).isfinite().all()
    whole = extract_features(rows, other, tmp_path / "whole", **options)
    assert hashes(store.path) == hashes(whole.path)


def test_features_too_large_for_the_stores_dtype_are_named(tiny_backbone, tmp_path, monkeypatch):
    original = tiny_backbone.features

    def large(prompts, advance=None):
        features = original(prompts, advance)
        return replace(features, responses=features.responses * 1e6)

    monkeypatch.setattr(tiny_backbone, "features", large)
    with pytest.raises(NonFiniteError, match=r"too large for the number format.*features\.dtype"):
        extract_features(make_pairs(), tiny_backbone, tmp_path / "s", dtype="float16")
    extract_features(make_pairs(), tiny_backbone, tmp_path / "s", dtype="bfloat16")


def test_rows_that_the_template_refuses_stop_or_are_counted(tmp_path):
    save_tiny_backbone(tmp_path / "gemma", TEMPLATES["gemma"])
    backbone = Backbone.from_pretrained(tmp_path / "gemma", device="cpu", max_length=60)
    rows = make_pairs(6)
    system = ({"role": "system", "content": "ok"}, *rows[2].prompt)
    rows[2] = replace(rows[2], prompt=system)
    rows[4] = replace(rows[4], chosen="one " * 80)
    with pytest.raises(InputError, match=r"test: messages of the row 'p2'.*template"):
        extract_features(rows, backbone, tmp_path / "s")
    store = extract_features(rows, backbone, tmp_path / "s", invalid="skip")
    assert (store.manifest.skipped_rows, store.manifest.refused_rows) == (2, 1)
    skipped = {line["id"]: line["skipped"] for line in store.index.to_pylist() if line["skipped"]}
    assert skipped["p4"] == "too long"
    assert "template" in skipped["p2"]
    assert len(store.pairs().chosen) == 4
