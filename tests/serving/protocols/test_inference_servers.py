"""vLLM, SGLang, TEI, rerankers, ms-swift, NIM, LLaMA-Factory: their requests and what they read."""

from __future__ import annotations

import base64
import json

import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

from armorm import PreferencePair
from armorm.evaluation.scorers import ScorerOptions, open_scorer
from armorm.integrations.vllm_client import VllmClient
from armorm.serving import DrainingError, QueueFullError, Service, create_app
from tests.serving.protocols.samples import (
    HELLO,
    PROMPTS,
    TEXTS,
    close,
    rendered,
    scored,
    scores,
    vectors,
    whole,
)
from tests.tiny_models import OBJECTIVES, PROMPT

ASKED = PROMPT[0]["content"]
ANSWERS = ["Paris", "Lyon , very long answer", "ok"]


@pytest.fixture(scope="module")
def expected(model):
    return model.score_responses(PROMPT, ANSWERS).score.tolist()


# ----------------------------------------------------------------------------------- vLLM's routes


def test_this_packages_vllm_client(model, address):
    client = VllmClient(address)
    found = client.score([whole(*one) for one in zip(PROMPTS[:3], TEXTS[:3], strict=True)])
    assert [one.score for one in found] == close(scores(model)[:3])
    assert [[*one.rewards, *one.gating, one.score] for one in found] == [
        close(vector) for vector in vectors(model)[:3]
    ]
    ids = model.backbone.encoder.encode(PROMPT, ["Paris"]).sequences
    assert client.score_ids(ids)[0].score == close(scores(model, [PROMPT], ["Paris"])[0])


@pytest.mark.parametrize("route", ["", "/classify", "/pooling", "/score", "/get_reward"])
def test_the_benchmarks_scorer_of_served_models(model, tiny_folder, address, route):
    options = ScorerOptions(template=str(tiny_folder))
    pair = PreferencePair(tuple(PROMPT), "Paris", "Lyon , very long answer")
    [found] = open_scorer(address + route, options).score([pair])
    assert found.scores == close(tuple(scores(model, [PROMPT] * 2, [pair.chosen, pair.rejected])))


def test_ids_are_scored_where_the_boundary_is_certain(model, client):
    rows = [
        model.backbone.encoder.encode(prompt, [text]).sequences[0]
        for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    data = client.post("/classify", json={"input": rows}).json()["data"]
    assert [one["probs"] for one in data] == [close(vector) for vector in vectors(model)]
    one = client.post("/classify", json={"input": rows[0]}).json()["data"]
    assert one[0]["probs"] == close(vectors(model)[0])
    for ids, reason in (
        (rows[0][:3], "no end of a user turn"),
        ([*rows[0], 10**6], "not a token id"),
        ([-1, *rows[0]], "not a token id"),
    ):
        answer = client.post("/classify", json={"input": [rows[1], ids]})
        assert answer.status_code == 422
        assert reason in answer.json()["error"]["message"]
        assert answer.json()["error"]["message"].startswith("row 2")


def test_pooling_in_every_encoding(model, client):
    body = {"messages": whole(PROMPT, "Paris"), "task": "classify"}
    [vector] = vectors(model, [PROMPT], ["Paris"])
    floats = client.post("/pooling", json=body).json()["data"][0]
    assert (floats["object"], floats["data"]) == ("pooling", close(vector))
    for dtype, endianness in (("<f4", "little"), (">f4", "big"), ("<f2", "little")):
        options = {"embed_dtype": {"2": "float16", "4": "float32"}[dtype[-1]]}
        options["endianness"] = endianness
        tolerance = pytest.approx(vector, rel=2e-3 if dtype == "<f2" else 1e-5, abs=1e-3)
        sent = {**body, **options, "encoding_format": "base64"}
        found = client.post("/pooling", json=sent).json()["data"][0]["data"]
        assert np.frombuffer(base64.b64decode(found), dtype).tolist() == tolerance
        sent["encoding_format"] = "bytes"
        answer = client.post("/pooling", json=sent)
        place = json.loads(answer.headers["metadata"])["data"][0]
        numbers = np.frombuffer(answer.content[place["start"] : place["end"]], dtype)
        assert numbers.reshape(place["shape"]).tolist() == tolerance
    assert (
        "metadata"
        not in client.post("/pooling", json={**body, "encoding_format": "bytes_only"}).headers
    )


def test_openais_client_reads_embeddings(model, address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    (text,) = rendered([PROMPT], ["Paris"], "chatml")[1]
    found = client.embeddings.create(model="tiny", input=text)  # asks for base64
    assert found.data[0].embedding == close(vectors(model, [PROMPT], ["Paris"])[0])
    with pytest.raises(openai.UnprocessableEntityError, match="chat template"):
        client.embeddings.create(model="tiny", input="hello")


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/classify", {"use_activation": True}, "use_activation = True"),
        ("/classify", {"use_activation": 1}, "use_activation = 1"),
        ("/pooling", {"use_activation": "true"}, "use_activation = 'true'"),
        ("/classify", {"truncate_prompt_tokens": -1}, "truncate_prompt_tokens = -1"),
        ("/classify", {"chat_template": "x"}, "chat_template = 'x'"),
        ("/classify", {"add_generation_prompt": True}, "add_generation_prompt"),
        ("/classify", {"input": "x"}, "either input or messages"),
        ("/pooling", {"task": "token_classify"}, "task = 'token_classify'"),
        ("/pooling", {"dimensions": 3}, "dimensions = 3"),
        ("/v1/embeddings", {"encoding_format": "bytes"}, "encoding_format"),
        ("/v1/chat/completions", {"stream": True}, "stream = True"),
        ("/v1/chat/completions", {"n": 2}, "n = 2"),
    ],
)
def test_what_would_change_the_score_is_refused_by_name(client, path, body, reason):
    answer = client.post(path, json={"messages": whole(PROMPT, "Paris"), **body})
    assert answer.status_code == 422
    assert reason in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == 422


