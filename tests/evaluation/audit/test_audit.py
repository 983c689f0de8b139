"""Audits of a whole model, and the command."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from armorm import PreferencePair, RewardModel
from armorm.evaluation.audit import AuditOptions, audit, in_words, write_audit
from armorm.evaluation.audit.erasure import probe_surface
from armorm.evaluation.audit.labels import compare_with_labels
from armorm.evaluation.audit.objectives import map_objectives
from armorm.evaluation.audit.planted import PlantedScorer, noise, planted
from armorm.evaluation.audit.probes import Probed, probes_of
from armorm.evaluation.audit.running import FIGURES
from armorm.evaluation.scorers import LengthScorer, RewardModelScorer
from tests.commands import armorm, invoke, write
from tests.tiny_models import make_heads

WORDS = ("Paris", "Lyon", "please", "thanks", "one", "two", "three", "four")


def pairs(n: int = 60) -> list[PreferencePair]:
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 9)))

    return [
        PreferencePair(
            ({"role": "user", "content": f"{draw.choice(WORDS)} {i} ?"},),
            f"{text()} {i}",
            f"{text()} <u>{i}",
            id=f"p{i}",
            subset=("left", "right")[i % 2],
        )
        for i in range(n)
    ]


@pytest.fixture
def scorer(tiny_backbone):
    return RewardModelScorer(RewardModel(tiny_backbone, make_heads()), "tiny")


def test_a_whole_model_is_audited_and_the_page_escapes_text(scorer, tmp_path):
    options = AuditOptions(changed_rows=4, probed_rows=40, changes=("praise", "rot13"))
    report = audit(scorer, pairs(), tmp_path, options)
    write_audit(tmp_path, report)
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["pairs"] == 60
    assert result["figures"]["accuracy"]["n"] == 60
    assert set(result["counterfactuals"]["changes"]) == {"praise", "rot13"}
    praise = report.counterfactuals.changes["praise"]
    assert sum(praise.through_rewards.values()) == pytest.approx(praise.shift.value, abs=1e-5)
    rot13 = report.counterfactuals.changes["rot13"]
    through = sum(rot13.through_rewards.values()) + sum(rot13.through_gate.values())
    assert through == pytest.approx(rot13.shift.value, abs=1e-5)
    assert set(report.erasure.choices) >= {"no debiasing", "as it is"}
    assert report.erasure.choices["as it is"].accuracy == report_accuracy(report, scorer)
    assert {name.partition("(")[0] for name in report.figures} <= set(FIGURES)
    assert set(report.objectives.groups) == {"all", "left", "right"}
    page = (tmp_path / "report.html").read_text()
    assert "&lt;u&gt;" in page
    assert "<u>" not in page
    assert not re.search(r'(src|href)="(http|//)', page)
    assert any(one.kind == "note" for one in in_words(report))
    again = audit(scorer, pairs(), tmp_path, options)
    assert again.figures == report.figures


def report_accuracy(report, scorer):
    from armorm.evaluation.audit.running import _order
    from armorm.evaluation.audit.statistics import share

    rows = pairs()
    chosen = [rows[place] for place in _order(rows, 0)[:40]]
    return share([one.scores[0] > one.scores[1] for one in scorer.score(chosen)])


def test_the_page_is_drawn(scorer, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium")
    options = AuditOptions(changed_rows=3, probed_rows=0, changes=("praise",))
    write_audit(tmp_path, audit(scorer, pairs(30), tmp_path, options))
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         (tmp_path / "report.html").as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.count('<circle class="dot"') > 5
    assert "NaN" not in done.stdout


def test_what_a_probe_reads_is_erased():
    draw = np.random.default_rng(0)
    n = 400
    length = np.exp(draw.normal(4, 0.5, n)).astype(int) + 1
    signal = draw.normal(size=n)
    features = np.stack([np.log1p(length), signal, *draw.normal(size=(6, n))], axis=1)
    weight = np.zeros((2, 8))
    weight[0, :2], weight[1, 0] = [0.5, 1.0], 1.0
    transform = np.array([[1.0, 0.0], [-0.5, 0.0]])
    rewards = features @ weight.T
    scorer = PlantedScorer({"a": len, "b": len}, {"": {"a": 1.0}})
    rows = [
        PreferencePair(({"role": "user", "content": str(i)},), "x" * a, "y" * b)
        for i, (a, b) in enumerate(length.reshape(-1, 2))
    ]
    probes = probes_of(rows, [], [])
    scores = Probed.of(rows, probes, scorer.score(probes), scorer.objectives).scores
    gating = np.tile([1.0, 0.0], (n, 1))
    coefficients = gating @ transform.T
    from dataclasses import replace

    scores = replace(
        scores,
        rewards=rewards,
        gating=gating,
        coefficients=coefficients,
        score=(coefficients * rewards).sum(axis=1),
    )
    found = probe_surface(scores, features, weight, transform, np.repeat(np.arange(n // 2), 2))
    row = found.readable["length"]
    assert row["features"].value > 0.99
    assert row["rewards"].value > 0.99
    assert row["debiased rewards"].value < 0.05
    assert abs(found.choices["as it is"].length.value) < 0.1
    if not found.unavailable:
        assert found.choices["LEACE"].probe.value < 0.05
    # An oracle: ridge of scikit-learn with the penalty so small that it is least squares.
    linear = pytest.importorskip("sklearn.linear_model")
    from armorm.evaluation.audit.erasure import _ridge

    z = (features @ draw.normal(size=8))[:, None]
    expected = linear.LinearRegression().fit(features[:300], z[:300]).predict(features[300:])
    assert _ridge(features[:300], z[:300], features[300:]) == pytest.approx(expected, abs=1e-3)


def test_effective_objectives_and_deciding_shares():
    scorer = PlantedScorer(
        {"a": noise("a"), "copy": noise("a"), "b": noise("b")}, {"": {"a": 2.0, "b": 1.0}}
    )
    rows = pairs(400)
    probes = probes_of(rows, [], [])
    scores = Probed.of(rows, probes, scorer.score(probes), scorer.objectives).scores
    groups = [row.subset for row in rows]
    found = map_objectives(scores, groups, np.arange(400))
    # Eigenvalues of the correlations are about 2, 1 and 0.
    assert found.effective["predicted"].value == pytest.approx(9 / 5, abs=0.05)
    assert found.effective["predicted"].low < 9 / 5 < found.effective["predicted"].high
    assert found.effective["deciding"].value == pytest.approx(25 / 17, abs=0.1)
    assert found.groups["all"].deciding["a"] == pytest.approx(2 / 3, abs=0.03)
    assert found.correlations["a"]["copy"] == pytest.approx(1.0)
    labels = compare_with_labels(scores, rows, groups, np.arange(400), beta=1.0)
    assert labels.disagreements[0].margin == min(scores.margins) / scores.margins.std()
    assert labels.calibration_error.low <= labels.calibration_error.value


def test_the_command(tmp_path: Path):
    rows = [
        {"prompt": row.prompt[0]["content"], "chosen": row.chosen, "rejected": row.rejected}
        for row in pairs(40)
    ]
    file, folder = write(tmp_path / "pairs.jsonl", rows), tmp_path / "audit"
    rules = ["--fail-on", "length_correlation>0.2", "--fail-on", "flip_rate(filler)<0.1"]
    done = armorm("audit", "length", file, "-o", folder, "--change", "filler", "-q", *rules)
    assert done.returncode == 4, done.stderr
    assert "This reward pays for length: Spearman 1.00" in done.stdout
    assert "length_correlation>0.2: 1.000 (1.000–1.000): BROKEN (fails)" in done.stdout
    assert "flip_rate(filler)<0.1: 1.000" in done.stdout
    result = json.loads((folder / "audit.json").read_text())
    assert [one["verdict"] for one in result["rules"]] == ["broken", "kept"]
    assert result["objectives"] is None
    with pytest.raises(AssertionError, match="there is no figure 'lists'"):
        invoke("audit", "length", file, "-o", folder, "-q", "--fail-on", "lists>1")


def test_planted_rewards_are_the_same_everywhere():
    assert noise("a")("text") == noise("a")("text") != noise("b")("text")
    assert noise("a", words=True)("One two") == noise("a", words=True)("- two **one** one")
    draws = torch.tensor([noise("a")(str(i)) for i in range(2000)])
    assert abs(float(draws.mean())) < 0.1
    assert float(draws.std()) == pytest.approx(1.0, abs=0.1)
    assert planted("length")("") == 0.0


def no_nan(name: str) -> None:
    raise AssertionError(name)


@pytest.mark.parametrize("rows", [1, 2, 3, 30])
@pytest.mark.filterwarnings("error")
def test_poor_data_give_no_nan(tmp_path, rows):
    """Few pairs, an objective that varies in one response, code in one pair."""
    some = pairs(rows)
    some[0] = PreferencePair(
        some[0].prompt, "```python\nx = 1  # one\n```", "```python\ny = 2  # two\n```", id="p0"
    )
    rewards = {"rare": lambda text: float("x = 1" in text), "same": len, "a": noise("a")}
    scorer = PlantedScorer(rewards, {"": {"rare": 0.0, "same": 0.0, "a": float(rows != 2)}})
    options = AuditOptions(changes=("filler", "minified_code", "comments"))
    write_audit(tmp_path, audit(scorer, some, tmp_path, options))
    json.loads((tmp_path / "audit.json").read_text(), parse_constant=no_nan)
    assert not re.search(r"\bnan\b|NaN", (tmp_path / "report.html").read_text())


def test_a_change_without_flips_stands_last(tmp_path):
    some = pairs(6)
    code = "```python\nx = 1  # one\n```"
    some[0] = PreferencePair(some[0].prompt, code, code.replace("one", "two"))
    options = AuditOptions(changes=("comments", "filler", "minified_code"))
    report = audit(LengthScorer(), some, tmp_path, options)
    assert report.counterfactuals.changes["minified_code"].flip_rate.value is None
    write_audit(tmp_path, report)
    page = (tmp_path / "report.html").read_text()
    assert page.index("#change-filler") < page.index("#change-minified_code")


def test_rules_are_checked_against_the_data_before_scoring(tmp_path, monkeypatch):
    rows = [{"prompt": str(i), "chosen": f"a {i}", "rejected": "b"} for i in range(5)]
    file = write(tmp_path / "pairs.jsonl", rows)
    arguments = ("audit", "length", file, "-o", tmp_path / "out", "-q")
    # What can be named but is not determined by the data is no error.
    rules = ("--fail-on", "effective_objectives(debiased)<3")
    rules += ("--fail-on", "flip_rate(minified_code)>0.1")
    said = invoke(*arguments, "--change", "minified_code", *rules)
    assert said.count("the data do not determine it") == 2
    monkeypatch.setattr("armorm.evaluation.audit.running.score_probes", None)
    for wrong in ("flip_rate(x)>0.1", "flip_rate(markdown)>0.1", "accuracy(nowhere)<1"):
        with pytest.raises(AssertionError, match="there is no figure"):
            invoke(*arguments, "--change", "filler", "--fail-on", wrong)
