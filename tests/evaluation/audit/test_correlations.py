"""Correlations of rewards with the surface of texts, against plain oracles."""

from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.stats

from armorm import PreferencePair
from armorm.evaluation.audit.correlations import correlate
from armorm.evaluation.audit.planted import PlantedScorer, noise, planted
from armorm.evaluation.audit.probes import Probed, probes_of
from armorm.evaluation.audit.statistics import (
    Estimate,
    control_false_discoveries,
    mean,
    rank_correlations,
    within_clusters,
)


def test_rank_correlations_are_spearmans_and_partial_ones_are_those_of_residuals():
    draw = np.random.default_rng(0)
    n = 400
    length = draw.normal(size=n)
    x = np.stack([length + draw.normal(size=n), draw.poisson(1.0, n).astype(float)], axis=1)
    y = np.stack([length + draw.normal(size=n), draw.normal(size=n)], axis=1)
    found = rank_correlations(x, y, np.arange(n), given=length)
    ranks = [scipy.stats.rankdata(v) for v in (x[:, 0], y[:, 0], length)]
    for i in range(2):
        for j in range(2):
            expected = scipy.stats.spearmanr(x[:, i], y[:, j]).statistic
            assert found.plain[i][j].value == pytest.approx(expected)
    line = np.vander(ranks[2], 2)
    residuals = [v - line @ np.linalg.lstsq(line, v, rcond=None)[0] for v in ranks[:2]]
    assert found.partial[0][0].value == pytest.approx(np.corrcoef(*residuals)[0, 1])
    # On independent rows the interval is close to Fisher's, with the variance of Bonett and Wright.
    z, reach = np.arctanh(found.plain[0][0].value), 1.96 * np.sqrt(1.1 / (n - 3))
    assert found.plain[0][0].low == pytest.approx(np.tanh(z - reach), abs=0.03)
    assert found.plain[0][0].high == pytest.approx(np.tanh(z + reach), abs=0.03)


def test_rows_of_one_prompt_do_not_count_as_independent():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2, 100))
    plain = rank_correlations(x[:, None], y[:, None], np.arange(100)).plain[0][0]
    copies = rank_correlations(
        np.repeat(x, 9)[:, None], np.repeat(y, 9)[:, None], np.repeat(np.arange(100), 9)
    ).plain[0][0]
    assert copies.value == pytest.approx(plain.value)
    assert copies.high - copies.low == pytest.approx(plain.high - plain.low, rel=0.02)
    values = np.repeat(x, 9)
    whole = mean(values, np.repeat(np.arange(100), 9))
    expected = scipy.stats.ttest_1samp(x, 0.0)
    assert (whole.low, whole.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert whole.p == pytest.approx(expected.pvalue)


def test_a_feature_that_hardly_varies_is_not_correlated():
    x = np.zeros((100, 2))
    x[:3, 1] = 1
    found = rank_correlations(x, np.random.default_rng(0).normal(size=(100, 1)), np.arange(100))
    assert [row[0].value for row in found.plain] == [None, None]


def test_within_clusters_removes_their_means():
    values = np.array([[0.1 + 0.2, 1], [0.3, 5], [7, 2]])
    found = within_clusters(values, np.array([4, 4, 9]))
    assert found.tolist() == [[0, -2], [0, 2], [0, 0]]


def test_false_discoveries_are_controlled_over_the_table():
    found = control_false_discoveries(
        [Estimate(0.1, p=p) for p in (0.001, 0.02, 0.04, 0.5)] + [Estimate(None)]
    )
    assert [one.found for one in found] == [True, True, False, False, None]


def test_text_of_an_estimate():
    assert Estimate(-0.304, -0.4, 0.1).text() == "−0.30 (−0.40 to 0.10)"
    assert Estimate(-0.001).text() == "0.00"
    assert Estimate(None).text() == "–"


def texts(n: int) -> list[PreferencePair]:
    draw = random.Random(1)

    def text() -> str:
        body = "word " * draw.randint(5, 40) + ("\n- item" * draw.choice([0, 0, 3]))
        return body + str(draw.random())

    rows = []
    for number in range(n):
        a, b = text(), text()
        first, second = (a, b) if (len(a) > len(b)) == (draw.random() < 0.6) else (b, a)
        prompt = ({"role": "user", "content": f"{'code' if number % 2 else 'chat'} {number}"},)
        rows.append(PreferencePair(prompt, first, second))
    return rows


def test_a_planted_bias_is_found_in_its_objective_and_gone_after_debiasing():
    scorer = PlantedScorer(
        {
            "long": lambda text: planted("length")(text) + 0.3 * noise("a")(text),
            "fair": noise("b"),
            "length": planted("length"),
        },
        {"": {"long": 1.0, "fair": 0.5}},
    )
    rows = texts(300)
    probes = probes_of(rows, [], [])
    scores = Probed.of(rows, probes, scorer.score(probes), scorer.objectives).scores
    transform = np.eye(3)
    transform[2] = [-1.0, 0.0, 0.0]
    groups = [row.prompt[0]["content"].split()[0] for row in rows]
    found = correlate(scores, [row.prompt[0]["content"] for row in rows], groups, transform)
    lengths = [len(text) for text in scores.texts]
    expected = scipy.stats.spearmanr(lengths, scores.score).statistic
    assert found.all.score["length"].value == pytest.approx(expected)
    assert found.within.score["length"].found
    assert found.within.before["length"]["long"].value > 0.6
    assert not found.within.before["length"]["fair"].found
    assert abs(found.within.after["length"]["long"].value) < 0.15
    assert found.within_given_length.score["length"].value is None
    assert found.all.score["headings"].value is None
    assert found.present["headings"] == 0
    assert set(found.groups) == {"chat", "code"}
    preferred = found.preferences["length"]
    by = [len(row.chosen) - len(row.rejected) for row in rows]
    longer = [one > 0 for one in by if one]
    assert preferred.labels.value == pytest.approx(np.mean(longer))
    assert preferred.reward.value > preferred.labels.value
    assert preferred.excess.value == pytest.approx(preferred.reward.value - np.mean(longer))
    assert preferred.excess.low < preferred.excess.value < preferred.excess.high
    assert found.figures()["length_correlation"] == found.all.score["length"]