@pytest.mark.parametrize("path", ["/classify", "/predict", "/score", "/get_reward", "/rerank"])
def test_millions_of_wrong_items_are_one_error(client, path):
    wrong = [1.5] * 100_000
    body = {"input": wrong, "inputs": wrong, "query": wrong, "text_1": "a", "text_2": wrong}
    answer = client.post(path, json={**body, "documents": wrong})
    assert answer.status_code == 422
    assert len(answer.content) < 4000


def test_settings_that_change_nothing_are_ignored(model, client):
    body = {"messages": whole(PROMPT, "Paris"), "user": "me", "priority": 0, "padding": None}
    body |= {
        "use_activation": False,
        "truncate_prompt_tokens": None,
        "add_special_tokens": True,
        "cache_salt": "x",
    }
    found = client.post("/classify", json=body).json()["data"][0]["probs"]
    assert found == close(vectors(model, [PROMPT], ["Paris"])[0])


def test_vllms_score_in_each_of_its_forms(model, client, expected):
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        answer = client.post("/score", json={first: ASKED, second: ANSWERS}).json()
        assert [one["score"] for one in answer["data"]] == close(expected)
        assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    many = client.post("/score", json={"queries": [ASKED, "hello"], "items": ["Paris", "ok"]})
    assert [one["score"] for one in many.json()["data"]] == close(
        scores(model, [PROMPT, HELLO], ["Paris", "ok"])
    )
    wrong = client.post("/score", json={"text_1": ["a", "b"], "text_2": ["a", "b", "c"]})
    assert "as many as responses" in wrong.json()["error"]["message"]
    native = client.post("/v1/score", json={"text_1": ASKED, "text_2": ANSWERS})
    assert native.status_code == 422
    assert "post it to /score" in native.json()["error"]["message"]


class Busy:
    """Scorer that refuses every request."""

    def __init__(self, model, error):
        self.model = model
        self.error = error

    async def score(self, request):
        raise self.error


def test_a_queue_that_is_full_is_answered_as_each_client_expects(model):
    busy, stopping = QueueFullError("busy", 2.0), DrainingError("stopping", 2.0)
    for error, statuses in ((busy, (503, 429, 429, 503)), (stopping, (503, 503, 503, 503))):
        client = TestClient(create_app(Service(Busy(model, error))))
        answers = [
            client.post("/classify", json={"messages": whole(PROMPT, "ok")}),  # verl: 4xx is final
            client.post("/predict", json={"inputs": ["a", "b"]}),
            client.post("/rerank", json={"query": "a", "texts": ["b"]}),
            client.post("/rerank", json={"query": "a", "documents": ["b"]}),
        ]
        assert tuple(one.status_code for one in answers) == statuses
        assert all(one.headers["retry-after"] == "2" for one in answers)
        kind = {429: "overloaded", 503: "unhealthy"}
        for one in answers[1:3]:
            assert one.json()["error_type"] == kind[one.status_code]


# ------------------------------------------------------------------------------- TEI and rerankers


