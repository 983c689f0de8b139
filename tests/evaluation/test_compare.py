"""Paired comparison of models, against scipy and simulations written apart from the code."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats

from armorm import ArmormError, PreferencePair
from armorm.evaluation.compare import common_rows, compare_models
from armorm.evaluation.scorers import Scored, ScoredRow
from armorm.heads.metrics import holm


def test_right_or_wrong_is_mcnemars_test():
    generator = np.random.default_rng(0)
    a, b = generator.random(300) < 0.8, generator.random(300) < 0.7
    (found,) = compare_models({"a": a, "b": b})
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert (found.test, found.only_a, found.only_b) == ("McNemar", only_a, only_b)
    assert found.p_value == scipy.stats.binomtest(only_a, only_a + only_b).pvalue
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.low < found.difference < found.high
    assert found.p_holm == found.p_value  # a single pair of models


def test_intervals_cover_the_true_difference():
    generator = np.random.default_rng(1)
    for credits in ("right or wrong", "grouped"):
        covered = 0
        for trial in range(200):
            a, b = generator.random(100) < 0.75, generator.random(100) < 0.65
            groups = None if credits == "right or wrong" else np.repeat(range(50), 2).tolist()
            if groups is not None:  # both rows of a prompt are right, or none is
                a, b = np.repeat(a[:50], 2), np.repeat(b[:50], 2)
                if trial >= 60:
                    break
            (found,) = compare_models({"a": a, "b": b}, groups=groups)
            covered += found.low <= 0.1 <= found.high
        assert covered / (60 if credits == "grouped" else 200) > 0.9


def test_rows_of_a_group_count_as_one():
    a, b = np.repeat([1, 1, 1, 1, 0, 1], 50), np.repeat([0, 0, 1, 1, 0, 1], 50)
    (alone,) = compare_models({"a": a, "b": b})
    (grouped,) = compare_models({"a": a, "b": b}, groups=np.repeat(range(6), 50).tolist())
    assert alone.p_value < 1e-9
    assert (grouped.test, grouped.p_value) == ("permutation", pytest.approx(0.5, abs=0.02))


def test_partial_credit_agrees_with_scipys_permutation_test():
    generator = np.random.default_rng(2)
    a, b = generator.integers(0, 5, 60) / 4, generator.integers(0, 4, 60) / 4
    (found,) = compare_models({"a": a, "b": b})
    expected = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        rng=np.random.default_rng(3),
    )
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.01)


def test_weights_change_the_score():
    (found,) = compare_models({"a": [1, 0], "b": [0, 0]}, weights=[3, 1])
    assert (found.score_a, found.difference) == (0.75, 0.75)


def test_holm_corrects_over_all_pairs_of_models():
    generator = np.random.default_rng(4)
    rights = {
        name: generator.random(200) < share
        for name, share in {"a": 0.9, "b": 0.7, "c": 0.68, "d": 0.5}.items()
    }
    found = compare_models(rights)
    assert len(found) == 6
    assert [one.p_holm for one in found] == holm([one.p_value for one in found])
    assert all(one.p_holm >= one.p_value for one in found)
    ordered = sorted(found, key=lambda one: one.p_value)
    assert ordered[0].p_holm == pytest.approx(6 * ordered[0].p_value)


def test_bad_credits_are_refused():
    with pytest.raises(ArmormError, match="there are: a 2, b 1"):
        compare_models({"a": [1, 0], "b": [1]})
    with pytest.raises(ArmormError, match=r"b has no credit \(NaN\) for row 2"):
        compare_models({"a": [1, 0], "b": [1, np.nan]})


def test_only_rows_that_all_models_scored_are_compared():
    prompt = ({"role": "user", "content": "hello"},)
    rows = [PreferencePair(prompt, f"a {i}", "b") for i in range(4)] + [
        PreferencePair(prompt, "a 0", "b")
    ]
    first = [ScoredRow(row, Scored((i, 0.0))) for i, row in enumerate(rows)]
    second = [ScoredRow(row, Scored((-i, 0.0))) for i, row in enumerate(rows) if i != 2]
    found = common_rows({"x": first, "y": second})
    assert [one.scores[0] for one in found.scored["x"]] == [0, 1, 3, 4]
    assert [one.scores[0] for one in found.scored["y"]] == [0, -1, -3, -4]
    assert found.dropped == {"x": 1, "y": 0}
    with pytest.raises(ArmormError, match="No row has scores of all models"):
        common_rows({"x": first[:1], "y": first[1:2]})


def test_three_thousand_rows_are_compared_in_a_second():
    generator = np.random.default_rng(5)
    rights = {str(i): generator.random(3000) < 0.7 for i in range(4)}
    started = time.perf_counter()
    compare_models(rights)
    assert time.perf_counter() - started < 1
