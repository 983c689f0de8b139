"""Detectors find what is planted, and little where nothing is."""

from __future__ import annotations

import itertools

from armorm.evaluation.audit import scorecard as module
from armorm.evaluation.audit.scorecard import decorated_pairs, scorecard


def test_length_is_found_where_it_is_planted():
    rows = list(itertools.islice(scorecard(corpora=4, pairs=80), 4))
    assert [(row.detector, row.strength) for row in rows] == [
        ("length, within prompts", strength) for strength in (0.0, 0.25, 0.5, 1.0)
    ]
    assert rows[0].alarms.value <= 0.25
    assert rows[-1].alarms.value == 1.0


def test_other_detectors_find_strong_biases():
    def corpus(seed):
        return decorated_pairs(seed, 400)

    assert module._changed(corpus, "praise", "flattery", 1, 2.0)
    assert module._probe(corpus, 1, 0.9)
    assert not module._probe(corpus, 1, 0.0)
    assert module._calibration(1, 1.5)
    assert not module._calibration(1, 0.0)
    assert module._differs(corpus, "code", 1, 8.0)
    assert not module._differs(corpus, None, 1, 8.0)


def test_decorations_are_the_same_for_the_same_seed():
    assert decorated_pairs(3, 20) == decorated_pairs(3, 20) != decorated_pairs(4, 20)
    texts = [text for pair in decorated_pairs(3, 100) for text in pair.responses]
    assert 0.15 < sum("## Answer" in text for text in texts) / 200 < 0.45
