"""Percentiles of scores against the pairs that were held out of the training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from armorm import RewardModel
from tests.serving.direct import direct_client


def test_a_score_is_placed_among_those_of_the_held_out_pairs(quickstart_run):
    model = RewardModel.from_pretrained(quickstart_run / "model")
    lines = (quickstart_run / "held_out_pairs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    conversations = [row[side] for row in rows for side in ("chosen", "rejected")]
    rewards = model.score(conversations)
    scores = rewards.score.numpy()
    # The share of lower scores, counted one by one, with half of the equal ones.
    expected = [100 * ((scores < one).mean() + (scores == one).mean() / 2) for one in scores]
    percentiles = model.percentiles(rewards)
    assert percentiles is not None
    assert np.abs(np.array(percentiles) - expected).max() < 1.5
    steered = model.steer({"helpdesk-courtesy": 2.0})
    of_steered = steered.score(conversations)
    places = [100 * (of_steered.score < one).double().mean() for one in of_steered.score]
    found = steered.percentiles(of_steered)
    assert found is not None
    # The reference of steered scores is a sample of the held-out pairs.
    assert np.abs(np.array(found) - np.array(places)).max() < 8
    body = {"conversations": conversations[:2], "include": ["percentile"]}
    results = direct_client(model).post("/v1/score", json=body).json()["results"]
    assert [one["percentile"] for one in results] == pytest.approx(percentiles[:2], abs=0.1)
