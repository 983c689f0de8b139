"""Figures of a training run, written by hand, with names that try to become HTML."""

from __future__ import annotations

import numpy as np

from armorm.evaluation.accuracy import MethodAccuracy
from armorm.evaluation.data_account import DataAccount, RowAccount
from armorm.evaluation.debiasing_report import ConfounderCorrelations, DebiasingReport
from armorm.evaluation.moved_prompts import MovedPrompt, MovedWeight
from armorm.evaluation.run_metrics import (
    METHODS,
    HeadReport,
    ObjectiveFit,
    PlantedObjective,
    PreferenceMetrics,
    RunMetrics,
    SeedSpread,
)
from armorm.heads import CurvePoint, Shrinkage
from armorm.heads.metrics import Calibration

ROWS = RowAccount(
    read=5,
    kept=4,
    too_long=0,
    refused_by_template=0,
    skipped={"empty <i>message": 1},
    prompts=4,
    sha256="0" * 64,
    extraction={"seconds": 1.0},
)
SUBSETS = ["<script>alert(1)</script>", "<script>alert(1)</script>", "other"]


def preference_metrics(**changes: object) -> PreferenceMetrics:
    """Return figures on three pairs, of which the gate gets two right."""
    margins = {name: np.array([1.0, -1.0, 1.0]) for name in METHODS}
    longer = np.array([-5, 4, 0])
    content = {
        "methods": {
            name: MethodAccuracy.of(
                margin,
                longer,
                SUBSETS,
                None if name == "gate" else margins["gate"],
                ["<i>mine</i>", "other", "other"],
            )
            for name, margin in margins.items()
        },
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
        "calibration": Calibration(0.123, [{"confidence": 0.6, "accuracy": 0.4, "n": 3}]),
        "planted": {"<b>facts</b>": PlantedObjective("tone", None)},
    }
    return PreferenceMetrics(**{**content, **changes})  # type: ignore[arg-type]


def run_metrics(**changes: object) -> RunMetrics:
    """Return figures of a whole run."""
    content = {
        "preferences": preference_metrics(),
        "head": HeadReport(
            objectives={
                "tone": ObjectiveFit(0.5, 0.7, 10, 2, 1.0),
                "safe": ObjectiveFit(None, None, 10, 0, 1.0),
                "verbosity": ObjectiveFit(0.05, 0.3, 10, 2, 1.0),
            },
            alphas=[0.1, 1.0],
            selection_errors=[[0.2, 0.1], [0.1, 0.3], [0.1, 0.2]],
            uncertainty={
                "unavailable": None,
                "missing": {},
                "held_out_rows": 2,
                "usual_novelty": 2.5,
                "coverage": {
                    "tone": {"0.5": 0.4, "0.8": 0.75, "0.9": 0.925, "0.95": 0.975},
                    "<u>safe": dict.fromkeys(["0.5", "0.8", "0.9", "0.95"]),
                },
            },
            seconds=1.0,
        ),
        "debiasing": DebiasingReport(
            objective="verbosity",
            correlation="spearman",
            measured_by="tokens",
            confounder="dropped",
            names=("verbosity",),
            found=tuple(
                ConfounderCorrelations(
                    rows=rows,
                    responses=3,
                    measured_by=measure,
                    correlation=kind,
                    before={"tone": 0.5, "safe": -0.25, "verbosity": 0.9},
                    after={"tone": after, "safe": -0.25, "verbosity": 0.0},
                )
                for rows, after in (("reference", 0.0), ("held_out", 0.375))
                for measure in ("objective", "tokens")
                for kind in ("spearman", "pearson")
            ),
        ),
        "beta": 8.0,
        "gate_steps": (2, 1),
        "gate_shrinkage": Shrinkage(0.5, (0.0, 0.5, 1.0), (0.69, 0.6, 0.65), 8.0),
        "gate_curve": (
            CurvePoint(1, 0.7, 9.0, 0.8, 0.5),
            CurvePoint(2, 0.6, 8.0, 0.7, 0.6),
            CurvePoint(1, 0.7, 9.0, 0.8, 0.5, fold=1),
        ),
        "gate_seeds": SeedSpread.of([0.9, 0.8]),
        "moved_prompts": (
            MovedPrompt("<em>Why?</em>", "one", 0.5, (MovedWeight("tone", 0.9, 0.4),)),
        ),
        "left_out": None,
        "tuning": {},
        "seconds": {"features": 1.0, "total": 1.0},
        "data": DataAccount(rated=ROWS, preferences=ROWS, seconds=1.0),
    }
    return RunMetrics(**{**content, **changes})  # type: ignore[arg-type]
