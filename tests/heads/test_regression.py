"""Masked ridge against scikit-learn, which knows nothing of statistics or patterns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from armorm import ArmormError, RidgeStatistics, fit_reward_head
from armorm.errors import StoreError
from armorm.heads import HeadOptions, held_out_errors
from armorm.heads.regression import EXHAUSTIVE
from armorm.heads.statistics import fold_of


def _data(rows: int, features: int, objectives: int, seed: int, missing: float = 0.5):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, features))
    y = x @ generator.normal(size=(features, objectives)) + generator.normal(
        size=(rows, objectives)
    )
    # Labels go missing in a few patterns, as when data sets are merged.
    masks = generator.random((4, objectives)) < missing
    masks[0] = False
    y[masks[generator.integers(0, 4, rows)]] = np.nan
    return x, y


def _statistics(x: np.ndarray, y: np.ndarray) -> RidgeStatistics:
    statistics = RidgeStatistics(x.shape[1], y.shape[1])
    statistics.update(x, y)
    return statistics


def _sklearn(x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    weight = []
    for column in y.T:
        rated = ~np.isnan(column)
        ridge = Ridge(alpha=alpha, fit_intercept=False, solver="svd")
        weight.append(ridge.fit(x[rated], column[rated]).coef_)
    return np.array(weight)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(40, 120),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(0, 10_000),
    st.sampled_from([1e-4, 1e-2, 1.0, 100.0, 1e4]),
)
def test_each_objective_equals_sklearn_on_its_rated_rows(rows, features, objectives, seed, alpha):
    x, y = _data(rows, features, objectives, seed)
    head = fit_reward_head(_statistics(x, y), HeadOptions(alphas=(alpha,)))
    expected = _sklearn(x, y, alpha)
    np.testing.assert_allclose(head.weight, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("alpha", [1e-4, 1.0, 1e4])
def test_rank_deficient_data_gives_the_ridge_solution(alpha):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(20, 6)) @ generator.normal(size=(6, 50))  # rank 6 in 50 dimensions
    y = generator.normal(size=(20, 2))
    head = fit_reward_head(_statistics(x, y), HeadOptions(alphas=(alpha,)))
    expected = _sklearn(x, y, alpha)
    np.testing.assert_allclose(head.weight, expected, atol=1e-6 * np.abs(expected).max())


def test_penalty_zero_gives_the_minimum_norm_solution():
    generator = np.random.default_rng(4)
    x = generator.normal(size=(10, 30))
    y = generator.normal(size=(10, 1))
    head = fit_reward_head(_statistics(x, y), HeadOptions(alphas=(0.0,)))
    expected = np.linalg.pinv(x) @ y[:, 0]
    np.testing.assert_allclose(head.weight[0], expected, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 59), max_size=3, unique=True))
def test_statistics_add_up_over_any_split(seed, cuts):
    x, y = _data(60, 5, 4, seed)
    whole = _statistics(x, y)
    pieces = np.split(np.arange(60), sorted(cuts))
    total = RidgeStatistics(5, 4)
    for piece in pieces:
        total = total + _statistics(x[piece], y[piece])
    for objective in range(4):
        assert total.rows_rating(objective) == whole.rows_rating(objective)
        np.testing.assert_allclose(total.moment(objective), whole.moment(objective), rtol=1e-9)
        np.testing.assert_allclose(
            total.gram(total.patterns_rating(objective)),
            whole.gram(whole.patterns_rating(objective)),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("features", [40, 600])
def test_penalty_is_the_one_with_the_least_error_on_held_out_folds(features):
    x, y = _data(300, features, 3, seed=7)
    fold = np.random.default_rng(0).integers(0, 5, 300)
    alphas = (1e-4, 1e-2, 1.0, 10.0, 100.0, 1e3, 1e4)
    statistics = RidgeStatistics(features, 3)
    statistics.update(x, y, fold)
    head = fit_reward_head(statistics, HeadOptions(alphas=alphas))
    errors = np.zeros((3, len(alphas)))
    for held in range(5):
        part, others = fold == held, fold != held
        for number, alpha in enumerate(alphas):
            residual = x[part] @ _sklearn(x[others], y[others], alpha).T - y[part]
            errors[:, number] += np.nansum(residual**2, axis=0)
    errors /= (~np.isnan(y)).sum(axis=0)[:, None]
    found = np.array(head.selection_errors)
    tried = ~np.isnan(found)
    assert tried.all() or features > EXHAUSTIVE  # there, small penalties may be skipped
    np.testing.assert_allclose(found[tried], errors[tried], rtol=1e-5)
    for objective in range(3):
        assert head.alphas[objective] == alphas[int(np.argmin(errors[objective]))]
        refit = _sklearn(x, y, head.alphas[objective])[objective]
        scale = np.abs(refit).max()
        np.testing.assert_allclose(head.weight[objective], refit, rtol=1e-5, atol=1e-7 * scale)


def test_ill_conditioned_wide_features_are_cross_validated_as_exactly():
    """Where a float32 factor is not accurate enough, a float64 one is used."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(700, 520)) * np.logspace(2, -3, 520)
    y = x @ generator.normal(size=(520, 1)) + generator.normal(size=(700, 1))
    parts = [_statistics(x[i::2], y[i::2]) for i in range(2)]
    alphas = [1e4, 1.0, 1e-4]
    errors = held_out_errors(parts, alphas)[0]
    for number, alpha in enumerate(alphas):
        squares = sum(
            ((x[i::2] @ _sklearn(x[1 - i :: 2], y[1 - i :: 2], alpha)[0] - y[i::2, 0]) ** 2).sum()
            for i in range(2)
        )
        assert errors[number] == pytest.approx(squares / 700, rel=1e-4)