def test_teis_predict_in_each_of_its_forms(model, client, expected):
    pair = client.post("/predict", json={"inputs": [ASKED, "Paris"], "raw_scores": True}).json()
    assert pair == [{"score": close(expected[0]), "label": "score"}]
    (text,) = rendered([PROMPT], ["Paris"], "chatml")[1]
    assert client.post("/predict", json={"inputs": text}).json() == pair
    batch = [[text], *([ASKED, answer] for answer in ANSWERS)]
    found = client.post("/predict", json={"inputs": batch, "truncate": False}).json()
    assert [one[0]["score"] for one in found] == close([expected[0], *expected])
    parts = client.post("/predict?components=contributions", json={"inputs": [ASKED, "Paris"]})
    *objectives, last = parts.json()
    assert [one["label"] for one in objectives] == list(OBJECTIVES.names)
    assert sum(one["score"] for one in objectives) == close(last["score"])
    assert last["label"] == "score"


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/predict", {"inputs": [ASKED, "a"], "truncate": True}, "truncate = True"),
        ("/predict", {"inputs": [ASKED, "a"], "raw_scores": False}, "raw_scores = False"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "neither one text nor two"),
        ("/predict", {"inputs": [["a", "b"], ["x"]]}, "row 2"),
        ("/predict", {"inputs": []}, "neither one text nor two"),
        ("/predict", {"inputs": [[]]}, "neither one text nor two"),
        ("/rerank", {"query": "a", "texts": ["b"], "truncate": True}, "truncate = True"),
        ("/rerank", {"query": "", "texts": ["b"]}, "empty user message"),
    ],
)
def test_teis_errors(client, path, body, reason):
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
    assert answer.json()["error_type"] == "validation"


def test_teis_info(model, client):
    info = client.get("/info").json()
    assert info["model_id"] == "tiny"
    assert info["max_input_length"] == model.backbone.encoder.max_length
    assert info["auto_truncate"] is False


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerankers(client, expected, path):
    order = sorted(range(3), key=lambda i: -expected[i])
    body = {"model": "tiny", "query": ASKED, "documents": ANSWERS}
    found = client.post(path, json=body).json()["results"]
    assert [one["index"] for one in found] == order
    assert [one["relevance_score"] for one in found] == close([expected[i] for i in order])
    assert [one["document"]["text"] for one in found] == [ANSWERS[i] for i in order]
    best = client.post(path, json={**body, "top_n": 1}).json()["results"]
    assert [one["index"] for one in best] == order[:1]
    body = {"query": ASKED, "texts": ANSWERS, "return_text": True, "raw_scores": True}
    found = client.post(path, json=body).json()
    assert [one["index"] for one in found] == order
    assert [one["score"] for one in found] == close([expected[i] for i in order])
    assert [one["text"] for one in found] == [ANSWERS[i] for i in order]


# --------------------------------------------------------------------------------- chat completions


def test_chat_completions_hold_the_score(model, address):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    names = [one.id for one in client.models.list()]
    assert names == ["tiny", "tiny:contributions", "tiny:rewards"]
    [expected] = scored(model, [PROMPT], ["Paris"])
    messages = whole(PROMPT, "Paris")
    swift = client.chat.completions.create(model="tiny", messages=messages)
    assert float(swift.choices[0].message.content) == close(float(expected.score[0]))
    for component in ("contributions", "rewards"):
        nim = client.chat.completions.create(model=f"tiny:{component}", messages=messages)
        pairs = [pair.rsplit(":", 1) for pair in nim.choices[0].message.content.split(",")]
        assert [name for name, _ in pairs] == [*OBJECTIVES.names, "score"]
        numbers = [*getattr(expected, component)[0].tolist(), float(expected.score[0])]
        assert [float(value) for _, value in pairs] == close(numbers)
        read = {one.token: one.logprob for one in nim.choices[0].logprobs.content}
        assert list(read.values()) == close(numbers)
    with pytest.raises(openai.UnprocessableEntityError, match="does not end with the assistant"):
        client.chat.completions.create(model="tiny", messages=PROMPT)


def test_llamafactorys_evaluation(model, client):
    _, queries = rendered(PROMPTS, TEXTS, "chatml")
    answer = client.post("/v1/score/evaluation", json={"model": "m", "messages": queries})
    assert answer.json()["scores"] == close(scores(model))
    refused = client.post("/v1/score/evaluation", json={"messages": queries, "max_length": 9})
    assert "max_length = 9" in refused.json()["error"]["message"]
