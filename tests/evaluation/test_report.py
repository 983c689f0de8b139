"""The page needs nothing from outside, and no text becomes HTML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from armorm import RewardModel
from armorm.evaluation.leave_out import LeaveOutReport, LeftOutSource
from armorm.evaluation.report import explained_pairs, write_run_report
from tests.run_figures import preference_metrics, run_metrics
from tests.tiny_models import make_heads


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    texts = [("a b c", "ok"), ("<img src=x onerror=alert(2)>", "a very long answer " * 3)]
    lines = [
        json.dumps({"prompt": "<h1>hello</h1>", "chosen": chosen, "rejected": rejected})
        for chosen, rejected in texts
    ]
    file = tmp_path / "held_out_pairs.jsonl"
    file.write_text("\n".join(lines))
    return file


def page_of(folder: Path, metrics, examples=()) -> str:
    file = write_run_report(folder / "report.html", "<u>run", metrics, examples)
    assert file is not None
    return file.read_text()


def test_no_text_becomes_html(tiny_backbone, pairs):
    examples = explained_pairs(RewardModel(tiny_backbone, make_heads()), pairs)
    assert [one.chosen[:4] for one in examples] == ["<img"]  # the one whose shorter response won
    page = page_of(pairs.parent, run_metrics(), examples)
    tags = ("<script", "<img", "<h1>hello", "<b>facts", "<b>one", "<i>message", "<u>safe", "<u>run")
    for tag in tags:
        assert tag not in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page


def test_a_right_and_a_wrong_decision_are_named_and_explained(tiny_backbone, tmp_path):
    texts = [("ok", "what is the capital"), ("no", "yes very long answer")]
    rows = [{"prompt": "hello", "chosen": chosen, "rejected": other} for chosen, other in texts]
    model = RewardModel(tiny_backbone, make_heads())
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    right, wrong = explained_pairs(model, file)
    assert right.right
    assert right.verdict.startswith("Right: the model and people prefer a.")
    assert not wrong.right
    assert wrong.verdict.startswith("Wrong: the model prefers b, people chose a.")
    for example in (right, wrong):
        found = {one.objective: one for one in example.comparison.objectives}
        name = re.search(r"\. (\S+) decides", example.verdict)
        assert name is not None
        sign = 1 if example.right else -1
        pushes = {key: sign * one.contribution for key, one in found.items()}
        assert name[1] == max(pushes, key=pushes.__getitem__)
    page = page_of(tmp_path, run_metrics(), (right, wrong))
    assert page.index("A right decision") < page.index("A wrong decision")


def test_a_decision_against_a_label_that_was_planted_wrong_is_no_wrong_decision(
    tiny_backbone, tmp_path
):
    row = {"id": "0", "prompt": "hello", "chosen": "ok", "rejected": "what is the capital"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row))
    (against,) = explained_pairs(RewardModel(tiny_backbone, make_heads()), file, {"0"})
    assert against.mislabelled
    assert "this label was planted wrong" in against.verdict
    page = page_of(tmp_path, run_metrics(), (against,))
    assert "A decision against a wrong label" in page
    assert "A wrong decision" not in page


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = page_of(tmp_path, run_metrics())
    loaded = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)([^"')\s>]+)""", page)
    assert [link for link in loaded if not link.startswith("data:image/png;base64,")] == []
    assert page.count("<svg") == 8  # a dollar in a name stops none of them


def test_the_page_says_what_was_measured(tmp_path):
    page = page_of(tmp_path, run_metrics())
    assert "The gate has collapsed" in page
    for figure in ("0.123", "92.5%", "90.0%, 80.0%", "7.1%", "66.7%", "20.8–93.9"):
        assert figure in page
    row = r"held out</td><td>3</td><td>tokens</td><td>spearman</td><td>0\.500</td><td>0\.375"
    assert re.search(row, page)


def test_the_page_shows_sources_and_the_prompts_that_the_gate_moves(tmp_path):
    metrics = run_metrics()
    page = page_of(tmp_path, metrics)
    assert "&lt;i&gt;mine&lt;/i&gt;" in page
    assert "&lt;em&gt;Why?&lt;/em&gt;" in page
    assert "tone (90.0%, 40.0%)" in page
    assert "Does it travel?" not in page
    found = LeftOutSource(20, 5, metrics.preferences.methods, "tone", 0.7)
    report = LeaveOutReport({"<u>theirs</u>": found, "small": replace(found, pairs=19)})
    page = page_of(tmp_path, replace(metrics, left_out=report))
    assert list(report.counted) == ["<u>theirs</u>"]
    assert "&lt;u&gt;theirs&lt;/u&gt;</td><td>20</td><td>70.0%" in page
    assert "over the 1 source" in page


def test_a_confounder_that_is_badly_predicted_is_a_warning(tmp_path):
    good = run_metrics()
    assert "hardly" not in page_of(tmp_path, good)
    for spearman, objective in ((0.31, "<b>verbosity"), (None, "<b>verbosity"), (0.1, None)):
        debiasing = replace(good.debiasing, objective=objective, held_out_spearman=spearman)
        assert debiasing.warning is None
    debiasing = replace(good.debiasing, objective="<b>verbosity", held_out_spearman=0.294)
    bad = replace(good, debiasing=debiasing)
    warning = bad.as_dict()["warnings"][-1]
    assert warning == bad.as_dict()["debiasing"]["warning"]
    assert all(part in warning for part in ("<b>verbosity", "0.29", "noise", "computed"))
    assert "hardly predicts &lt;b&gt;verbosity" in page_of(tmp_path, bad)


def test_a_run_with_less_to_show_still_has_its_page(tmp_path):
    metrics = run_metrics()
    less = replace(
        metrics,
        preferences=preference_metrics(calibration=None, planted={}),
        gate_curve=(),
        gate_seeds=None,
        debiasing=replace(metrics.debiasing, objective=None, names=(), measured_by="objective"),
        head=replace(
            metrics.head,
            selection_errors=[],
            uncertainty={"unavailable": "too <few> rows"},
        ),
    )
    page = page_of(tmp_path, less)
    assert "too &lt;few&gt; rows" in page
    assert page.count("<svg") == 4


def test_the_figures_are_json():
    assert json.loads(json.dumps(run_metrics().as_dict(), allow_nan=False))["beta"] == 8.0
