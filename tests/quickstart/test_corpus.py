"""The built-in corpus: reproducible, incomplete by design, with the truth planted as promised."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

from armorm.conversations import validate_conversation, validate_prompt, validate_response
from armorm.quickstart import Corpus, generate_contrasts, generate_corpus
from armorm.quickstart.corpus import DOMAINS


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_corpus()


def test_the_same_seed_gives_the_same_bytes_on_every_machine(corpus):
    text = json.dumps([corpus.rated, corpus.preferences])
    assert text == json.dumps([generate_corpus(0).rated, generate_corpus(0).preferences])
    assert text != json.dumps([generate_corpus(1).rated, generate_corpus(1).preferences])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4292e346af537e8f"


def test_every_row_is_valid(corpus):
    for row in corpus.rated:
        validate_conversation(row["messages"])
        assert corpus.objectives.validate_ratings(row["ratings"])
    for row in corpus.preferences:
        validate_prompt(row["prompt"])
        assert validate_response(row["chosen"]) != validate_response(row["rejected"])
    ids = [row["id"] for row in [*corpus.rated, *corpus.preferences]]
    assert len(set(ids)) == len(ids)


def test_labels_are_missing_by_design(corpus):
    patterns = Counter(tuple(sorted(row["ratings"])) for row in corpus.rated)
    assert len(patterns) >= 5
    for objective in corpus.objectives.names:
        share = np.mean([objective in row["ratings"] for row in corpus.rated])
        assert 0.05 < share < 0.5
    sources = {row["source"]: set() for row in corpus.rated}
    for row in corpus.rated:
        sources[row["source"]].add(row["domain"])
    assert all(len(domains) < len(DOMAINS) for name, domains in sources.items() if name != "judge")


def test_every_domain_has_its_own_deciding_objective(corpus):
    assert set(corpus.deciding_objective) == set(DOMAINS)
    assert len(set(corpus.deciding_objective.values())) == len(DOMAINS)
    assert set(corpus.deciding_objective.values()) <= set(corpus.objectives.names)


def test_raters_are_fond_of_length(corpus):
    for objective in ("helpdesk-correctness", "helpdesk-courtesy", "judge-overall"):
        rows = [row for row in corpus.rated if objective in row["ratings"]]
        lengths = [len(row["messages"][-1]["content"]) for row in rows]
        ratings = [row["ratings"][objective] for row in rows]
        assert 0.1 < spearmanr(lengths, ratings).statistic < 0.6


def test_length_alone_is_a_poor_predictor(corpus):
    longer = [
        len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"])
        for row in corpus.preferences
    ]
    assert 0.55 < np.mean(longer) < 0.66


def test_contrasts_differ_in_one_attribute_and_share_their_prompt():
    rows = generate_contrasts(5, 200)
    assert len(rows) == 200
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert rows == generate_contrasts(5, 200)
