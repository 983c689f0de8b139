"""`armorm benchmark`: models and benchmarks by name, files in and out, resuming, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from armorm import InputError, RewardModel
from armorm.errors import ArmormError, RecipeError
from armorm.evaluation.benchmarks import (
    PreferenceBenchmark,
    benchmark,
    benchmarks,
    register_benchmark,
)
from armorm.evaluation.benchmarks import registry as registry_module
from armorm.evaluation.benchmarks import running as running_module
from armorm.evaluation.benchmarks.running import score_rows
from armorm.evaluation.benchmarks.suite import compare_results, load_suite, run_suite
from armorm.evaluation.scorers import LengthScorer, RandomScorer, RewardModelScorer
from tests.commands import armorm, invoke, write
from tests.evaluation import benchmark_files as files
from tests.tiny_models import PROMPT, conversation, make_heads

PAIRS = [("Paris", "Lyon"), ("ok", "no no"), ("yes", "one two three four")]


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny-armorm"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Rows as RewardBench's program takes them with --load_json."""
    whole = [
        {"chosen": conversation(a), "rejected": conversation(b), "subset": f"s{i % 2}", "id": i + 1}
        for i, (a, b) in enumerate(PAIRS)
    ]
    return write(tmp_path / "pairs.jsonl", whole)


def error_of(*arguments: object, code: int | None = None) -> str:
    done = armorm(*arguments)
    assert done.returncode == code if code else done.returncode > 0
    assert "Traceback" not in done.stderr
    return done.stderr


def results(*arguments: object) -> dict:
    return json.loads(invoke("benchmark", *arguments, "--json", "--quiet"))


def test_models_and_benchmarks_are_told_apart_and_make_one_table(folder, pairs, tmp_path):
    files.rm_bench(tmp_path, ["chat", "code", "math", "safety-refuse"])
    found = results(folder, "length", "random", pairs, "rm-bench", "--from", tmp_path, "--compare")
    assert list(found["benchmarks"]) == [str(pairs), "rm-bench"]
    for rows in found["benchmarks"].values():
        assert [row["model"] for row in rows] == [str(folder), "length", "random"]
    assert found["benchmarks"]["rm-bench"][1]["figures"]["hard"]["value"] == 0
    compared = found["comparisons"]["rm-bench"]
    assert [(one["a"], one["b"]) for one in compared] == [
        (str(folder), "length"), (str(folder), "random"), ("length", "random"),
    ]  # fmt: skip
    assert all(one["p_value"] <= one["p_holm"] <= 1 for one in compared)
    printed = invoke("benchmark", folder, "length", "rm-bench", "--from", tmp_path, "--compare")
    assert "right answer (rows) beats wrong one" in printed
    assert "verbosity" in printed  # each objective alone


def test_scores_are_those_of_the_model_and_parts_those_of_its_objectives(model, folder, pairs):
    (found,) = results(folder, pairs, "--objectives", "--fixed-weights")["benchmarks"][str(pairs)]
    rewards = [model.score_responses(PROMPT, pair) for pair in PAIRS]
    right = [bool(one.score[0] > one.score[1]) for one in rewards]
    assert found["figures"]["accuracy"]["value"] == pytest.approx(sum(right) / 3)
    for column, name in enumerate(model.objectives.names):
        alone = [bool(one.rewards[0, column] > one.rewards[1, column]) for one in rewards]
        assert found["parts"][name]["figures"]["accuracy"]["value"] == pytest.approx(sum(alone) / 3)
    mean = torch.stack([one.coefficients[0] for one in rewards]).mean(dim=0)
    fixed = [bool(mean @ (one.rewards[0] - one.rewards[1]) > 0) for one in rewards]
    value = found["parts"]["mean coefficients"]["figures"]["accuracy"]["value"]
    assert value == pytest.approx(sum(fixed) / 3)


