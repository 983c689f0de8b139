"""The bets: exact under the null, and powerful against what they bet on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm

from armorm.evaluation.monitoring.evidence import (
    SHIFTS,
    Evidence,
    SequentialRanks,
    log_start_weight,
    normal_scores,
    rank_bets,
    share_bets,
    weight_left,
)


def naive_share(values: list[float], tie: float) -> float:
    last = values[-1]
    return (sum(v > last for v in values) + tie * sum(v == last for v in values)) / len(values)


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=40), st.floats(0.001, 0.999))
@settings(max_examples=50, deadline=None)
def test_ranks_are_those_of_the_rounded_values(values, tie):
    sample = np.linspace(-2, 2, 9)[:, None]  # bins far narrower than 1
    ranks = SequentialRanks(sample)
    seen = []
    for value in values:
        seen.append(max(-17, min(17, value)))  # beyond the outer bins all values are alike
        share = ranks.rank(np.array([float(value)]), np.array([tie]))
        if abs(value) <= 11:
            assert share[0] == pytest.approx(naive_share(seen, tie))
    again = SequentialRanks.from_dict(ranks.as_dict())
    assert again.rank(np.array([0.5]), np.array([tie])) == ranks.rank(
        np.array([0.5]), np.array([tie])
    )


def test_ranks_of_exchangeable_values_are_uniform_and_independent():
    random = np.random.default_rng(0)
    for draw in (random.standard_cauchy, lambda n: random.integers(0, 2, n)):
        sample = np.asarray(draw((500, 32)), float)
        shares = []
        for row in sample:  # a fresh short stream each, so that ties and small ranks count
            ranks = SequentialRanks(row[:16, None])
            shares.append([ranks.rank(row[i : i + 1], random.random(1))[0] for i in range(16, 32)])
        table = np.array(shares)
        assert kstest(table.ravel(), "uniform").pvalue > 0.001
        correlations = np.corrcoef(table.T)[np.triu_indices(16, 1)]
        assert np.abs(correlations).max() < 4.2 / math.sqrt(500)


def test_factors_have_mean_one():
    for side, sign in enumerate((1, -1)):
        for bet, shift in enumerate(SHIFTS):
            mean, _ = quad(
                lambda z, side=side, bet=bet: (
                    math.exp(rank_bets(np.array([z]))[0, side, bet]) * norm.pdf(z)
                ),
                -12,
                12,
                points=[sign * shift],
            )
            assert mean == pytest.approx(1.0, abs=1e-7)
    q = 0.05
    mean = q * np.exp(share_bets(1.0, q)) + (1 - q) * np.exp(share_bets(0.0, q))
    assert mean == pytest.approx(np.ones_like(mean))
    rarer = 0.5 * q * np.exp(share_bets(1.0, q)) + (1 - 0.5 * q) * np.exp(share_bets(0.0, q))
    assert (rarer <= 1 + 1e-12).all()


def test_weights_of_beginnings_sum_to_one():
    total = sum(math.exp(log_start_weight(n)) for n in range(1, 5001))
    assert total + weight_left(5000) == pytest.approx(1.0)


def capital_of(scores: np.ndarray, *, run_length: bool) -> Evidence:
    """Bet on streams side by side; each unit is a step."""
    evidence = Evidence(scores.shape[0], run_length=run_length)
    for column in scores.T:
        evidence.begin_step()
        evidence.update(rank_bets(column))
    return evidence


def test_the_mean_capital_under_the_null_is_at_most_one_and_rarely_large():
    random = np.random.default_rng(1)
    streams, units, reach = 4000, 60, 10.0
    evidence = Evidence(streams)
    highest = np.zeros(streams)
    for _ in range(units):
        evidence.begin_step()
        evidence.update(rank_bets(normal_scores(random.random(streams))))
        highest = np.maximum(highest, np.exp(evidence.values()))
    final = np.exp(evidence.values())
    assert final.mean() <= 1 + 4 * final.std() / math.sqrt(streams)
    bound = 1 / reach
    assert (highest >= reach).mean() <= bound + 3 * math.sqrt(bound * (1 - bound) / streams)


def test_the_capital_is_the_weighted_mean_of_all_beginnings():
    scores = np.random.default_rng(2).normal(size=(1, 12)) + 0.7
    factors = [rank_bets(scores[:, i])[0] for i in range(12)]
    expected = weight_left(12)
    for begin in range(12):
        grown = np.exp(np.sum(factors[begin:], axis=0)).mean()
        expected += math.exp(log_start_weight(begin + 1)) * grown
    found = capital_of(scores, run_length=False)
    assert math.exp(found.values()[0]) == pytest.approx(expected)
    assert found.rising()[0]
    sums = sum(np.exp(np.sum(factors[begin:], axis=0)).mean() for begin in range(12))
    assert math.exp(capital_of(scores, run_length=True).values()[0]) == pytest.approx(sums)


def test_the_mean_run_length_is_at_least_what_was_asked_for():
    random = np.random.default_rng(3)
    asked, streams = 100, 400
    evidence = Evidence(streams, run_length=True)
    rung = np.zeros(streams)
    for unit in range(1, 3001):
        evidence.begin_step()
        evidence.update(rank_bets(normal_scores(random.random(streams))))
        rung[(rung == 0) & (evidence.values() >= math.log(asked))] = unit
    rung[rung == 0] = 3000
    assert rung.mean() >= asked
