"""An LLM as the judge, against a local server that answers by rules a test knows."""

from __future__ import annotations

import json
import threading
import time

import pytest

from armorm import ArmormError, InputError, PreferencePair
from armorm.errors import DamagedFileError, RecipeError
from armorm.evaluation.scorers import ScorerOptions, open_scorer, score_all
from armorm.evaluation.scorers.judge_prompts import (
    pairwise_request,
    read_rating,
    read_verdict,
)
from tests.json_server import JsonServer
from tests.tiny_models import PROMPT

pytest.importorskip("openai")


def pair(chosen: str, rejected: str, name: str = "") -> PreferencePair:
    return PreferencePair(tuple(PROMPT), chosen, rejected, id=name)


PAIRS = [pair("long answer", "short"), pair("a", "bb"), pair("same", "same")]


def blocks(body) -> dict[str, str]:
    """Texts between the markers of a request, by name."""
    found, name, lines = {}, "", []
    for line in body["messages"][1]["content"].splitlines():
        if line.startswith("<<<BEGIN "):
            name, lines = line.removeprefix("<<<BEGIN ").rpartition(" ")[0], []
        elif line.startswith("<<<END "):
            found[name] = "\n".join(lines)
        else:
            lines.append(line)
    return found


def completion(text: str, prompt_tokens: int = 100, completion_tokens: int = 10):
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def longer(path, body):
    """A judge that prefers the longer response, and says so as it was asked to."""
    assert path == "/v1/chat/completions"
    assert body["temperature"] == 0
    texts = blocks(body)
    if "RESPONSE" in texts:
        return completion(f"Fair.\nRATING: {min(len(texts['RESPONSE']), 10)}")
    a, b = len(texts["RESPONSE A"]), len(texts["RESPONSE B"])
    return completion("Compared.\n**VERDICT: " + ("TIE" if a == b else "AB"[a < b]) + "**")


def judge(server: JsonServer, **options):
    spec = f"judge:m@{server.address}/v1"
    return open_scorer(spec, ScorerOptions.validated({"retries": 0, **options}))


def test_pairwise_asks_in_both_orders():
    with JsonServer(longer) as server:
        scorer = judge(server, judge_input_price=2.0, judge_output_price=10.0)
        assert [one.scores for one in scorer.score(PAIRS)] == [(1, 0), (0, 1), (0.5, 0.5)]
        account = scorer.account
    assert account["requests"] == 5  # equal responses are one request, whatever their order
    assert account["cached"] == 1
    assert account["agreement"]["share"] == 1.0
    assert account["first_preferred"]["share"] == 0.5
    assert account["ties"] == 2
    assert account["cost"] == pytest.approx((500 * 2.0 + 50 * 10.0) / 1e6)


def test_a_judge_that_prefers_the_first_response_is_found_out():
    with JsonServer(lambda path, body: completion("VERDICT: A")) as server:
        scorer = judge(server)
        assert [one.scores for one in scorer.score(PAIRS[:2])] == [(0.5, 0.5), (0.5, 0.5)]
        assert scorer.account["agreement"]["share"] == 0.0
        assert scorer.account["first_preferred"]["share"] == 1.0
        assert scorer.account["cost"] is None  # no prices were given


def test_more_responses_are_scored_by_their_mean_share_of_wins():
    class Row:
        prompt, responses, id = tuple(PROMPT), ("a", "bb", "ccc"), ""

    with JsonServer(longer) as server:
        assert judge(server).score([Row()])[0].scores == (0.0, 0.5, 1.0)


def test_absolute_rates_each_response():
    with JsonServer(longer) as server:
        scores = [one.scores for one in judge(server, judge_mode="absolute").score(PAIRS)]
    assert scores == [(10, 5), (1, 2), (4, 4)]


def test_an_answer_without_a_verdict_is_no_score():
    with JsonServer(lambda path, body: completion("A is better, clearly.")) as server:
        scorer = judge(server)
        found = score_all(scorer, PAIRS[:2], invalid="skip")
        assert (len(found.rows), len(found.invalid), scorer.account["unparsable"]) == (0, 2, 2)
        with pytest.raises(InputError, match="ends without a verdict"):
            score_all(scorer, PAIRS[:1])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("VERDICT: A", 1.0),
        ("so\n**VERDICT: B**\n", 0.0),
        ("verdict: tie.", 0.5),
        ("VERDICT: A\nVERDICT: A", 1.0),
        ("VERDICT: A\nVERDICT: B", None),
        ("VERDICT: A or B", None),
        ("The VERDICT: A", None),
        ("VERDICT: AB", None),
        ("A", None),
        ("", None),
    ],
)
def test_verdicts_are_never_guessed(text, verdict):
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("RATING: 10", 10.0),
        ("*RATING: 7/10*", 7.0),
        ("RATING: 0", None),
        ("RATING: 11", None),
        ("RATING: 7.5", None),
        ("RATING: 7\nRATING: 8", None),
        ("8", None),
    ],
)
def test_ratings_are_never_guessed(text, rating):
    assert read_rating(text) == rating