def test_all_runs_what_can_be_had_and_lists_the_rest(tmp_path):
    files.reward_bench(tmp_path)
    files.rmb(tmp_path)
    found = results("length", "all", "--from", tmp_path)
    assert set(found["benchmarks"]) == {"reward-bench", "rmb"}
    assert set(found["absent"]) == set(benchmarks()) - {"reward-bench", "rmb"}
    assert "There is no folder" in found["absent"]["judgebench"]
    assert "Not run: judgebench" in invoke("benchmark", "length", "all", "--from", tmp_path)
    assert "no benchmark can be had" in error_of(
        "benchmark", "length", "all", "--from", tmp_path / "no"
    )
    assert "There is no folder" in error_of("benchmark", "length", "judgebench", "--from", tmp_path)


def test_table_1_has_the_published_rows_and_the_papers_score(tmp_path):
    files.reward_bench(tmp_path)
    files.preference_test_sets(tmp_path)
    arguments = ("length", "reward-bench", "preference-test-sets", "--from", tmp_path)
    from armorm.evaluation.benchmarks.published import PUBLISHED_1, PUBLISHED_2, table_1

    for row in (*PUBLISHED_1, *PUBLISHED_2):
        sections = [row.values[name].value for name in ("Chat", "Chat Hard", "Safety", "Reasoning")]
        expected = (sum(sections) + 0.5 * row.values["Prior Sets"].value) / 4.5
        assert row.values["Score"].value == pytest.approx(expected, abs=0.0011), row
    suite = load_suite(arguments[1:3], tmp_path)
    found = run_suite(suite, {"length": LengthScorer}).results
    ours = table_1(*found.values())[-1]
    assert ours.values["Board"].value == 0  # "wrong …" and "right …" are of one length
    assert ours.values["Score"].value == pytest.approx(0.5 * 1.0 / 4.5)
    assert "Table 1" in invoke("benchmark", *arguments)


def test_a_killed_run_is_resumed_and_a_finished_one_is_not_scored_again(tmp_path, monkeypatch):
    monkeypatch.setattr(running_module, "ROWS_AT_ONCE", 4)
    files.reward_bench(tmp_path)
    chosen = benchmark("reward-bench")
    data = chosen.read(tmp_path)
    expected = score_rows(RandomScorer(), chosen.name, data)
    counted = []

    class Dying(RandomScorer):
        def score(self, rows):
            counted.append(len(rows))
            if len(counted) == 3:
                raise KeyboardInterrupt
            return super().score(rows)

    with pytest.raises(KeyboardInterrupt):
        score_rows(Dying(), chosen.name, data, tmp_path / "out")
    assert score_rows(Dying(), chosen.name, data, tmp_path / "out") == expected
    scored_before = len(counted)
    assert scored_before == 3 + math.ceil(len(data.rows) / 4) - 2
    assert score_rows(Dying(), chosen.name, data, tmp_path / "out") == expected
    assert len(counted) == scored_before
    changed = RandomScorer(1)
    changed.name = "random"
    with pytest.raises(ArmormError, match=r"random\.jsonl holds scores of another model"):
        score_rows(changed, chosen.name, data, tmp_path / "out")
    data.rows.pop()
    with pytest.raises(ArmormError, match="holds scores of other rows"):
        score_rows(RandomScorer(), chosen.name, data, tmp_path / "out")


def test_too_long_rows_are_counted_and_shown_and_never_cut(folder, tmp_path):
    rows = [
        {"prompt": "hello", "chosen": "ok", "rejected": "no"},
        {"prompt": "hello", "chosen": "one " * 400, "rejected": "no"},
    ]
    source = write(tmp_path / "long.jsonl", rows)
    (found,) = results(folder, source, "-o", tmp_path / "out")["benchmarks"][str(source)]
    assert (found["rows"]["scored"], found["too_long"]) == (1, 1)
    again = invoke("benchmark", folder, source, "-o", tmp_path / "out")
    assert "1 rows are too long" in again
    said = error_of("benchmark", folder, source, "--overlong", "error", code=3)
    assert "long.jsonl, row 2" in said


