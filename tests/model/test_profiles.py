"""Profiles: read and refused with names, saved with a model, and named in what they shaped."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from armorm import Backbone, RewardModel, SteeringProfile
from armorm.errors import CheckpointError, RecipeError
from armorm.evaluation.scoring import score_file
from armorm.integrations import annotate_file, best_of_file
from armorm.model.saved_heads import SavedHeads
from tests.tiny_models import OBJECTIVES, PROMPT, conversation, make_heads, make_rated_model

TEXTS = ["Paris", "Lyon", "ok", "a very long answer please"]


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture
def profile(model) -> SteeringProfile:
    rewards = model.score_responses(PROMPT, TEXTS).rewards[:, 1]
    return SteeringProfile(
        name="cautious",
        steering={"factors": {"tone": 0.5}},
        floors={"safe": float(rewards.median()) + 1e-6},
    )


def test_a_profile_is_the_same_from_its_file(profile, tmp_path):
    file = tmp_path / "cautious.yaml"
    profile.write(file)
    assert SteeringProfile.read(file) == profile
    other_words = profile.model_copy(update={"name": "b", "description": "In other words."})
    assert other_words.hash == profile.hash
    assert SteeringProfile(name="c", steering={"factors": {"tone": 0.6}}).hash != profile.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steering: {mixture: 2}", "steering = .*mixture = 2"),
        ("stering: {}", "stering: unknown key. Did you mean 'steering'"),
        ("steering: {factor: {a: 1}}", "Did you mean 'factors'"),
        ("name: a/b", "name = 'a/b'"),
        ("risk: -1", "risk = -1"),
        ("risk: true", "risk = True"),
        ("floors: {a: .nan}", "floors.a = nan"),
        ("[1]", "no settings by name"),
        ("a: b: c", "not YAML"),
    ],
)
def test_a_bad_file_names_file_key_and_value(text, message, tmp_path):
    file = tmp_path / "mild.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=rf"mild.yaml: (?s:.*){message}"):
        SteeringProfile.read(file)


def test_unknown_objectives_name_their_neighbours(model):
    for settings in ({"steering": {"factors": {"tune": 1}}}, {"floors": {"tune": 1}}):
        with pytest.raises(RecipeError, match=r"profile a: .*'tone'"):
            model.steer(profile=SteeringProfile(name="a", **settings))
    with pytest.raises(RecipeError, match="cannot say how sure"):
        model.steer(profile=SteeringProfile(name="a", risk=1))
    with pytest.raises(RecipeError, match="Did you mean 'cautious'"):
        model.with_profiles(SteeringProfile(name="cautious")).steer(profile="cautius")
    with pytest.raises(RecipeError, match="not two"):
        model.steer({"tone": 1}, profile=SteeringProfile(name="a"))


def test_floors_come_before_scores_and_scores_before_nothing_else(model, profile):
    steered = model.steer(profile=profile)
    plain = model.steer(profile.steering)
    best, rewards = steered.best_of(PROMPT, TEXTS)
    expected, scored = plain.best_of(PROMPT, TEXTS, floors=profile.floors)
    assert best == expected
    assert rewards.score.tolist() == scored.score.tolist()
    order = rewards.ranking()
    assert rewards.ranking({"safe": -9.0}) == scored.ranking()  # given ones take their place
    a, b = TEXTS[order[-1]], TEXTS[order[0]]
    found = steered.compare(PROMPT, a, b)
    assert (found.preferred, found.below_floors) == ("b", ("a",))


def test_a_saved_model_keeps_its_profiles_and_the_one_it_is_under(model, profile, tmp_path):
    mild = SteeringProfile(name="mild", steering={"factors": {"tone": 0.9}})
    under = model.with_profiles(mild, profile).steer(profile="cautious")
    under.save_pretrained(tmp_path / "model")
    loaded = RewardModel.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.profiles == {"mild": mild, "cautious": profile}
    assert loaded.profile == profile
    assert loaded.best_of(PROMPT, TEXTS)[0] == under.best_of(PROMPT, TEXTS)[0]
    assert loaded.steer().profile is None
    assert loaded.fingerprint() != loaded.steer(profile.steering).fingerprint()
    loaded.save_pretrained(tmp_path / "model")  # replaces its own folder, profiles included
    saved = SavedHeads.in_folder(tmp_path / "model")
    assert saved.profiles == loaded.profiles
    assert saved.objectives.names == OBJECTIVES.names
    assert (saved.transform == model.heads.transform.numpy()).all()
    with pytest.raises(RecipeError, match="another name"):
        saved.save(SteeringProfile(name="cautious"))
    SteeringProfile(name="cautious").write(tmp_path / "model" / "profiles" / "cautious.yaml")
    with pytest.raises(CheckpointError, match="saved under the profile"):
        RewardModel.from_pretrained(tmp_path / "model", device="cpu")


def test_a_damaged_saved_profile_is_named_when_the_model_loads(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "bad.yaml").write_text("steering: {factors: {tune: 1}}")
    with pytest.raises(CheckpointError, match=r"profile bad: .*'tone'"):
        RewardModel.from_pretrained(tmp_path, device="cpu")


def test_every_row_names_the_profile(model, profile, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    steered = model.steer(profile=profile)
    source.write_text(json.dumps({"messages": conversation("Paris")}) + "\n")
    score_file(steered, source, output)
    [row] = map(json.loads, output.open())
    assert row["profile"] == profile.reference
    assert row["steering"] == profile.steering.as_dict()
    assert isinstance(row["meets_floors"], bool)

    source.write_text(json.dumps({"prompt": PROMPT, "responses": TEXTS}) + "\n")
    annotate_file(steered, source, tmp_path / "annotated.jsonl")
    best_of_file(steered, source, tmp_path / "best.jsonl", keep=4)
    [annotated] = map(json.loads, (tmp_path / "annotated.jsonl").open())
    [best] = map(json.loads, (tmp_path / "best.jsonl").open())
    assert annotated["profile"] == best["profile"] == profile.reference
    rewards = steered.score_responses(PROMPT, TEXTS)
    assert annotated["meets_floors"] == rewards.meets().tolist()
    assert best["floors"] == profile.floors
    assert [one["position"] for one in best["ranked"]] == rewards.ranking()
    for answer in (
        steered.explain(conversation("Paris")).as_dict(),
        steered.compare(PROMPT, "Paris", "Lyon").as_dict(),
    ):
        assert answer["profile"] == profile.reference


def test_a_profile_with_a_risk_ranks_by_it(tiny_backbone):
    rated, *_ = make_rated_model(tiny_backbone)
    steered = rated.steer(profile=SteeringProfile(name="wary", risk=2))
    found = steered.score_responses(PROMPT, TEXTS)
    expected = rated.score_responses(PROMPT, TEXTS, risk=2)
    assert found.pessimistic.tolist() == expected.pessimistic.tolist()
    assert found.ranking() == expected.ranking()
    assert "pessimistic" in found.as_dicts()[0]


def test_profiles_import_no_torch():
    code = (
        "import sys; from armorm import Risk, Steering, SteeringProfile;"
        "from armorm.model.saved_heads import SavedHeads;"
        "SteeringProfile(name='a', steering=Steering({'tone': 2}), risk=Risk(1.0));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
