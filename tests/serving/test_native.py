"""The native API, against the model's own answers."""

from __future__ import annotations

import numpy as np
import pytest

from armorm import Backbone, RewardModel, Steering, SteeringProfile
from tests.serving.direct import direct_client
from tests.tiny_models import OBJECTIVES, PROMPT, conversation, make_heads

TEXTS = ["Paris", "Lyon , one two three", "ok"]


MILD = SteeringProfile(name="mild", steering=Steering({"tone": 0.5}), floors={"safe": 0.1})


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def client(model):
    return direct_client(model, profiles={"mild": MILD})


def test_conversations_and_responses_give_the_models_scores(model, client):
    expected = model.score_responses(PROMPT, TEXTS)
    include = ["rewards", "gating", "coefficients", "contributions"]
    bodies = (
        {"prompt": PROMPT[0]["content"], "responses": TEXTS, "include": include},
        {"conversations": [conversation(text) for text in TEXTS], "include": include},
    )
    for body in bodies:
        answer = client.post("/v1/score", json=body)
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [one["score"] for one in results] == pytest.approx(expected.score.tolist(), abs=1e-5)
        for part in include:
            table = [[one[part][name] for name in OBJECTIVES.names] for one in results]
            expected_table = getattr(expected, part).numpy()
            np.testing.assert_allclose(table, expected_table, rtol=1e-5, atol=1e-6)


def test_only_what_was_asked_for_is_returned(client):
    answer = client.post("/v1/score", json={"conversations": [conversation("Paris")]}).json()
    assert list(answer["results"][0]) == ["score"]
    assert answer["objectives"] == list(OBJECTIVES.names)
    assert answer["steering"] == {}


def test_a_faulty_conversation_fails_alone(client):
    faulty = [{"role": "user", "content": "hello"}]
    body = {"conversations": [conversation("Paris"), faulty, conversation("ok")]}
    first, second, third = client.post("/v1/score", json=body).json()["results"]
    assert "score" in first
    assert "score" in third
    assert second["error"]["type"] == "invalid_input"
    assert second["error"]["field"] == "messages[0].role"


def test_steering_by_knobs_and_by_profile(model, client):
    expected = model.steer({"tone": 0.5}).score([conversation("Paris")]).score.tolist()
    for steering in ({"factors": {"tone": 0.5}}, "mild"):
        body = {"conversations": [conversation("Paris")], "steering": steering}
        answer = client.post("/v1/score", json=body).json()
        assert answer["results"][0]["score"] == pytest.approx(expected[0], abs=1e-5)
        assert answer["steering"] == {"factors": {"tone": 0.5}}
        assert answer.get("profile") == (MILD.reference if steering == "mild" else None)
    answer = client.post(
        "/v1/score", json={"conversations": [conversation("Paris")], "steering": "mil"}
    )
    assert answer.status_code == 422
    assert "Did you mean 'mild'" in answer.json()["error"]["message"]


def test_compare(model, client):
    body = {"prompt": PROMPT, "a": "Paris", "b": "Lyon"}
    answer = client.post("/v1/compare", json=body).json()
    expected = model.compare(PROMPT, "Paris", "Lyon")
    assert answer["preferred"] == expected.preferred
    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert answer["comparison"]["objectives"][0]["objective"] == expected.objectives[0].objective


def test_best_of_with_a_floor(model, client):
    rewards = model.score_responses(PROMPT, TEXTS)
    floor = float(rewards.rewards[:, 1].median())
    body = {"prompt": PROMPT, "responses": TEXTS, "floors": {"safe": floor}}
    answer = client.post("/v1/best-of", json=body).json()
    assert answer["ranking"] == rewards.ranking({"safe": floor})
    assert answer["best"] == answer["ranking"][0]
    assert answer["meets_floors"] == rewards.meets({"safe": floor}).tolist()


def test_objectives_model_and_profiles(model, client):
    listed = client.get("/v1/objectives").json()["objectives"]
    assert [one["name"] for one in listed] == list(OBJECTIVES.names)
    assert client.get("/v1/model").json()["fingerprint"] == model.fingerprint()
    listed = client.get("/v1/profiles").json()["profiles"]
    assert listed == {"mild": {**MILD.as_dict(), "hash": MILD.hash}}