def test_comparison_is_on_the_rows_that_all_could_score(folder, model, tmp_path):
    rows = [
        {"prompt": f"hello {i}", "chosen": "one " * (400 if i < 3 else 2), "rejected": "no"}
        for i in range(8)
    ]
    suite = load_suite([str(write(tmp_path / "p.jsonl", rows))])
    opened = {"m": lambda: RewardModelScorer(model, "m"), "length": LengthScorer}
    (found,) = run_suite(suite, opened).results.values()
    (compared,) = compare_results(found)
    assert (found[0].too_long, compared.n, compared.score_b) == (3, 5, 1.0)


def test_scores_made_elsewhere_are_checked_row_by_row(tmp_path):
    files.reward_bench_2(tmp_path)
    rows = benchmark("reward-bench-2").read(tmp_path).rows
    given = [
        {"id": row.id, "scores": [1.0] * row.right + [0.0] * (len(row.responses) - row.right)}
        for row in rows
    ]
    file = write(tmp_path / "scores.jsonl", given)
    (found,) = results("--scores", file, "reward-bench-2", "--from", tmp_path)["benchmarks"][
        "reward-bench-2"
    ]
    assert found["figures"]["score"]["value"] == pytest.approx((5 + 1.01) / 6)

    def refused(changed: list) -> str:
        bad = write(tmp_path / "bad.jsonl", changed)
        return error_of("benchmark", "--scores", bad, "reward-bench-2", "--from", tmp_path, code=3)

    swapped = [given[1], given[0], *given[2:]]
    assert "bad.jsonl, row 1: id = '1': the benchmark has '0' in this place" in refused(swapped)
    assert "missing: the file ends after 8 of 9 rows" in refused(given[:-1])
    assert "the benchmark has 9 rows" in refused([*given, given[0]])
    short = [{**given[0], "scores": [1.0, 2.0]}, *given[1:]]
    assert "row 1: scores = [1.0, 2.0]: not 4 numbers" in refused(short)
    for value in ("NaN", "1e999", "true", '"1"', "null"):
        line = json.dumps(given[0]).replace("1.0", value, 1)
        assert "bad.jsonl, row 1" in refused([line, *given[1:]])
    assert "name the benchmark" in error_of("benchmark", "--scores", file, code=2)
    for field, value in (
        ("rewards", 5),
        ("rewards", [[1.0, "x"]]),
        ("coefficients", "ab"),
        ("error", {"message": "boom"}),
        ("error", {**InputError("f", 1, "why", "Do.").as_dict(), "reason": 5}),
    ):
        row = {**given[0], field: value, **({"scores": None} if field == "error" else {})}
        assert f"bad.jsonl, row 1: {field}" in refused([row, *given[1:]])
    assert "There is no file" in error_of("benchmark", "--scores", "no.jsonl", "rmb", code=2)
    said = error_of("benchmark", "--scores", file, "reward-bench2", code=2)
    assert "Did you mean 'reward-bench-2'" in said


def test_scores_that_armorm_wrote_are_read_back_without_the_model(folder, tmp_path):
    files.rm_bench(tmp_path, ["chat", "code", "math", "safety-refuse"])
    where = ("rm-bench", "--from", tmp_path)
    (first,) = results(folder, *where, "-o", tmp_path / "out")["benchmarks"]["rm-bench"]
    (file,) = (tmp_path / "out/scores/rm-bench").glob("*-armorm.jsonl")
    (again,) = results("--scores", file, *where)["benchmarks"]["rm-bench"]
    assert again["figures"] == first["figures"]
    assert again["matrices"] == first["matrices"]