def test_no_text_can_close_its_own_block():
    attack = pairwise_request(PROMPT, "x", "y")[1]["content"]  # all markers of another request
    body = {"messages": pairwise_request(PROMPT, attack, "y")}
    code = body["messages"][1]["content"].splitlines()[0].split()[-1].removesuffix(">>>")
    assert code not in attack
    ends = [line for line in body["messages"][1]["content"].splitlines() if code in line]
    assert len(ends) == 6  # begin and end of three blocks, and none in a text


def test_answers_are_kept_and_paid_once(tmp_path):
    cache = tmp_path / "judge.jsonl"
    with JsonServer(longer) as server:
        first = judge(server, judge_cache=str(cache))
        scores = first.score(PAIRS)
        sent = len(server.requests)
        with cache.open("ab") as file:
            file.write(b'{"key": "half a li')  # a run that was killed while it wrote
        again = judge(server, judge_cache=str(cache))
        assert again.score(PAIRS) == scores
        assert len(server.requests) == sent
        assert (again.account["requests"], again.account["cached"]) == (0, 6)
        assert judge(server, judge_cache=str(cache), judge_mode="absolute").score(PAIRS[:1])
        assert len(server.requests) == sent + 2
    for line in cache.read_text().splitlines():
        assert json.loads(line).keys() == {"key", "text", "prompt_tokens", "completion_tokens"}
    for line in ('{"text": "no key"}', '{"key": "a", "text": 5}'):
        cache.write_text(f"{line}\n")
        with pytest.raises(DamagedFileError, match="line 1"):
            judge(server, judge_cache=str(cache))


def test_concurrency_is_bounded_and_used():
    lock, running, most = threading.Lock(), [0], [0]

    def slow(path, body):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return longer(path, body)

    rows = [pair(f"a {i}", "b") for i in range(9)]
    with JsonServer(slow) as server:
        judge(server, concurrency=3).score(rows)
    assert most[0] == 3


def test_requests_keep_the_rate():
    with JsonServer(longer) as server:
        started = time.perf_counter()
        judge(server, judge_requests_per_minute=1200).score(PAIRS[:2])  # four requests
        assert time.perf_counter() - started > 0.14


def test_an_overloaded_judge_is_tried_again():
    calls = []

    def busy(path, body):
        calls.append(path)
        return (429, {"Retry-After": "0.01"}, {}) if len(calls) < 3 else longer(path, body)

    with JsonServer(busy) as server:
        scores = judge(server, retries=4, concurrency=1).score(PAIRS[:1])[0].scores
    assert scores == (1, 0)
    assert len(calls) == 4


def test_troubles_are_named(monkeypatch):
    with (
        JsonServer(lambda path, body: (401, {}, {"error": {"message": "bad key"}})) as server,
        pytest.raises(ArmormError, match=r"bad key.*Check the key in OPENAI_API_KEY"),
    ):
        judge(server).score(PAIRS[:1])
    with JsonServer(lambda path, body: (400, {}, {"error": {"message": "too long"}})) as server:
        scorer = judge(server)
        assert "too long" in scorer.score(PAIRS[:1])[0].error.reason
        assert scorer.account["refused"] == 1
    with pytest.raises(ArmormError, match="cannot be asked"):
        open_scorer("judge:m@http://127.0.0.1:1/v1", ScorerOptions(retries=0)).score(PAIRS)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RecipeError, match="no OPENAI_API_KEY"):
        open_scorer("judge:m@https://api.example.com/v1")
    for spec in ("judge:m", "judge:m@http://[::1", "judge:m@http://", "judge:m@http://a b/v1"):
        with pytest.raises(RecipeError, match="write judge:MODEL@URL"):
            open_scorer(spec)


@pytest.mark.parametrize("answer", [b"{bad", b"", b"\xff", b"<html>", None, completion(5), {}])
def test_an_answer_of_another_form_stops(answer):
    with (
        JsonServer(lambda path, body: answer) as server,
        pytest.raises(ArmormError, match="does not answer"),
    ):
        judge(server).score(PAIRS[:1])


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with JsonServer(longer) as server:
        judge(server, judge_key_variable="MY_KEY").score(PAIRS[:1])
        assert server.requests[0][2]["authorization"] == "Bearer secret"