def _hidden_states(rows: int, features: int) -> np.ndarray:
    """Return rows with a power-law spectrum and a large mean, as a language model's have."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(rows, features)) * np.arange(1, features + 1) ** -0.5 * 10
    x = x @ np.linalg.qr(generator.normal(size=(features, features)))[0]
    return x + 3 * generator.normal(size=features)


def test_wide_hidden_states_have_the_solutions_of_a_direct_solver():
    x = _hidden_states(1500, 560)
    y = x @ np.random.default_rng(0).normal(size=(560, 2)) / 560
    statistics = _statistics(x, y)
    gram, moments = x.T @ x, x.T @ y
    for alpha in HeadOptions().alphas:
        weight = fit_reward_head(statistics, HeadOptions(alphas=(alpha,))).weight
        exact = scipy.linalg.solve(gram + alpha * np.eye(560), moments, assume_a="pos").T
        assert np.abs(weight - exact).max() <= 1e-9 * np.abs(exact).max()


@pytest.mark.parametrize("rows", [300, 650, 3000])
def test_wide_hidden_states_are_cross_validated_as_exactly_with_few_rows_as_with_many(rows):
    """With few rows, directions in the held-out fold alone make the iteration slow."""
    x = _hidden_states(rows, 520)
    generator = np.random.default_rng(0)
    y = x @ generator.normal(size=(520, 2)) / 520 + 0.3 * generator.normal(size=(rows, 2))
    folds = [np.arange(rows) % 3 == held for held in range(3)]
    alphas = HeadOptions().alphas
    errors = held_out_errors([_statistics(x[fold], y[fold]) for fold in folds], alphas)
    expected = np.zeros_like(errors)
    for fold in folds:
        gram, moments = x[~fold].T @ x[~fold], x[~fold].T @ y[~fold]
        for number, alpha in enumerate(alphas):
            weight = scipy.linalg.solve(gram + alpha * np.eye(520), moments, assume_a="pos")
            expected[:, number] += ((x[fold] @ weight - y[fold]) ** 2).sum(axis=0) / rows
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


def test_ratings_that_are_all_in_one_fold_cannot_choose_a_penalty():
    x, y = _data(30, 3, 2, seed=0, missing=0.0)
    with pytest.raises(ArmormError, match="tone has 30 rated rows, all in one fold"):
        fit_reward_head(_statistics(x, y), names=["tone", "style"])


def test_folds_follow_the_prompt_and_survive_the_file():
    x, y = _data(100, 4, 2, seed=5)
    statistics = RidgeStatistics(4, 2)
    fold = np.arange(100) % 3
    statistics.update(x, y, fold)
    again = RidgeStatistics.from_bytes(statistics.to_bytes())
    assert len(again.folds()) == 3
    for number, part in enumerate(again.folds()):
        expected = _statistics(x[fold == number], y[fold == number])
        np.testing.assert_allclose(part.moment(0), expected.moment(0), rtol=1e-12)
    rest = again - statistics.folds()[1]
    assert [part.rows for part in rest.folds()] == [statistics.folds()[i].rows for i in (0, 2)]
    assert {fold_of(f"prompt {i}", 5, 0) for i in range(50)} == set(range(5))
    assert fold_of("a prompt", 5, 0) == fold_of("a prompt", 5, 0)


def test_an_objective_without_ratings_is_named():
    x, y = _data(30, 3, 2, seed=0, missing=0.0)
    y[:, 1] = np.nan
    with pytest.raises(ArmormError, match="style has no rating"):
        fit_reward_head(_statistics(x, y), HeadOptions(alphas=(1.0,)), names=["tone", "style"])


def test_a_feature_that_is_not_finite_is_refused():
    x, y = _data(30, 3, 2, seed=0)
    x[17, 1] = np.inf
    with pytest.raises(ArmormError, match="row 17"):
        _statistics(x, y)


def test_statistics_of_other_shapes_do_not_add_up():
    with pytest.raises(ArmormError, match="cannot be combined"):
        _ = RidgeStatistics(3, 2) + RidgeStatistics(4, 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_that_are_taken_out_leave_no_trace(seed):
    x, y = _data(80, 6, 4, seed)
    remaining = _statistics(x, y) - _statistics(x[50:], y[50:])
    never_seen = _statistics(x[:50], y[:50])
    assert remaining.rows == never_seen.rows
    rated = [i for i in range(4) if never_seen.rows_rating(i)]
    assert [i for i in range(4) if remaining.rows_rating(i)] == rated
    if len(rated) == 4:
        expected = fit_reward_head(never_seen, HeadOptions(alphas=(0.1,))).weight
        forgotten = fit_reward_head(remaining, HeadOptions(alphas=(0.1,))).weight
        np.testing.assert_allclose(forgotten, expected, atol=1e-6 * np.abs(expected).max())


def test_rows_that_were_never_added_cannot_be_taken_out():
    x, y = _data(30, 3, 2, seed=0, missing=0.0)
    with pytest.raises(ArmormError, match="never added"):
        _ = _statistics(x[:10], y[:10]) - _statistics(x, y)


def test_statistics_survive_the_disk():
    x, y = _data(90, 5, 4, seed=1)
    before = _statistics(x, y)
    after = RidgeStatistics.from_bytes(before.to_bytes())
    assert after.to_bytes() == before.to_bytes()
    np.testing.assert_array_equal(
        fit_reward_head(after, HeadOptions(alphas=(0.1,))).weight,
        fit_reward_head(before, HeadOptions(alphas=(0.1,))).weight,
    )
    with pytest.raises(StoreError, match="cannot be read"):
        RidgeStatistics.from_bytes(before.to_bytes()[:-7])


def test_cross_validated_errors_equal_a_loop_over_folds():
    x, y = _data(150, 8, 3, seed=2)
    folds = np.array_split(np.arange(150), 4)
    errors = held_out_errors([_statistics(x[f], y[f]) for f in folds], [0.1, 10.0])
    for number, alpha in enumerate([0.1, 10.0]):
        squared, rows = np.zeros(3), np.zeros(3)
        for fold in folds:
            others = np.setdiff1d(np.arange(150), fold)
            weight = _sklearn(x[others], y[others], alpha)
            residual = x[fold] @ weight.T - y[fold]
            squared += np.nansum(residual**2, axis=0)
            rows += (~np.isnan(residual)).sum(axis=0)
        np.testing.assert_allclose(errors[:, number], squared / rows, rtol=1e-8)


def test_an_objective_that_one_part_alone_rates_has_no_error_from_the_others():
    x, y = _data(60, 4, 2, seed=3, missing=0.0)
    y[:30, 1] = np.nan
    errors = held_out_errors([_statistics(x[:30], y[:30]), _statistics(x[30:], y[30:])], [1.0])
    assert np.isfinite(errors[0, 0])
    assert np.isnan(errors[1, 0])


def test_a_total_stays_what_it_was_when_rows_are_added_to_its_parts():
    """Totals refer to the sums of their parts instead of copying them."""
    generator = np.random.default_rng(0)
    features, rewards = generator.standard_normal((30, 4)), generator.standard_normal((30, 2))
    part = RidgeStatistics(4, 2)
    part.update(features[:10], rewards[:10])
    total = part + part
    before = total.to_bytes()
    part.update(features[10:], rewards[10:])
    assert total.to_bytes() == before
    whole = RidgeStatistics(4, 2)
    whole.update(features, rewards)
    np.testing.assert_allclose(part.gram(part.patterns), whole.gram(whole.patterns), atol=1e-12)
    np.testing.assert_allclose(
        (part - total if part.rows > total.rows else part).moment(1),
        whole.moment(1) - 2 * (features[:10].T @ rewards[:10, 1]),
        atol=1e-12,
    )


@pytest.mark.parametrize("rows", [300, 12])
def test_a_device_gives_the_sums_and_weights_of_the_cpu(rows):
    """torch's own products and solves in float64; the CPU stands in for a GPU here."""
    x, y = _data(rows, 20, 4, seed=3)
    here, there = RidgeStatistics(20, 4), RidgeStatistics(20, 4, device="cpu")
    for statistics in (here, there):
        statistics.BLOCK = 64  # several blocks
        for start in range(0, rows, 50):
            rows_now = slice(start, start + 50)
            fold = np.arange(rows)[rows_now] % 3
            statistics.update(x[rows_now].astype(np.float32), y[rows_now], fold)
    np.testing.assert_allclose(
        there.gram(there.patterns), here.gram(here.patterns), rtol=0, atol=1e-10
    )
    alphas = (0.0, 1e-3, 10.0)  # without a penalty, fewer rows than features are singular
    for alpha in alphas:
        np.testing.assert_allclose(
            fit_reward_head(there, HeadOptions(alphas=(alpha,))).weight,
            fit_reward_head(here, HeadOptions(alphas=(alpha,))).weight,
            rtol=0,
            atol=1e-8,
        )
    options = HeadOptions(alphas=alphas[1:])
    assert fit_reward_head(there, options).alphas == fit_reward_head(here, options).alphas