def test_rewardbenchs_files_have_its_names_and_fields_and_are_read_back(
    model, folder, pairs, tmp_path
):
    out = tmp_path / "out"
    (report,) = results(folder, pairs, "-o", out)["benchmarks"][str(pairs)]
    (outputs,) = out.glob("rewardbench/*/*-armorm_outputs.jsonl")
    written = [json.loads(line) for line in outputs.open()]
    for row, pair in zip(written, PAIRS, strict=True):
        chosen, rejected = model.score_responses(PROMPT, pair).score.tolist()
        assert row["scores_chosen"] == pytest.approx(chosen, rel=1e-4, abs=1e-5)
        assert row["scores_rejected"] == pytest.approx(rejected, rel=1e-4, abs=1e-5)
        assert row["results"] == int(row["scores_chosen"] > row["scores_rejected"])
        assert row["prompt"] == PROMPT
    assert "Paris" in written[0]["text_chosen"]
    assert "<|im_start|>" in written[0]["text_chosen"]
    summary = json.loads(Path(str(outputs).replace("_outputs.jsonl", ".json")).read_text())
    assert summary["accuracy"] == report["figures"]["accuracy"]["value"]
    assert summary["num_prompts"] == 3
    assert summary["extra_results"].keys() == {"s0", "s1"}
    ((again,),) = results("--scores", outputs)["benchmarks"].values()
    assert again["figures"] == report["figures"]
    row = {"prompt": PROMPT, "results": 1, "scores_chosen": [0.5], "scores_rejected": [0.25],
           "text_chosen": "long text", "text_rejected": "text"}  # fmt: skip
    ((one,),) = results("--scores", write(tmp_path / "x.jsonl", [row]))["benchmarks"].values()
    assert one["figures"]["accuracy"]["value"] == 1
    for value in ("NaN", "1" + "0" * 400, '"x"', "true"):
        text = json.dumps({**row, "scores_rejected": "HERE"}).replace('"HERE"', value)
        bad = write(tmp_path / "bad.jsonl", [text])
        assert "scores_rejected" in error_of("benchmark", "--scores", bad) or "not valid JSON" in (
            error_of("benchmark", "--scores", bad)
        )


