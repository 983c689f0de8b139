"""Uncertainty, novelty and influence against refits and plain linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, qmc
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from armorm import ArmormError, RidgeStatistics, fit_reward_head
from armorm.errors import StoreError
from armorm.heads import (
    HeadOptions,
    HeadUncertainty,
    fit_uncertainty,
    most_influential_rows,
    most_surprising_rows,
)
from armorm.heads.metrics import coverage
from armorm.heads.uncertainty import conformal_factor

NOISE = 0.4


def _data(rows: int = 400, features: int = 12, seed: int = 0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, features))
    truth = generator.normal(size=(features, 3))
    y = x @ truth + NOISE * generator.normal(size=(rows, 3))
    y[: rows // 2, 2] = np.nan  # two label patterns
    return x, y, truth


def _fit(x: np.ndarray, y: np.ndarray, alpha: float = 2.0):
    statistics = RidgeStatistics(x.shape[1], y.shape[1])
    statistics.update(x, y)
    head = fit_reward_head(statistics, HeadOptions(alphas=(alpha,)))
    return head, fit_uncertainty(statistics, head)


def test_deviation_equals_the_bayesian_formula():
    x, y, _ = _data()
    head, uncertainty = _fit(x, y)
    new = np.random.default_rng(1).normal(size=(5, 12))
    deviations = uncertainty.deviations(new)
    for objective in range(3):
        rated = ~np.isnan(y[:, objective])
        inverse = np.linalg.inv(x[rated].T @ x[rated] + 2.0 * np.eye(12))
        freedom = np.trace(x[rated] @ inverse @ x[rated].T)
        residual = y[rated, objective] - x[rated] @ head.weight[objective]
        noise = residual @ residual / (rated.sum() - freedom)
        expected = np.sqrt(noise * (1 + np.einsum("rf,fg,rg->r", new, inverse, new)))
        np.testing.assert_allclose(deviations[:, objective], expected, rtol=1e-9)


def test_intervals_cover_as_often_as_they_say():
    x, y, truth = _data(rows=300)
    head, uncertainty = _fit(x, y, alpha=0.1)
    generator = np.random.default_rng(5)
    new = generator.normal(size=(4000, 12))
    ratings = new @ truth + NOISE * generator.normal(size=(4000, 3))
    half = norm.ppf(0.95) * uncertainty.deviations(new)
    covered = np.abs(ratings - new @ head.weight.T) <= half
    np.testing.assert_allclose(covered.mean(axis=0), 0.9, atol=0.04)


def test_novelty_is_one_for_rated_rows_and_tells_strangers_apart():
    x, y, _ = _data(rows=2000)
    x[:, 6:] *= 0.1  # the rated rows hardly move in these directions
    _, uncertainty = _fit(x, y)
    assert uncertainty.novelty(x).mean() == pytest.approx(1.0, rel=1e-9)
    strangers = np.random.default_rng(2).normal(size=(500, 12))
    novelty = np.concatenate([uncertainty.novelty(x[:500]), uncertainty.novelty(strangers)])
    assert roc_auc_score(np.repeat([0, 1], 500), novelty) > 0.95


def test_errors_go_together_as_residuals_do_where_both_are_rated():
    generator = np.random.default_rng(4)
    x = generator.normal(size=(900, 6))
    common = generator.normal(size=(900, 1))
    y = (
        x @ generator.normal(size=(6, 3))
        + common * [1.0, -0.8, 0.5]
        + generator.normal(size=(900, 3))
    )
    y[:300, 2], y[300:600, 1] = np.nan, np.nan  # columns 1 and 2 meet in the last rows only
    head, uncertainty = _fit(x, y)
    residuals = y - x @ head.weight.T
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = ~np.isnan(residuals[:, [one, other]]).any(axis=1)
        a, b = residuals[both, one], residuals[both, other]
        expected = a @ b / np.sqrt((a @ a) * (b @ b))
        assert uncertainty.correlation[one, other] == pytest.approx(expected, abs=1e-9)
    y[600:, 2] = np.nan
    never_together = _fit(x, y)[1].correlation
    assert never_together[1, 2] == pytest.approx(0.0, abs=1e-12)


def test_the_deviation_of_a_score_is_that_of_the_sum_of_ratings():
    """All objectives rated in the same rows: simulate raters whose errors go together."""
    generator = np.random.default_rng(6)
    x = generator.normal(size=(4000, 5))
    covariance = NOISE**2 * np.array([[1.0, 0.7, 0.0], [0.7, 1.0, -0.4], [0.0, -0.4, 1.0]])
    truth = generator.normal(size=(5, 3))
    rate = lambda x: x @ truth + generator.multivariate_normal(np.zeros(3), covariance, len(x))  # noqa: E731
    head, uncertainty = _fit(x, rate(x), alpha=0.01)
    new = generator.normal(size=(6000, 5))
    coefficients = np.tile([0.7, 0.5, -0.3], (6000, 1))
    epistemic = uncertainty.score_epistemic(uncertainty.leverages(new), coefficients)
    found = np.hypot(uncertainty.score_noise(coefficients), epistemic)
    errors = (coefficients * (rate(new) - new @ head.weight.T)).sum(axis=1)
    assert np.mean((errors / found) ** 2) == pytest.approx(1.0, abs=0.06)
    independent = np.sqrt(((coefficients * uncertainty.deviations(new)) ** 2).sum(axis=1))
    assert not np.allclose(found, independent, rtol=0.05)  # it matters that they go together


@pytest.mark.parametrize("seed", range(5))
def test_correlations_from_different_rows_never_contradict_each_other(seed):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(60, 3)), generator.normal(size=(60, 5))
    y[generator.random(y.shape) < 0.6] = np.nan
    y[0] = 0.0
    correlation = _fit(x, y)[1].correlation
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    assert np.linalg.eigvalsh(correlation).min() > -1e-9


def test_it_is_the_same_after_a_round_through_a_file():
    x, y, _ = _data()
    uncertainty = _fit(x, y)[1].with_usual_novelty(np.arange(101.0))
    again = HeadUncertainty.from_bytes(uncertainty.to_bytes())
    new = np.random.default_rng(1).normal(size=(5, 12))
    np.testing.assert_allclose(again.deviations(new), uncertainty.deviations(new), rtol=1e-6)
    np.testing.assert_allclose(again.novelty(new), uncertainty.novelty(new), rtol=1e-5)
    np.testing.assert_array_equal(again.correlation, uncertainty.correlation)
    assert again.usual_novelty == 99.0  # 99 of a hundred stay below
    assert again.weight_sha256 == uncertainty.weight_sha256
    unknown = uncertainty.with_usual_novelty(np.empty(0))
    assert HeadUncertainty.from_bytes(unknown.to_bytes()).usual_novelty is None
    with pytest.raises(StoreError, match="cannot be read"):
        HeadUncertainty.from_bytes(b"something else")


def test_coverage_counts_the_ratings_within_the_interval():
    predicted, deviations = np.zeros((4, 2)), np.ones((4, 2))
    ratings = np.array([[0.5, np.nan], [-1.0, np.nan], [1.5, np.nan], [-1.9, np.nan]])
    expected = {"0.5": 0.25, "0.8": 0.5, "0.9": 0.75, "0.95": 1.0}
    assert coverage(predicted, deviations, ratings) == [expected, dict.fromkeys(expected)]


def test_influence_equals_leaving_the_row_out_and_fitting_again():
    x, y, _ = _data(rows=60)
    head, uncertainty = _fit(x, y)
    asked = np.random.default_rng(3).normal(size=12)
    objective = 2
    factor = uncertainty.factors[uncertainty.group[objective]]
    once = np.ones(60, int)
    blocks = [(x[i], y[i, objective], once[i]) for i in (slice(0, 25), slice(25, 60))]
    found = most_influential_rows(asked, blocks, factor, head.weight[objective], top=4)
    rated = np.flatnonzero(~np.isnan(y[:, objective]))
    whole = Ridge(alpha=2.0, fit_intercept=False).fit(x[rated], y[rated, objective])
    effects = {}
    for row in rated:
        rest = rated[rated != row]
        without = Ridge(alpha=2.0, fit_intercept=False).fit(x[rest], y[rest, objective])
        effects[row] = whole.predict([asked])[0] - without.predict([asked])[0]
    strongest = sorted(effects, key=lambda row: -abs(effects[row]))[:4]
    assert [influence.row for influence in found] == strongest
    for influence in found:
        assert influence.effect == pytest.approx(effects[influence.row], rel=1e-8)
        assert influence.rating == y[influence.row, objective]
        fitted = whole.predict(x[[influence.row]])[0]
        assert influence.predicted == pytest.approx(fitted, rel=1e-8)


def test_influence_of_a_repeated_row_is_that_of_all_its_copies():
    x, y, _ = _data(rows=60)
    copies = np.ones(60, int)
    copies[[40, 50]] = 3, 2
    every = np.repeat(np.arange(60), copies)
    head, uncertainty = _fit(x[every], y[every])
    asked = np.random.default_rng(3).normal(size=12)
    factor = uncertainty.factors[uncertainty.group[0]]
    found = most_influential_rows(asked, [(x, y[:, 0], copies)], factor, head.weight[0], top=60)
    whole = Ridge(alpha=2.0, fit_intercept=False).fit(x[every], y[every, 0])
    for influence in found:
        rest = every[every != influence.row]
        without = Ridge(alpha=2.0, fit_intercept=False).fit(x[rest], y[rest, 0])
        effect = whole.predict([asked])[0] - without.predict([asked])[0]
        assert influence.effect == pytest.approx(effect, rel=1e-7)
        assert influence.copies == copies[influence.row]


def test_the_most_surprising_rows_are_those_of_wrong_labels():
    x, y, _ = _data(rows=200)
    wrong = [3, 77, 150]
    y[wrong, 0] += [6.0, -5.0, 4.0]
    copies = np.ones(200, int)
    copies[77] = 2
    every = np.repeat(np.arange(200), copies)
    head, uncertainty = _fit(x[every], y[every])
    factor = uncertainty.factors[uncertainty.group[0]]
    blocks = [(x[i], y[i, 0], copies[i]) for i in (slice(0, 90), slice(90, 200))]
    found = most_surprising_rows(blocks, factor, head.weight[0], top=3)
    assert sorted(one.row for one in found) == wrong
    for one in found:
        rest = every[every != one.row]
        without = Ridge(alpha=2.0, fit_intercept=False).fit(x[rest], y[rest, 0])
        assert one.predicted - one.effect == pytest.approx(without.predict(x[[one.row]])[0])


def test_too_few_rows_to_tell_the_noise_is_said():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(5, 20)), generator.normal(size=(5, 1))
    with pytest.raises(ArmormError, match="degrees of freedom"):
        _fit(x, y, alpha=1e-6)


def test_an_objective_with_too_few_rows_leaves_the_others_their_deviations():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(200, 20)), generator.normal(size=(200, 2))
    _, alone = _fit(x, y[:, :1], alpha=1e-6)
    y[5:, 1] = np.nan
    _, uncertainty = _fit(x, y, alpha=1e-6)
    assert list(uncertainty.missing) == ["objective 1"]
    assert "degrees of freedom" in uncertainty.missing["objective 1"]
    again = HeadUncertainty.from_bytes(uncertainty.to_bytes())
    deviations = again.deviations(x)
    assert deviations[:, 0] == pytest.approx(alone.deviations(x)[:, 0], rel=1e-5)
    assert np.isnan(deviations[:, 1]).all()
    counted = np.tile([0.7, 0.3], (200, 1))
    leverages = again.leverages(x)
    assert np.isnan(again.score_epistemic(leverages, counted)).all()
    assert np.isnan(again.score_noise(counted)).all()
    counted[:, 1] = 0.0
    epistemic = again.score_epistemic(leverages, counted)
    only_first = np.hypot(again.score_noise(counted), epistemic)
    assert only_first == pytest.approx(0.7 * deviations[:, 0], rel=1e-9)


def _posterior_draws(x, y, weight, alpha, covariance, draws=2**17):
    """Return draws of the weights (draws, objectives, features): matrix normal, same rows.

    The draws are quasi-random, so that their moments are exact to far below 1e-3.
    """
    inverse = np.linalg.inv(x.T @ x + alpha * np.eye(x.shape[1]))
    rows, columns = np.linalg.cholesky(covariance), np.linalg.cholesky(inverse)
    size = weight.size
    uniform = qmc.Sobol(size, seed=0).random(draws)
    normal = norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-12)).reshape(draws, *weight.shape)
    return weight + np.einsum("ij,djf,gf->dig", rows, normal, columns, optimize=True)


def test_the_epistemic_deviation_is_that_of_draws_from_the_posterior():
    generator = np.random.default_rng(7)
    covariance = NOISE**2 * np.array([[1.0, 0.6, -0.2], [0.6, 1.0, 0.1], [-0.2, 0.1, 1.0]])
    x = generator.normal(size=(60, 4)) * [1.0, 1.0, 0.3, 0.1]
    y = x @ generator.normal(size=(4, 3))
    y += generator.multivariate_normal(np.zeros(3), covariance, 60)
    head, uncertainty = _fit(x, y, alpha=2.0)
    found = np.outer(uncertainty.noise, uncertainty.noise) * uncertainty.correlation
    draws = _posterior_draws(x, y, head.weight, 2.0, found)
    new = generator.normal(size=(6, 4))
    coefficients = np.tile([0.5, 0.4, -0.3], (6, 1))
    scores = np.einsum("rf,dif,ri->dr", new, draws, coefficients, optimize=True)
    epistemic = uncertainty.score_epistemic(uncertainty.leverages(new), coefficients)
    np.testing.assert_allclose(epistemic, scores.std(axis=0), rtol=1e-3)
    rewards = np.einsum("rf,dif->dri", new, draws, optimize=True)
    single = uncertainty.epistemic(uncertainty.leverages(new))
    np.testing.assert_allclose(single, rewards.std(axis=0), rtol=1e-3)
    # A difference of two responses: what they share cancels.
    near = new[:1] + 0.1 * new[1:]
    differences = np.einsum("rf,dif,ri->dr", near - new[:1], draws, coefficients[1:], optimize=True)
    found = uncertainty.score_epistemic(uncertainty.leverages(near - new[:1]), coefficients[1:])
    np.testing.assert_allclose(found, differences.std(axis=0), rtol=1e-3)
    alone = uncertainty.score_epistemic(uncertainty.leverages(near), coefficients[1:])
    assert (found < alone).all()


def test_heads_without_a_common_row_err_independently():
    x, y, _ = _data()
    y[: len(y) // 2, 1:], y[len(y) // 2 :, 0] = np.nan, np.nan
    _, uncertainty = _fit(x, y)
    assert uncertainty.overlap[0, 1] == 0
    assert uncertainty.overlap[1, 2] == pytest.approx(1.0)
    new = np.random.default_rng(1).normal(size=(5, 12))
    coefficients = np.tile([0.5, 0.5, 0.0], (5, 1))
    leverages = uncertainty.leverages(new)
    single = uncertainty.epistemic(leverages)[:, :2]
    expected = np.sqrt((0.25 * single**2).sum(axis=1))
    np.testing.assert_allclose(uncertainty.score_epistemic(leverages, coefficients), expected)


def test_more_ratings_shrink_the_epistemic_part_alone():
    coefficients = np.tile([0.4, 0.4, 0.2], (5, 1))
    new = np.random.default_rng(1).normal(size=(5, 12))
    few, many = (_fit(*_data(rows=rows)[:2])[1] for rows in (200, 20000))
    ratio = many.score_epistemic(many.leverages(new), coefficients) / few.score_epistemic(
        few.leverages(new), coefficients
    )
    np.testing.assert_allclose(ratio, 0.1, atol=0.03)
    np.testing.assert_allclose(many.score_noise(coefficients), few.score_noise(coefficients), 0.2)


def test_conformal_intervals_hold_what_they_say_whatever_the_errors():
    generator = np.random.default_rng(8)
    x, y, truth = _data(rows=600)
    head, uncertainty = _fit(x, y)
    held_out, new = generator.normal(size=(2, 4000, 12))
    # Raters who mostly agree and sometimes do not; normal intervals would hold 95 % or more.
    rate = lambda x: x @ truth + NOISE * generator.standard_t(2, size=(len(x), 3))  # noqa: E731
    ratings = rate(held_out)
    ratings[8:, 2] = np.nan
    sure = uncertainty.with_conformal(
        head.rewards(held_out), uncertainty.deviations(held_out), ratings
    )
    assert np.isnan(sure.conformal[2])  # 8 ratings cannot promise 90 %
    half = sure.conformal * sure.deviations(new)
    covered = np.abs(rate(new) - head.rewards(new)) <= half
    np.testing.assert_allclose(covered[:, :2].mean(axis=0), 0.9, atol=0.02)
    again = HeadUncertainty.from_bytes(sure.to_bytes())
    np.testing.assert_array_equal(again.conformal, sure.conformal)


def test_the_conformal_factor_is_the_stated_order_statistic():
    assert conformal_factor(np.arange(1.0, 20.0)) == 18.0  # ceil(20 * 0.9) of 19
    assert conformal_factor(np.arange(1.0, 10.0)) == 9.0
    assert np.isnan(conformal_factor(np.arange(1.0, 9.0)))
    assert conformal_factor(np.append(np.arange(1.0, 20.0), np.nan)) == 18.0
