"""The penalty is a root, not a grid point; scipy says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from armorm import ArmormError, fit_debiasing
from armorm.heads import DebiasingOptions
from armorm.heads.debiasing import _root_among

SOLVE = DebiasingOptions(negative="solve")


def _rewards(seed: int, rows: int = 4000, slopes=(0.8, 0.2, 1.5, -0.4)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    verbosity = generator.gamma(2.0, size=rows)
    others = [slope * verbosity + generator.normal(size=rows) for slope in slopes]
    return np.stack([verbosity, *others], axis=1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["spearman", "pearson"]))
def test_correlation_with_verbosity_is_brought_to_zero(seed, correlation):
    rewards = _rewards(seed)
    fitted = fit_debiasing(rewards, 0, DebiasingOptions(correlation=correlation, negative="solve"))
    debiased = rewards @ fitted.transform
    measure = spearmanr if correlation == "spearman" else pearsonr
    for column in range(1, 5):
        assert abs(measure(debiased[:, column], rewards[:, 0]).statistic) < 1e-4
        assert fitted.before[column] == pytest.approx(
            measure(rewards[:, column], rewards[:, 0]).statistic, abs=1e-9
        )
    np.testing.assert_array_equal(debiased[:, 0], 0.0)


def test_an_objective_that_is_not_correlated_upwards_is_kept_by_default():
    rewards = _rewards(1)
    fitted = fit_debiasing(rewards, 0)
    assert fitted.penalties[4] == 0.0
    assert fitted.after[4] == pytest.approx(fitted.before[4])
    assert fit_debiasing(rewards, 0, SOLVE).penalties[4] < 0


def test_a_strongly_dependent_objective_still_gets_its_root():
    # The published grid stops at 0.95 and leaves such an objective at the default 1.
    rewards = _rewards(2, slopes=(7.0,))
    fitted = fit_debiasing(rewards, 0)
    assert fitted.penalties[1] > 5
    assert abs(fitted.after[1]) < 1e-4


def test_tied_rewards_are_ranked_by_their_average():
    generator = np.random.default_rng(0)
    verbosity = generator.integers(0, 5, 2000).astype(float)
    other = verbosity + generator.integers(0, 3, 2000)
    fitted = fit_debiasing(np.stack([verbosity, other], axis=1), 0)
    assert fitted.before[1] == pytest.approx(spearmanr(other, verbosity).statistic, abs=1e-9)


def test_verbosity_that_never_varies_is_refused():
    rewards = np.ones((10, 2))
    with pytest.raises(ArmormError, match="verbosity varies"):
        fit_debiasing(rewards, 0)


def test_a_measured_confounder_such_as_length_is_brought_to_zero():
    rewards = _rewards(3)
    length = np.round(200 * rewards[:, 0] + np.random.default_rng(0).normal(size=4000) * 50)
    fitted = fit_debiasing(rewards, 0, SOLVE, measured=length)
    debiased = rewards @ fitted.transform
    for column in range(1, 5):
        assert abs(spearmanr(debiased[:, column], length).statistic) < 1e-4


def test_a_confounder_that_nothing_can_take_out_leaves_the_reward_and_says_so():
    length = np.arange(1.0, 102.0)
    # Subtracting a constant-but-for-one-row reward cannot undo a perfect correlation.
    rewards = np.stack([(length == 51).astype(float), length], axis=1)
    fitted = fit_debiasing(rewards, 0, measured=length)
    assert fitted.penalties[1] == 0.0
    assert fitted.after[1] == fitted.before[1] == pytest.approx(1.0)
    assert fitted.outcomes == ("subtracted", "no root")


def _oracle(reward, subtracted, length, reach=50.0, points=20_001):
    """Penalties at which the rank correlation changes its sign, on a fine grid."""
    grid = np.linspace(-reach, reach, points)
    left = np.array([spearmanr(reward - p * subtracted, length).statistic for p in grid])
    return grid[:-1][np.sign(left[:-1]) != np.sign(left[1:])]


@pytest.mark.parametrize("seed", range(12))
def test_of_several_roots_with_a_measured_confounder_the_nearest_is_found(seed):
    """Correlations that rise and fall: each part of the rows turns at a penalty of its own."""
    generator = np.random.default_rng(seed)
    rows = 300
    length = generator.normal(size=rows)
    subtracted = generator.normal(size=rows) * np.exp(2 * generator.normal(size=rows))
    reward = 0.3 * length + subtracted * generator.choice([-2.0, 0.5, 3.0], rows)
    roots = _oracle(reward, subtracted, length)
    fitted = fit_debiasing(np.stack([subtracted, reward], axis=1), 0, SOLVE, measured=length)
    penalty = fitted.penalties[1]
    assert (fitted.outcomes[1] == "solved") or not len(roots)
    if len(roots):
        assert abs(spearmanr(reward - penalty * subtracted, length).statistic) < 0.01
        assert abs(penalty) <= 1.1 * np.abs(roots).min() + 0.1


def test_two_roots_between_two_points_of_the_scan_are_found():
    dip = _root_among(lambda penalty: (penalty - 1.1) ** 2 - 0.001, 0.0, 1.0, 2.0)
    assert dip == pytest.approx(1.1 - 0.001**0.5)
    assert _root_among(lambda penalty: (penalty - 1.1) ** 2 + 0.001, 0.0, 1.0, 2.0) is None


def test_pearson_with_a_measured_confounder_is_solved_in_closed_form():
    rewards = _rewards(5)
    length = rewards[:, 0] ** 2 + np.random.default_rng(1).normal(size=4000)
    fitted = fit_debiasing(
        rewards, 0, DebiasingOptions(correlation="pearson", negative="solve"), measured=length
    )
    debiased = rewards @ fitted.transform
    for column in range(1, 5):
        assert abs(pearsonr(debiased[:, column], length).statistic) < 1e-10