def check_every_eval_ever(record):
    """Validate a record by the schema of evaleval/every_eval_ever (MIT licence), as published."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = Path(__file__).parent / "every_eval_ever-0.3.0.schema.json"
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(record)] == []
    assert validator.is_valid({**record, "unknown": 1}) is False


def test_the_boards_row_and_the_shared_schema(tmp_path):
    files.reward_bench_2(tmp_path)
    out = tmp_path / "out"
    (found,) = results("random", "reward-bench-2", "--from", tmp_path, "-o", out)["benchmarks"][
        "reward-bench-2"
    ]
    board = json.loads((out / "reward-bench-2/random.json").read_text())
    assert list(board) == [
        "model", "model_type", "chat_template",
        "Factuality", "Focus", "Math", "Precise IF", "Safety", "Ties",
    ]  # fmt: skip
    assert board["Ties"] == found["figures"]["Ties"]["value"]
    (file,) = (out / "every_eval_ever/reward-bench-2/local/random").glob("*.json")
    record = json.loads(file.read_text())
    check_every_eval_ever(record)
    assert record["source_metadata"]["source_type"] == "evaluation_run"
    for one in record["evaluation_results"]:
        config, details = one["metric_config"], one["score_details"]
        assert config["min_score"] <= details["score"] <= config["max_score"]
        assert config["score_type"] == "continuous"
        assert config["lower_is_better"] is False
        assert one["source_data"]["hf_repo"] == "allenai/reward-bench-2"
        interval = details["uncertainty"]["confidence_interval"]
        assert interval["lower"] <= details["score"] <= interval["upper"]
    invoke("benchmark", "random", "reward-bench-2", "--from", tmp_path, "-o", out)
    assert len(list((out / "every_eval_ever").rglob("*.json"))) == 1  # the same run again


def test_a_benchmark_of_another_package_is_one_file(folder, tmp_path, monkeypatch):
    rows = [{"prompt": "hello", "chosen": "ok", "rejected": "no no", "subset": "a"}]
    data = write(tmp_path / "manners.jsonl", rows)
    (tmp_path / "outside_manners.py").write_text(
        "from armorm.evaluation.benchmarks import Part, PreferenceBenchmark\n"
        "class Manners(PreferenceBenchmark):\n"
        "    name = 'manners'\n"
        "    about = 'Polite and rude answers.'\n"
        f"    parts = (Part(path={str(data)!r}),)\n"
        "    def figures(self, rows, scores):\n"
        "        pairs = super().figures(rows, scores)\n"
        "        return {'politeness': pairs['accuracy'], **pairs}\n"
    )
    info = tmp_path / "outside_manners-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-manners\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[armorm.benchmarks]\nmanners = outside_manners:Manners\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry_module._installed.cache_clear()
    try:
        (found,) = results("length", "manners")["benchmarks"]["manners"]
    finally:
        monkeypatch.undo()
        registry_module._installed.cache_clear()
    assert found["figures"]["politeness"] == found["figures"]["accuracy"]


def test_a_registered_benchmark_has_a_name_of_its_own(monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {})

    class Taken(PreferenceBenchmark):
        name = "reward-bench"

    class Fresh(PreferenceBenchmark):
        name = "fresh"

    with pytest.raises(RecipeError, match="already"):
        register_benchmark(Taken())
    register_benchmark(Fresh())
    assert benchmark("fresh").name in benchmarks()
    with pytest.raises(RecipeError, match="Did you mean 'fresh'"):
        benchmark("fresch")


def test_outputs_of_rewardbench_are_pairs_of_known_subsets_with_their_texts(tmp_path):
    row = {
        "prompt": PROMPT,
        "scores_chosen": 1.0,
        "scores_rejected": 0.0,
        "chosen": "yes",
        "text_rejected": conversation("n"),
        "id": "1",
        "subset": "Ties",
    }

    def scored(row: dict, *names: str) -> tuple[object, ...]:
        return ("benchmark", "--scores", write(tmp_path / "m_outputs.jsonl", [row] * 3), *names)

    found = results(*scored(row)[1:])["benchmarks"]["preferences"][0]
    assert found["figures"]["longer won"]["n"] == 3
    for name in set(benchmarks()) - {"reward-bench", "preference-test-sets"}:
        assert f"the rule of {name} cannot score" in error_of(*scored(row, name), code=2)
    for name in ("reward-bench", "preference-test-sets"):
        said = error_of(*scored(row, name), code=3)
        assert "m_outputs.jsonl, row 1: subset = 'Ties': unknown subset" in said
    assert "'rewardbench'" in error_of(*scored(row, "rewardbench"), code=2)
    for value in (None, 5, "", PROMPT):
        assert "row 1: chosen" in error_of(*scored({**row, "chosen": value}), code=3)


def test_ids_of_ties_that_occur_twice_are_named_by_file_before_anything_is_scored(tmp_path):
    file = files.reward_bench_2(tmp_path)
    rows = pq.read_table(file).to_pylist()
    files.parquet(file, [*rows, rows[-1]])
    said = error_of("benchmark", "no-model", "reward-bench-2", "--from", tmp_path, code=3)
    assert f"{file}, row {len(rows) + 1}: id = 'tied:1': occurs twice in Ties" in said


def test_a_response_is_not_preferred_to_itself(tmp_path):
    file = files.if_reward_bench(tmp_path)
    rows = json.loads(file.read_text())
    rows[0]["preference_graph"] = [{"chosen": 1, "rejected": 1}]
    files.array(file, rows)
    said = error_of("benchmark", "length", "if-reward-bench", "--from", tmp_path, code=3)
    assert "row 1: preference_graph[0]" in said
    assert "prefers a response to itself" in said


def test_models_of_one_name_are_told_apart(pairs, tmp_path):
    class Named(LengthScorer):
        name = "same"

    suite = load_suite([str(pairs)])
    found = run_suite(suite, {"a": Named, "b": Named}, tmp_path, compare=True)
    assert found.scorers == ["same", "b"]
    assert [(one.a, one.b) for one in found.comparisons[str(pairs)]] == [("same", "b")]


def test_what_is_missing_on_the_command_line_is_named(folder, pairs):
    assert "only length" in error_of("benchmark", "length", pairs, "--compare", code=2)
    said = error_of("benchmark", "--scores", pairs, pairs, "--compare", "--objectives", code=2)
    assert "leave out --compare, --objectives" in said
    assert "Name a benchmark or a preference file" in error_of("benchmark", folder, code=2)
    assert "Name a model" in error_of("benchmark", pairs, code=2)
    assert "no model" in error_of("benchmark", "--scores", pairs, "length", "rmb", code=2)
