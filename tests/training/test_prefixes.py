"""Heads that are fitted on beginnings of responses too."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from armorm import Backbone, Recipe, RidgeStatistics, extract_features, fit_reward_head, train
from armorm.conversations import EncodedPrompt
from armorm.data import DataSource
from armorm.errors import ArmormError, StoreError
from armorm.features import PrefixCuts
from armorm.heads import HeadOptions
from armorm.training.head_stage import fit_head_stage
from armorm.training.head_updates import update_head
from armorm.training.influence import head_influence
from tests.features.rows import OPTIONS, make_rated
from tests.tiny import TEMPLATES, save_tiny_backbone

CUTS = PrefixCuts(3, seed=5)
ROWS = make_rated(8)


@pytest.fixture(scope="module")
def store(tiny_backbone: Backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefixes")
    return extract_features(ROWS, tiny_backbone, folder, prefixes=CUTS, **OPTIONS)


def cut_states(backbone: Backbone, rows):
    """The states at the cut points, each of a prefix of ids that is computed by itself."""
    states, owners = [], []
    for number, row in enumerate(rows):
        encoded = backbone.encoder.encode(row.prompt, row.responses)
        ids = encoded.sequences[0]
        for place in CUTS.positions(ids, backbone.encoder.response_start(encoded.boundary)):
            prefix = EncodedPrompt((ids[: place + 1],), encoded.boundary)
            states.append(backbone.features([prefix]).responses[0])
            owners.append(number)
    return torch.stack(states), np.array(owners)


def test_cut_points_are_in_the_response_and_the_same_every_time():
    ids = list(range(50))
    first = CUTS.positions(ids, 20)
    assert first == CUTS.positions(ids, 20) == sorted(set(first))
    assert all(20 <= place < 49 for place in first)
    assert PrefixCuts(3, seed=6).positions(ids, 20) != first
    assert PrefixCuts(64).positions(ids, 20) == list(range(20, 49))
    assert CUTS.positions(ids, 49) == []


def test_the_store_holds_the_states_of_beginnings(store, tiny_backbone):
    expected, owners = cut_states(tiny_backbone, ROWS)
    found, start = [], 0
    order = store.responses()["row"].to_pylist()
    for states, counts in store.prefix_features():
        parts = torch.split(states, counts.tolist())
        for i, part in enumerate(parts):
            mine = expected[owners == order[start + i]]
            torch.testing.assert_close(part, mine, rtol=1e-3, atol=1e-4)
        found.append(states)
        start += len(counts)
    assert start == len(ROWS)
    assert sum(map(len, found)) == len(expected) > len(ROWS)


def test_a_response_counts_as_one_row_with_all_its_beginnings(store, tiny_backbone):
    statistics = RidgeStatistics.of(store, folds=3)
    ratings, held_out = store.ratings()
    whole = torch.cat(list(store.response_features())).double().numpy()
    parts = list(store.prefix_features())
    beginnings = torch.cat([states for states, _ in parts]).double().numpy()
    counts = np.concatenate([count for _, count in parts])
    owner = np.repeat(np.arange(len(counts)), counts)
    for column in range(ratings.shape[1]):
        mask = ~held_out & ~np.isnan(ratings[:, column])
        assert statistics.rows_rating(column) == mask.sum()
        shares = np.concatenate([1 / (1 + counts), (1 / (1 + counts))[owner]])
        x, y = np.concatenate([whole, beginnings]), ratings[:, column]
        y, keep = np.concatenate([y, y[owner]]), np.concatenate([mask, mask[owner]])
        x, y, shares = x[keep], y[keep], shares[keep]
        assert shares.sum() == pytest.approx(mask.sum())
        head = fit_reward_head(statistics, HeadOptions(alphas=(1.0,)))
        normal = (x * shares[:, None]).T @ x + np.eye(x.shape[1])
        expected = np.linalg.solve(normal, (x * shares[:, None]).T @ y)
        np.testing.assert_allclose(head.weight[column], expected, rtol=1e-3, atol=1e-5)


def test_other_cut_points_do_not_go_into_the_same_store(store, tiny_backbone):
    again = extract_features(ROWS, tiny_backbone, store.path, prefixes=CUTS, **OPTIONS)
    assert again.manifest == store.manifest
    for other in (None, PrefixCuts(3, seed=6), PrefixCuts(2, seed=5)):
        with pytest.raises(StoreError, match="prefix"):
            extract_features(ROWS, tiny_backbone, store.path, prefixes=other, **OPTIONS)


def test_a_lost_shard_comes_back_the_same(tiny_backbone, tmp_path):
    options = {"prefixes": CUTS, **OPTIONS}
    store = extract_features(ROWS, tiny_backbone, tmp_path, **options)
    shard = sorted(tmp_path.glob("features-*"))[1]
    content = shard.read_bytes()
    shard.unlink()
    extract_features(ROWS, tiny_backbone, tmp_path, **options)
    assert shard.read_bytes() == content
    assert store.manifest.prefixes == 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"catalog": "quickstart", "limit": 150}],
            "preferences": [{"catalog": "quickstart", "limit": 120}],
            "held_out": {"fraction": 0.2},
        },
        "head": {"alphas": [10.0], "prefixes": True, "prefix_cuts": 2},
        "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 10, "batch_size": 32},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return Recipe.load(folder / "recipe.yaml")


def test_a_run_with_prefixes_learns_forgets_and_refuses_other_settings(recipe, tmp_path):
    train(recipe, tmp_path / "run")
    before = load_file(tmp_path / "run/head/head.safetensors")["regression_layer.weight"]
    rows = [
        {
            "messages": [{"role": "user", "content": f"what is {i} ?"},
                         {"role": "assistant", "content": f"it is {i} , you know ."}],
            "ratings": {"helpdesk-courtesy": 3.0},
        }
        for i in range(5)
    ]  # fmt: skip
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = [DataSource(path=str(tmp_path / "more.jsonl"))]
    added = update_head(tmp_path / "run", source, "add").head
    assert np.abs(added.weight - before).max() > 1e-6
    removed = update_head(tmp_path / "run", source, "remove").head
    np.testing.assert_allclose(removed.weight, before, rtol=1e-6, atol=1e-9)
    plain = recipe.model_copy(update={"head": recipe.head.model_copy(update={"prefixes": False})})
    with pytest.raises(StoreError, match=r"head\.prefixes"):
        fit_head_stage(plain, tmp_path / "run")
    with pytest.raises(ArmormError, match=r"head\.prefixes"):
        head_influence(tmp_path / "run", "what is 1 ?", "it is 1 .")


def test_prefixes_need_ridge_on_features(recipe):
    with pytest.raises(ValueError, match="ridge only"):
        Recipe(**{**recipe.model_dump(), "head": {"prefixes": True, "method": "finetune"}})
