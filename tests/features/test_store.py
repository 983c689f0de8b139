"""The feature store: what goes in comes out."""

from __future__ import annotations

import json

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
from armorm.errors import StoreError
from armorm.features.extraction import plan_shards
from tests.features.rows import OBJECTIVES, make_pairs, make_rated


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
    with pytest.raises(StoreError, match=r"has format 1, and this version of armorm .* reads 2"):
        FeatureStore.open(tmp_path / "s")
