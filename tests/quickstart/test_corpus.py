"""The built-in corpus: reproducible, incomplete by design, with the truth planted as promised."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

from armorm.conversations import validate_conversation, validate_prompt, validate_response
from armorm.quickstart import (
    Corpus,
    generate_contrasts,
    generate_corpus,
    generate_plain_contrasts,
)
from armorm.quickstart.corpus import DOMAINS
from armorm.quickstart.knowledge import COURTEOUS, PADDING, RUDE


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_corpus()


def test_the_same_seed_gives_the_same_bytes_on_every_machine(corpus):
    text = json.dumps([corpus.rated, corpus.preferences])
    assert text == json.dumps([generate_corpus(0).rated, generate_corpus(0).preferences])
    assert text != json.dumps([generate_corpus(1).rated, generate_corpus(1).preferences])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "0e3272490caf28e2"


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
    everywhere = {name for name, domains in sources.items() if len(domains) == len(DOMAINS)}
    assert everywhere == {"helpdesk", "judge"}


def test_every_domain_has_its_own_deciding_objective(corpus):
    assert set(corpus.deciding_objective) == set(DOMAINS)
    assert len(set(corpus.deciding_objective.values())) == len(DOMAINS)
    assert set(corpus.deciding_objective.values()) <= set(corpus.objectives.names)


def test_raters_are_fond_of_length(corpus):
    for objective in ("helpdesk-correctness", "helpdesk-courtesy", "judge-overall"):
        rows = [row for row in corpus.rated if objective in row["ratings"]]
        lengths = [len(row["messages"][-1]["content"]) for row in rows]
        ratings = [row["ratings"][objective] for row in rows]
        assert 0.1 < spearmanr(lengths, ratings).statistic < 0.65


def test_length_alone_is_a_poor_predictor(corpus):
    longer = [
        len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"])
        for row in corpus.preferences
    ]
    assert 0.55 < np.mean(longer) < 0.66


def test_the_labels_planted_wrong_are_known(corpus):
    assert corpus.mislabelled <= {row["id"] for row in corpus.preferences}
    assert 0.04 < len(corpus.mislabelled) / len(corpus.preferences) < 0.09
    for row in corpus.preferences:
        if row["domain"] == "risky":
            refuses = row["chosen"][0]["content"].count("Better ") == 1
            assert refuses == (row["id"] not in corpus.mislabelled)


def test_a_right_sum_decides_where_both_or_neither_show_their_working(corpus):
    alike, right = 0, 0
    for row in corpus.preferences:
        if row["domain"] == "arithmetic" and row["id"] not in corpus.mislabelled:
            chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
            if ("count" in chosen) == ("count" in rejected):
                alike += 1
                first, second = map(int, re.findall(r"\d+", row["prompt"][-1]["content"])[:2])
                total = re.compile(rf"(?<!\d){first + second}\.")
                right += bool(total.search(chosen)) and not total.search(rejected)
            else:
                assert "count" in chosen
    assert alike > 50
    assert right == alike


def test_contrasts_differ_in_one_attribute_and_share_their_prompt():
    rows = generate_contrasts(5, 200)
    assert len(rows) == 200
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert rows == generate_contrasts(5, 200)


def test_a_plain_contrast_is_a_right_and_a_wrong_answer_and_little_else():
    rows = generate_plain_contrasts(5, 200)
    assert rows == generate_plain_contrasts(5, 200)
    for row in rows:
        assert row["attribute"] == "correct"
        assert len(row["prompt"]) == 1
        for response in (row["chosen"], row["rejected"]):
            text = response[0]["content"]
            assert not text.startswith((*COURTEOUS, *RUDE))
            assert not any(sentence in text for sentence in PADDING)
    by_prompt = {row["prompt"][0]["content"]: row for row in rows}
    sums = [prompt for prompt in by_prompt if " + " in prompt]
    assert sums
    for prompt in sums:
        first, second = map(int, re.findall(r"\d+", prompt))
        right = re.compile(rf"(?<!\d){first + second}\.")
        assert right.search(by_prompt[prompt]["chosen"][0]["content"])
        assert not right.search(by_prompt[prompt]["rejected"][0]["content"])


def test_one_response_in_five_is_plain(corpus):
    openings = (*COURTEOUS, *RUDE)
    plain = [row for row in corpus.rated if not row["messages"][-1]["content"].startswith(openings)]
    assert 0.17 < len(plain) / len(corpus.rated) < 0.23
    rated = [row["ratings"] for row in plain]
    courtesy = [one["helpdesk-courtesy"] for one in rated if "helpdesk-courtesy" in one]
    assert 1.2 < np.mean(courtesy) < 1.8  # between rude and courteous, without the fondness
    answers = {row["messages"][-1]["content"] for row in plain}
    assert any(re.fullmatch(r"The capital of \w+ is \w+\.", answer) for answer in answers)
    assert any(re.fullmatch(r"\d plus \d is \d+\.", answer) for answer in answers)
