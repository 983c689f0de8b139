"""Reward functions and candidate files as the tools on the other side call and read them."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from armorm import InputError, RewardModel
from armorm.cli import app
from armorm.conversations.markup import parse_prompt, parse_response
from armorm.errors import RecipeError
from armorm.integrations import (
    annotate_file,
    best_of_file,
    choose_pair,
    drift_reporter,
    nemo_rl_rewards,
    openrlhf_answer,
    openrlhf_reward_func,
    trl_reward_funcs,
    verl_batch_compute_score,
    verl_compute_score,
    verl_row,
    write_pairs,
)
from armorm.integrations.completions import CompletionScorer
from tests.commands import invoke, write
from tests.tiny import TEMPLATES, tiny_tokenizer
from tests.tiny_models import PROMPT, conversation, make_heads

EXAMPLES = Path(__file__).parents[2] / "examples"
HELLO = [{"role": "user", "content": "hello"}]
PROMPTS = [PROMPT, HELLO, PROMPT, HELLO]
TEXTS = ["Paris", "yes , ok", "Lyon , very long answer", ""]


def load_example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def model_folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("integrations") / "model"
    model.save_pretrained(folder)
    return folder


def expected_scores(model, prompts=PROMPTS, texts=TEXTS) -> list[float]:
    encode = model.backbone.encoder.encode
    return [
        float(model.score_encoded([encode(prompt, [text])]).score[0])
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def as_completions(texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def close(expected):
    return pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_threads_that_share_a_scorer_get_the_scores_of_their_own_batch(model):
    batches = [
        ([PROMPT], ["Paris"]),
        (PROMPTS, TEXTS),
        (PROMPTS[::-1], TEXTS),
        ([PROMPT, HELLO], ["one " * 400, "yes"]),  # the first is too long
        ([], []),
    ]
    expected = [CompletionScorer(model)(*batch) for batch in batches]
    scorer = CompletionScorer(model)
    calls = [random.Random(i).randrange(len(batches)) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: scorer(*batches[i]), calls))
    for i, scored in zip(calls, found, strict=True):
        assert scored.scores() == [
            None if score is None else close(score) for score in expected[i].scores()
        ]
        assert scored.refused.keys() == expected[i].refused.keys()


# ------------------------------------------------------------------------------------------- TRL


def test_trl_rewards_are_the_scores_in_order(model):
    (reward,) = trl_reward_funcs(model)
    assert reward.__name__ == "armorm"
    options = {"completion_ids": [[1]] * 4, "trainer_state": None}
    conversational = reward(prompts=PROMPTS, completions=as_completions(TEXTS), **options)
    assert conversational == close(expected_scores(model))
    texts = [prompt[0]["content"] for prompt in PROMPTS]
    assert reward(prompts=texts, completions=TEXTS, **options) == close(expected_scores(model))


def test_trl_metrics_name_what_each_objective_adds(model):
    logged = {}
    (reward,) = trl_reward_funcs(model)
    scores = reward(prompts=PROMPTS, completions=TEXTS, log_metric=logged.__setitem__)
    parts = [logged[f"armorm/{name}"] for name in model.objectives.names]
    assert sum(parts) == close(sum(scores) / 4)
    assert logged["armorm/too_long"] == 0


def test_trl_per_objective_functions_share_one_forward_pass(model, monkeypatch):
    functions = trl_reward_funcs(model, components="contributions")
    assert [f.__name__ for f in functions] == list(model.objectives.names)
    expected = expected_scores(model)
    calls = []
    run = RewardModel.predict
    monkeypatch.setattr(
        RewardModel, "predict", lambda self, *a, **o: calls.append(1) or run(self, *a, **o)
    )
    columns = [f(prompts=PROMPTS, completions=TEXTS) for f in functions]
    assert len(calls) == 1
    assert [sum(row) for row in zip(*columns, strict=True)] == close(expected)
    functions[0](prompts=PROMPTS[:2], completions=TEXTS[:2])
    assert len(calls) == 2


def test_trl_per_objective_rewards_can_be_the_regressed_ones(model):
    functions = trl_reward_funcs(model, components="rewards")
    expected = model.score([conversation("Paris")]).rewards[0].tolist()
    assert [f(prompts=[PROMPT], completions=["Paris"])[0] for f in functions] == close(expected)


def test_trl_steering_changes_the_reward(model):
    steered = model.steer(dict.fromkeys(model.objectives.names, 0.0))
    assert trl_reward_funcs(steered)[0](prompts=[PROMPT], completions=["Paris"]) == [0.0]


def test_trl_too_long_completions_have_no_reward_and_are_counted(model):
    logged = {}
    (reward,) = trl_reward_funcs(model)
    found = reward(
        prompts=[PROMPT, PROMPT], completions=["one " * 400, "Paris"], log_metric=logged.__setitem__
    )
    assert found[0] is None
    assert found[1] == close(expected_scores(model, [PROMPT], ["Paris"])[0])
    assert logged["armorm/too_long"] == 1
    functions = trl_reward_funcs(model, components="contributions")
    assert functions[0](prompts=[PROMPT], completions=["one " * 400]) == [None]


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ([], "ok", "row 1: prompt"),
        (PROMPT, 3, "row 1: completion"),
        (PROMPT, [{"role": "user", "content": "x"}], "row 1: completion"),
    ],
)
def test_what_cannot_be_scored_is_named(model, prompt, completion, message):
    with pytest.raises(InputError, match=message):
        trl_reward_funcs(model)[0](prompts=[prompt], completions=[completion])


# --------------------------------------------------------------------------------------- OpenRLHF


def rendered(prompts, texts, template):
    """Prompts and queries as a policy with this template hands them over."""
    tokenizer = tiny_tokenizer(TEMPLATES[template])
    options = {"tokenize": False, "add_generation_prompt": True}
    asked = [tokenizer.apply_chat_template(prompt, **options) for prompt in prompts]
    answers = [f"{text}{tokenizer.eos_token}" for text in texts]
    return asked, [a + b for a, b in zip(asked, answers, strict=True)]


@pytest.mark.parametrize("template", ["llama3", "chatml", "gemma"])
def test_openrlhf_answers_whatever_template_the_policy_has(model, template):
    prompts, queries = rendered(PROMPTS, TEXTS, template)
    answer = openrlhf_answer(model)({"query": queries, "prompts": prompts, "labels": [None] * 4})
    assert answer["rewards"] == answer["scores"] == close(expected_scores(model))
    parts = zip(*answer["extra_logs"].values(), strict=True)
    assert [sum(part) for part in parts] == close(answer["rewards"])
    json.dumps(answer, allow_nan=False)


def test_openrlhf_reward_file_answers_tensors(model_folder, model, monkeypatch):
    monkeypatch.setenv("ARMORM_MODEL", str(model_folder))
    reward_func = load_example("openrlhf_reward").reward_func
    prompts, queries = rendered(PROMPTS, TEXTS, "chatml")
    found = reward_func(queries, prompts, [None] * 4)
    assert found["rewards"].shape == (4,)
    assert found["rewards"].tolist() == close(expected_scores(model))
    assert set(found["extra_logs"]) == set(model.objectives.names)


def test_openrlhf_server_speaks_the_protocol(model_folder, model):
    server = load_example("openrlhf_server").make_server([str(model_folder), "--port", "0"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/get_reward"

    def post(body: dict):
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    prompts, queries = rendered(PROMPTS[:1], TEXTS[:1], "llama3")
    try:
        answer = post({"query": queries, "prompts": prompts, "labels": [None]})
        assert answer["rewards"] == close(expected_scores(model)[:1])
        with pytest.raises(urllib.error.HTTPError, match="422") as refused:
            post({"query": ["no markup"], "prompts": ["no"], "labels": [None]})
        assert "Known: Llama 3, ChatML" in json.load(refused.value)["error"]
    finally:
        server.shutdown()
        server.server_close()


def test_openrlhf_refuses_what_it_would_have_to_guess(model):
    reward = openrlhf_reward_func(model)
    prompts, queries = rendered([PROMPT], ["one " * 400], "chatml")
    with pytest.raises(InputError, match="longer than 256 tokens"):
        reward(queries, prompts)
    with pytest.raises(InputError, match="does not begin with its prompt"):
        reward(["other"], prompts)
    with pytest.raises(InputError, match="there are 1 queries"):
        reward(queries, [])
    with pytest.raises(InputError, match="not a list of texts"):
        openrlhf_answer(model)({"query": [3], "prompts": prompts})


def test_prompts_of_several_turns_are_taken_apart():
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "what is a b c ?"},
    ]
    for template in ("llama3", "chatml", "gemma"):
        (prompt,), _ = rendered([turns], ["ok"], template)
        assert parse_prompt(prompt) == turns
    assert parse_prompt("<|user|>\nhello<|end|>\n<|assistant|>\n") == HELLO
    assert parse_response("Paris<|im_end|>\n<|endoftext|>") == "Paris"
    with pytest.raises(InputError, match="does not end with a user turn"):
        parse_prompt("<|im_start|>assistant\nhello<|im_end|>\n")


# ---------------------------------------------------------------------------------- verl, NeMo-RL


def test_verl_scores_with_the_prompt_from_extra_info(model_folder, model, monkeypatch):
    monkeypatch.setenv("ARMORM_MODEL", str(model_folder))
    example = load_example("verl_reward")
    rows = [verl_row({"prompt": prompt, "extra_info": {"index": 3}}) for prompt in PROMPTS]
    assert rows[0]["extra_info"]["index"] == 3
    expected = expected_scores(model)
    one = example.compute_score(
        data_source=rows[0]["data_source"],
        solution_str=TEXTS[0],
        ground_truth="",
        extra_info=rows[0]["extra_info"],
        reward_router_address=None,
    )
    assert one["score"] == close(expected[0])
    assert sum(one[name] for name in model.objectives.names) == close(expected[0])
    many = example.compute_scores(
        data_sources=["armorm"] * 4,
        solution_strs=TEXTS,
        ground_truths=[""] * 4,
        extra_infos=[row["extra_info"] for row in rows],
    )
    assert [row["score"] for row in many] == close(expected)


def test_verl_says_where_the_prompt_should_be(model):
    compute_score = verl_compute_score(model, components=None)
    found = compute_score("x", "Paris", "", {"prompt": PROMPT})
    assert set(found) == {"score"}
    with pytest.raises(InputError, match="verl_row"):
        compute_score("x", "Paris", "", {})
    with pytest.raises(InputError, match=r"row 2.*longer than"):
        verl_batch_compute_score(model)(
            solution_strs=["ok", "one " * 400], extra_infos=[{"prompt": PROMPT}] * 2
        )


def test_trainers_give_their_batches_to_a_drift_monitor(model):
    logged = {}
    with drift_reporter(model) as reporter:
        (reward,) = trl_reward_funcs(model, monitor=reporter)
        for _ in range(2):  # the same batch is one step
            reward(prompts=PROMPTS, completions=TEXTS, log_metric=logged.__setitem__)
        assert (reporter.monitor.steps, reporter.counts.responses) == (1, 4)
        assert logged["armorm/drift_alarms"] == 0
        assert logged["armorm/drift/score"] == pytest.approx(0, abs=1e-9)
        infos = [{"prompt": prompt} for prompt in PROMPTS]
        scores = verl_batch_compute_score(model, monitor=reporter)(
            solution_strs=TEXTS, extra_infos=infos
        )
        assert scores[0]["drift_alarms"] == 0
        one = verl_compute_score(model, monitor=reporter)
        one("x", "Paris", "", {"prompt": PROMPT})
    assert reporter.monitor.steps == 3  # what was left of a step is taken at the end
    assert reporter.counts.responses == 9


def test_nemo_rl_components_sum_to_the_score(model_folder, model):
    environment = load_example("nemo_rl_environment").ArmoRMEnvironment(str(model_folder))
    logs = [
        [*prompt, {"role": "assistant", "content": text, "token_ids": torch.tensor([1])}]
        for prompt, text in zip(PROMPTS, TEXTS, strict=True)
    ]
    answer = environment.step(logs, [{}] * 4)
    assert set(answer["rewards"]) == {f"reward/{name}" for name in model.objectives.names}
    total = sum(answer["rewards"].values())
    assert total.tolist() == close(expected_scores(model))
    assert answer["terminateds"].all()
    assert nemo_rl_rewards(model, None)(logs).tolist() == close(expected_scores(model))


# ---------------------------------------------------------------------------------- candidate files


CANDIDATES = [
    {"prompt": PROMPT, "responses": ["Paris", "Lyon", "ok , yes"], "idx": 7},
    {"prompt": "hello", "responses": ["yes", ""]},
]


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.open()]


def test_annotate_writes_online_rlhf_rows_with_objectives(model, model_folder, tmp_path):
    source, output = write(tmp_path / "in.jsonl", CANDIDATES), tmp_path / "out.jsonl"
    summary = json.loads(invoke("annotate", model_folder, source, "-o", output, "--json"))
    assert (summary["rows"], summary["scored"]) == (2, 2)
    rows = read(output)
    assert rows[0]["idx"] == 7
    assert rows[0]["responses"] == CANDIDATES[0]["responses"]
    assert rows[0]["rewards"] == close(expected_scores(model, [PROMPT] * 3, rows[0]["responses"]))
    for row in rows:
        for i, reward in enumerate(row["rewards"]):
            parts = (row["coefficients"][n] * r[i] for n, r in row["objective_rewards"].items())
            assert sum(parts) == close(reward)
    annotate_file(model, source, tmp_path / "short.jsonl", objectives=False)
    assert set(read(tmp_path / "short.jsonl")[0]) == {"prompt", "responses", "idx", "rewards"}


def test_an_interrupted_annotation_goes_on(model, tmp_path):
    rows = [{"prompt": "hello", "responses": ["yes", "no"], "n": n} for n in range(40)]
    rows[25] = "{"
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="row 26"):
        annotate_file(model, source, output, rows_at_once=10)
    assert not output.exists()
    summary = annotate_file(model, source, output, rows_at_once=10, skip_invalid=True)
    assert summary.resumed_at == 20
    assert [row["n"] for row in read(output)] == [n for n in range(40) if n != 25]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hello"}, "responses"),
        ({"prompt": "hello", "responses": []}, "not a list of responses"),
        ({"prompt": "hello", "responses": ["ok", 3]}, r"responses\[1\]"),
        ({"prompt": "hello", "responses": ["ok", "\ud800"]}, r"responses\[1\].*half a character"),
        ({"responses": ["ok"]}, "prompt"),
        ({"prompt": "hello", "responses": ["ok", "one " * 400]}, "the model reads 256"),
    ],
)
def test_bad_candidates_are_named(model, tmp_path, row, message):
    source = write(tmp_path / "in.jsonl", [row])
    with pytest.raises(InputError, match=message):
        annotate_file(model, source, tmp_path / "out.jsonl")


def test_best_of_keeps_the_best_as_a_conversation(model, model_folder, tmp_path):
    source, output = write(tmp_path / "in.jsonl", CANDIDATES), tmp_path / "out.jsonl"
    invoke("best-of", model_folder, source, "-o", output)
    for row, given in zip(read(output), CANDIDATES, strict=True):
        prompt = given["prompt"] if isinstance(given["prompt"], list) else HELLO
        scores = expected_scores(model, [prompt] * len(given["responses"]), given["responses"])
        best = max(range(len(scores)), key=scores.__getitem__)
        assert row["best"] == best
        assert row["score"] == close(scores[best])
        answer = {"role": "assistant", "content": given["responses"][best]}
        assert row["messages"] == [*prompt, answer]
    best_of_file(model, source, tmp_path / "ranked.jsonl", keep=2)
    ranked = read(tmp_path / "ranked.jsonl")[0]["ranked"]
    assert len(ranked) == 2
    assert ranked[0]["score"] >= ranked[1]["score"]


def test_best_of_prefers_what_reaches_the_floors(model, model_folder, tmp_path):
    source = write(tmp_path / "in.jsonl", CANDIDATES)
    name = model.objectives.names[0]
    responses = CANDIDATES[0]["responses"]
    scored = model.score_responses(PROMPT, responses)
    column = scored.rewards[:, 0]
    for position, floor in enumerate(column.tolist()):
        output = tmp_path / f"{position}.jsonl"
        invoke("best-of", model_folder, source, "-o", output, "--floor", f"{name}={floor - 1e-4}")
        row = read(output)[0]
        reaching = [i for i in range(3) if column[i] >= floor - 1e-4]
        assert row["best"] == max(reaching, key=lambda i: float(scored.score[i]))
        assert row["floors"] == {name: pytest.approx(floor - 1e-4)}
        assert row["meets_floors"] is True
    output = tmp_path / "none.jsonl"
    best_of_file(model, source, output, keep=3, floors={name: 1e6})
    row = read(output)[0]
    assert (row["best"], row["meets_floors"]) == (int(scored.score.argmax()), False)
    assert [one["position"] for one in row["ranked"]] == scored.ranking()


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        (["helpfulnes=1"], "floors = 'helpfulnes': not an objective of the model"),
        (["a=1", "a=2"], "--floor a=2: a has the floor 1 already"),
        (["a"], "--floor a: write it as objective=number"),
        (["a=nan"], "--floor a=nan: write it as objective=number"),
        (["=1"], "--floor =1: write it as objective=number"),
    ],
)
def test_floors_that_cannot_be_used_are_refused_before_any_row(
    model_folder, tmp_path, floors, message
):
    source, output = write(tmp_path / "in.jsonl", CANDIDATES), tmp_path / "out.jsonl"
    arguments = [argument for floor in floors for argument in ("--floor", floor)]
    result = CliRunner().invoke(
        app, ["best-of", str(model_folder), str(source), "-o", str(output), *arguments]
    )
    assert isinstance(result.exception, RecipeError)
    assert message in str(result.exception)
    assert {file.name for file in tmp_path.iterdir()} == {"in.jsonl"}


ANNOTATED = [
    {"prompt": PROMPT, "responses": ["a", "b" * 100, "c", "d"], "rewards": [0.1, 0.9, 0.5, 0.3]},
    {"prompt": "hello", "responses": ["x", "y"], "rewards": [0.2, 0.2]},
    {"prompt": "hello", "responses": ["x", "y"], "rewards": [0.2, 0.25]},
    {"prompt": "hello", "responses": ["x"], "rewards": [0.2]},
]


@pytest.mark.parametrize(
    ("choose", "extra", "chosen", "rejected"),
    [
        ("max_min", [], "b" * 100, "a"),
        ("max_max", [], "b" * 100, "c"),
        ("max_random", [], "b" * 100, None),
        ("max_min_p", ["--length-penalty", 0.01], "c", "b" * 100),
    ],
)
def test_pairs_are_trl_rows(tmp_path, choose, extra, chosen, rejected):
    source, output = write(tmp_path / "in.jsonl", ANNOTATED), tmp_path / "pairs.jsonl"
    command = ["pairs", source, "-o", output, "--choose", choose, "--min-margin", 0.1, *extra]
    summary = json.loads(invoke(*command, "--json"))
    rows = read(output)
    assert summary["pairs"] == len(rows) == 1
    assert summary["skipped"] == {
        "a tie": 1,
        "fewer than two responses": 1,
        "margin not above 0.1": 1,
    }
    assert rows[0]["prompt"] == PROMPT
    assert rows[0]["chosen"] == [{"role": "assistant", "content": chosen}]
    if rejected is not None:
        assert rows[0]["rejected"] == [{"role": "assistant", "content": rejected}]
    assert rows[0]["margin"] > 0.1


def test_the_same_seed_makes_the_same_pairs(tmp_path):
    source = write(tmp_path / "in.jsonl", ANNOTATED * 20)
    for name in ("a", "b"):
        write_pairs(source, tmp_path / name, choice="random", seed=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_pairs(source, tmp_path / "c", choice="random", seed=4)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_random_pair_is_in_order_of_its_rewards():
    generator = random.Random(0)
    for _ in range(20):
        chosen, rejected = choose_pair([0.1, 0.9, 0.5], "random", generator)
        assert [0.1, 0.9, 0.5][chosen] > [0.1, 0.9, 0.5][rejected]


def test_rows_that_were_not_annotated_are_refused(tmp_path):
    source = write(tmp_path / "in.jsonl", [CANDIDATES[0]])
    with pytest.raises(InputError, match="armorm annotate"):
        write_pairs(source, tmp_path / "pairs.jsonl")
    summary = write_pairs(source, tmp_path / "pairs.jsonl", skip_invalid=True)
    assert summary.pairs == 0
    assert list(summary.skipped) == ["not one finite number for each of 3 responses"]


def test_the_shell_example_leaves_annotations_pairs_and_the_best(model_folder, tmp_path):
    source = write(tmp_path / "in.jsonl", CANDIDATES)
    command = tmp_path / "bin" / "armorm"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom armorm.cli import main; main()\n")
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", EXAMPLES / "iterative_dpo.sh", model_folder, source, tmp_path / "out"],
        check=True,
        env={**os.environ, "PATH": path},
    )
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "annotated.jsonl",
        "pairs.jsonl",
        "best.jsonl",
    }
