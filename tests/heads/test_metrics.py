"""Figures of merit on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from armorm.heads.metrics import (
    accuracy,
    best_single_objective,
    calibration,
    gate_diagnostics,
    mcnemar,
)
from armorm.intervals import wilson_interval


def test_a_tie_is_wrong_and_no_pairs_have_no_accuracy():
    assert accuracy([1.0, 0.0, -1.0, 2.0]) == 0.5
    assert accuracy([]) is None


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_has():
    generator = np.random.default_rng(0)
    strength = np.abs(generator.normal(size=100_000))
    right = generator.random(100_000) < 1 / (1 + np.exp(-2 * strength))
    margins = np.where(right, strength, -strength)
    assert calibration(margins, 2.0).error < 0.01
    over = calibration(margins, 20.0)
    assert over.error > 0.1
    assert over.bins[-1]["confidence"] > over.bins[-1]["accuracy"] + 0.1
    assert sum(one["n"] for one in over.bins) == 100_000
    assert calibration([], 1.0) is None


def test_gate_diagnostics_tell_even_dependent_and_collapsed_gates_apart():
    even = gate_diagnostics(np.full((5, 4), 0.25))
    assert even["entropy"] == pytest.approx(1.0)
    assert even["prompt_dependence"] == pytest.approx(0.0)
    switching = gate_diagnostics(np.eye(4))
    assert switching["entropy"] == pytest.approx(0.0)
    assert switching["prompt_dependence"] == pytest.approx(1.0)
    assert not switching["collapsed"]
    assert gate_diagnostics(np.tile([0.98, 0.01, 0.01], (6, 1)))["collapsed"]


def test_wilson_interval_is_the_textbook_one_and_stays_within_zero_and_one():
    z, n = 1.959963984540054, 250
    for successes in (0, 3, 125, 250):
        share = successes / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = wilson_interval(successes, n)
        assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
        assert 0 <= low < high <= 1
    assert wilson_interval(0, 0) is None


def test_mcnemar_counts_only_the_pairs_that_the_methods_disagree_on():
    a = np.array([True] * 30 + [False] * 10 + [True] * 60)
    b = np.array([False] * 30 + [True] * 10 + [True] * 60)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (30, 10)
    assert found.p_value == pytest.approx(0.0022, abs=1e-4)  # 2 * P(B(40, 1/2) >= 30)
    assert mcnemar(b, a).p_value == found.p_value
    assert mcnemar(a, a).p_value == 1.0


def test_the_best_single_objective_counts_a_tie_as_wrong():
    assert best_single_objective(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, -1.0]])) == 1
