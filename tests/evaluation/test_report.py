"""The page needs nothing from outside, and no text becomes HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from armorm import RewardModel
from armorm.evaluation.report import example_comparison, write_run_report
from tests.tiny_models import make_heads

METRICS = {
    "accuracy": {"gate": 0.9, "fixed_weights": 0.7, "best_single_objective": 0.6, "length": 0.5},
    "accuracy_shorter_won": {
        "gate": 0.9,
        "fixed_weights": 0.7,
        "best_single_objective": 0.5,
        "length": 0.0,
    },
    "accuracy_by_subset": {
        "<script>alert(1)</script>": {
            "gate": 1.0,
            "fixed_weights": 1.0,
            "best_single_objective": None,
            "length": 0.0,
            "n": 3,
        }
    },
    "pairs": {"held_out": 3, "shorter_won": 1},
    "best_single_objective": "tone",
    "verbosity_spearman": {"before": 0.5, "after": 0.01},
    "coefficients": {"<b>facts</b>": {"tone": 0.6, "safe": 0.3, "verbosity": -0.1}},
    "coefficients_by_source": {
        "<b>one</b>": {"tone": 0.6, "safe": 0.3, "verbosity": -0.1},
        "costs $5 or \\frac{$": {"tone": 0.5, "safe": 0.5, "verbosity": 0.0},
    },
    "gate": {"entropy": 0.1, "prompt_dependence": 0.0, "collapsed": True},
    "gate_by_subset": {
        "<b>facts</b>": {"entropy": 0.1, "prompt_dependence": 0.0, "collapsed": True}
    },
    "gate_curve": [
        {"step": 1, "loss": 0.7, "beta": 9.0, "validation_loss": 0.8, "validation_accuracy": 0.5},
        {"step": 2, "loss": 0.6, "beta": 8.0, "validation_loss": 0.7, "validation_accuracy": 0.6},
    ],
    "gate_seeds": {"accuracies": [0.9, 0.8], "mean": 0.85, "standard_deviation": 0.0707},
    "beta": 8.0,
    "calibration": {"error": 0.123, "bins": [{"confidence": 0.6, "accuracy": 0.4, "n": 3}]},
    "debiasing": {
        "objective": "verbosity",
        "correlation": "spearman",
        "confounder": "tokens",
        "found": [
            {
                "rows": rows,
                "responses": 3,
                "confounder": confounder,
                "correlation": kind,
                "before": {"tone": 0.5, "safe": -0.25, "verbosity": 0.9},
                "after": {"tone": after, "safe": -0.25, "verbosity": 0.0},
            }
            for rows, after in (("reference", 0.0), ("held_out", 0.375))
            for confounder in ("objective", "tokens")
            for kind in ("spearman", "pearson")
        ],
    },
    "head": {
        "alphas": [0.1, 1.0],
        "selection_errors": [[0.2, 0.1], [0.1, 0.3]],
        "uncertainty": {
            "unavailable": None,
            "held_out_rows": 2,
            "usual_novelty": 2.5,
            "coverage": {
                "tone": {"0.5": 0.4, "0.8": 0.75, "0.9": 0.925, "0.95": 0.975},
                "<u>safe": dict.fromkeys(["0.5", "0.8", "0.9", "0.95"]),
            },
        },
    },
    "objectives": {
        "tone": {"r2": 0.5, "spearman": 0.7, "rows": 10, "held_out_rows": 2, "alpha": 1.0},
        "safe": {"r2": None, "spearman": None, "rows": 10, "held_out_rows": 0, "alpha": 1.0},
    },
    "seconds": {"features": 1.0, "total": 1.0},
    "data": {
        kind: {"read": 5, "kept": 4, "too_long": 0, "skipped": {"empty <i>message": 1}}
        for kind in ("rated", "preferences")
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    texts = [("a b c", "ok"), ("<img src=x onerror=alert(2)>", "a very long answer " * 3)]
    lines = [
        json.dumps({"prompt": "<h1>hello</h1>", "chosen": chosen, "rejected": rejected})
        for chosen, rejected in texts
    ]
    (tmp_path / "held_out_pairs.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_no_text_becomes_html(tiny_backbone, run):
    example = example_comparison(RewardModel(tiny_backbone, make_heads()), run)
    assert example is not None
    assert example[0]["chosen"].startswith("<img")  # the first whose shorter response won
    file = write_run_report(run, METRICS, example)
    assert file is not None
    page = file.read_text()
    for tag in ("<script", "<img", "<h1>hello", "<b>facts", "<b>one", "<i>message", "<u>safe"):
        assert tag not in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page


def test_the_page_needs_nothing_from_outside(run):
    file = write_run_report(run, METRICS, None)
    assert file is not None
    page = file.read_text()
    loaded = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)([^"')\s>]+)""", page)
    assert [link for link in loaded if not link.startswith("data:image/png;base64,")] == []
    assert page.count("<svg") == 8  # a dollar in a name stops none of them


def test_the_page_says_what_was_measured(run):
    file = write_run_report(run, METRICS, None)
    assert file is not None
    page = file.read_text()
    assert "The gate has collapsed" in page
    for figure in ("0.123", "92.5%", "90.0%, 80.0%", "7.1%"):
        assert figure in page
    row = r"held out</td><td>3</td><td>tokens</td><td>spearman</td><td>0\.500</td><td>0\.375"
    assert re.search(row, page)


def test_a_run_with_less_to_show_still_has_its_page(run):
    less = {
        "gate_curve": [],
        "gate_seeds": None,
        "calibration": None,
        "debiasing": {**METRICS["debiasing"], "objective": None, "confounder": "objective"},
        "head": {
            "alphas": [1.0],
            "selection_errors": [],
            "uncertainty": {"unavailable": "too <few> rows"},
        },
    }
    file = write_run_report(run, {**METRICS, **less}, None)
    assert file is not None
    page = file.read_text()
    assert "too &lt;few&gt; rows" in page
    assert page.count("<svg") == 4
