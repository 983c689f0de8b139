"""Influence against refits, the uncertainty of a run, and the report on its debiasing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from typer.testing import CliRunner

from armorm import FeatureStore, Recipe, RewardModel, train
from armorm.cli import app
from armorm.errors import ArmormError
from armorm.quickstart import generate_corpus
from armorm.training import fit_gate_stage, fit_head_stage, head_influence, label_suspects
from armorm.training.head_stage import load_head
from tests.tiny import TEMPLATES, save_tiny_backbone

ROWS = generate_corpus(0).rated[:500]
OBJECTIVE = "helpdesk-courtesy"
ASKED = ("How do I keep my keys?", "I am happy to help you with this. Hang a hook.")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    save_tiny_backbone(folder / "backbone", TEMPLATES["chatml"], positions=512)
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    content = {
        "objectives": "quickstart",
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"path": str(folder / "rated.jsonl")}],
            "preferences": [{"catalog": "quickstart", "limit": 120}],
            "held_out": {"fraction": 0.2},
        },
        "head": {"alphas": [10.0]},
        "debiasing": {"objective": "helpdesk-verbosity", "measured_by": "tokens"},
        "gate": {"hidden_dim": 8, "n_hidden": 1, "steps": 10, "batch_size": 32},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe.load(recipe), folder)
    return folder


def test_influence_is_what_leaving_the_row_out_of_the_run_changes(run):
    report = head_influence(run, *ASKED, objective=OBJECTIVE, top=5)
    store = FeatureStore.open(run / "features" / "rated")
    x = np.concatenate([shard.double().numpy() for shard in store.response_features()])
    ratings, held_out = store.ratings()
    column = store.objectives.column(OBJECTIVE)
    rows = np.flatnonzero(~held_out & ~np.isnan(ratings[:, column]))
    y = 4 * ratings[:, column]  # in the raters' units, 0 to 4
    lines = store.responses().to_pylist()
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    encoded = model.backbone.encoder.encode([{"role": "user", "content": ASKED[0]}], [ASKED[1]])
    asked = model.backbone.features([encoded]).responses.double().numpy()

    def predict(rows: np.ndarray) -> float:
        return Ridge(alpha=10.0, fit_intercept=False).fit(x[rows], y[rows]).predict(asked)[0]

    whole = predict(rows)
    effects = {lines[row]["id"]: whole - predict(rows[rows != row]) for row in rows}
    assert report.prediction == pytest.approx(whole, rel=1e-5)
    assert report.rows_searched == len(rows)
    assert report.rows_elsewhere == 0
    strongest = sorted(effects, key=lambda row: -abs(effects[row]))[:5]
    assert [row.id for row in report.rows] == strongest
    known = {row["id"]: row for row in ROWS}
    for row in report.rows:
        assert row.effect == pytest.approx(effects[row.id], rel=1e-4)
        assert row.rating == known[row.id]["ratings"][OBJECTIVE]
        assert row.source == "helpdesk"
        assert row.response == known[row.id]["messages"][-1]["content"]
        assert list(row.prompt) == known[row.id]["messages"][:-1]


def test_suspects_are_the_rows_that_all_others_contradict_most(run):
    found = label_suspects(run, top=3)
    assert set(found) == {row for rows in ROWS for row in rows["ratings"]}
    store = FeatureStore.open(run / "features" / "rated")
    x = np.concatenate([shard.double().numpy() for shard in store.response_features()])
    ratings, held_out = store.ratings()
    column = store.objectives.column(OBJECTIVE)
    rows = np.flatnonzero(~held_out & ~np.isnan(ratings[:, column]))
    y, lines = 4 * ratings[:, column], store.responses().to_pylist()
    left = {}
    for row in rows:
        rest = rows[rows != row]
        fit = Ridge(alpha=10.0, fit_intercept=False).fit(x[rest], y[rest])
        left[lines[row]["id"]] = y[row] - fit.predict(x[[row]])[0]
    assert [one.id for one in found[OBJECTIVE]] == sorted(left, key=lambda i: -abs(left[i]))[:3]
    for one in found[OBJECTIVE]:
        assert one.rating - (one.predicted - one.effect) == pytest.approx(left[one.id], rel=1e-3)
        assert one.response is not None


def test_influence_without_an_objective_asks_about_the_one_that_counts(run):
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    roles = ("user", "assistant")
    messages = [{"role": r, "content": c} for r, c in zip(roles, ASKED, strict=True)]
    shares = model.explain(messages).objectives
    most = max(shares, key=lambda share: abs(share.contribution)).objective
    words = ["head", "influence", str(run), "--prompt", ASKED[0], "--response", ASKED[1]]
    result = CliRunner().invoke(app, [*words, "-k", "3", "--json", "--no-text"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["objective"] == most
    assert len(report["rows"]) == 3
    assert all(row["response"] is None for row in report["rows"])
    table = CliRunner().invoke(app, [*words, "--objective", OBJECTIVE, "-k", "2"])
    assert table.exit_code == 0, table.output
    assert "effect" in table.output


def test_rows_that_were_added_or_removed_are_seen_or_not(run, recipe, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    strongest = head_influence(copy, *ASKED, objective=OBJECTIVE, top=1, with_text=False).rows[0]
    file = tmp_path / "some.jsonl"
    file.write_text(json.dumps(next(row for row in ROWS if row["id"] == strongest.id)) + "\n")
    for change, there in (("remove", False), ("add", True)):
        result = CliRunner().invoke(app, ["head", change, str(copy), str(file), "--json"])
        assert result.exit_code == 0, result.output
        found = head_influence(copy, *ASKED, objective=OBJECTIVE, top=50, with_text=False)
        assert (strongest.id in [row.id for row in found.rows]) is there
        assert found.rows_elsewhere == 0
    shutil.rmtree(copy / "model")
    with pytest.raises(ArmormError, match="Name one with --objective"):
        head_influence(copy, *ASKED)


def test_texts_that_are_gone_leave_the_rows_their_ids(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    content = yaml.safe_load((copy / "recipe.yaml").read_text())
    content["data"]["rated"][0]["path"] = str(tmp_path / "moved.jsonl")
    (copy / "recipe.yaml").write_text(yaml.safe_dump(content))
    rows = head_influence(copy, *ASKED, objective=OBJECTIVE, top=2).rows
    assert all(row.id and row.response is None for row in rows)


def test_the_run_measures_its_intervals_on_held_out_rows(run):
    report = json.loads((run / "head" / "head.json").read_text())["uncertainty"]
    assert report["unavailable"] is None
    store = FeatureStore.open(run / "features" / "rated")
    x = np.concatenate([shard.float().numpy() for shard in store.response_features()])
    ratings, held_out = store.ratings()
    assert report["held_out_rows"] == held_out.sum()
    head, _ = load_head(run / "head")
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")
    uncertainty = model.uncertainty.head
    z = (ratings - x @ head.weight.T)[held_out] / uncertainty.deviations(x[held_out])
    for column, name in enumerate(store.objectives.names):
        rated = z[~np.isnan(z[:, column]), column]
        expected = np.mean(np.abs(rated) <= 1.6448536)
        assert report["coverage"][name]["0.9"] == pytest.approx(expected, abs=1e-9)
    expected = np.quantile(uncertainty.novelty(x[held_out]), 0.99)
    assert report["usual_novelty"] == pytest.approx(expected, rel=1e-4)


def test_uncertainty_can_be_left_out_and_too_few_rows_do_not_stop_a_run(recipe, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    silent = Recipe.load(recipe, ["head.uncertainty=false"])
    fit_head_stage(silent, copy)
    fit_gate_stage(silent, copy)
    assert not (copy / "model" / "uncertainty" / "head.safetensors").exists()
    fit_head_stage(Recipe.load(recipe, ["head.alphas=[0.0]"]), copy)
    reason = json.loads((copy / "head" / "head.json").read_text())["uncertainty"]["unavailable"]
    assert reason is None or "degrees of freedom" in reason or "singular" in reason


def test_the_debiasing_report_is_true_on_the_reference_and_on_held_out_rows(run):
    metrics = json.loads((run / "metrics.json").read_text())
    report = metrics["debiasing"]
    assert (report["objective"], report["measured_by"]) == ("helpdesk-verbosity", "tokens")
    store = FeatureStore.open(run / "features" / "preferences")
    x = np.concatenate([shard.double().numpy() for shard in store.response_features()])
    head, _ = load_head(run / "head")
    lines = store.responses()
    rewards = x @ head.weight.T
    penalties = json.loads((run / "model" / "armorm.json").read_text())["debiasing"]["penalties"]
    verbosity = list(penalties).index("helpdesk-verbosity")
    oracles = {"spearman": spearmanr, "pearson": pearsonr}
    assert {(one["measured_by"], one["correlation"]) for one in report["found"]} == {
        (measure, kind) for measure in ("objective", "tokens", "characters") for kind in oracles
    }
    for one in report["found"]:
        held_out = lines["held_out"].to_numpy()
        chosen = held_out if one["rows"] == "held_out" else ~held_out
        assert one["responses"] == chosen.sum()
        values = (
            rewards[:, verbosity]
            if one["measured_by"] == "objective"
            else lines[one["measured_by"]]
        )
        for column, (name, penalty) in enumerate(penalties.items()):
            oracle = oracles[one["correlation"]]
            before = oracle(rewards[chosen, column], np.asarray(values)[chosen]).statistic
            assert one["before"][name] == pytest.approx(before, abs=2e-3)
            if column != verbosity:
                debiased = rewards[chosen, column] - penalty * rewards[chosen, verbosity]
                after = oracle(debiased, np.asarray(values)[chosen]).statistic
                assert one["after"][name] == pytest.approx(after, abs=2e-3)
