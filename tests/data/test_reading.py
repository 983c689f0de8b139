"""Reading every format, and refusing bad rows by file, row, field and value."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from armorm import InputError, Objective, ObjectiveSet
from armorm.data import DataSource, HeldOut, read_preferences, read_rated, separate_prompts
from armorm.errors import RecipeError

OBJECTIVES = ObjectiveSet(
    [Objective(name="tone", minimum=0, maximum=4), Objective(name="safe", dataset="panel")]
)
USER = {"role": "user", "content": "hello"}


def rated_row(response: str = "hi", **ratings) -> dict:
    return {
        "messages": [USER, {"role": "assistant", "content": response}],
        "ratings": ratings or {"tone": 3, "safe": None},
    }


def write_lines(file: Path, rows: list) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def rated_from(file: Path, **options):
    return read_rated([DataSource(path=str(file))], OBJECTIVES, **options)


def _write(file: Path, rows: list[dict]) -> None:
    table = pa.Table.from_pylist(rows)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    elif file.suffix == ".parquet":
        pq.write_table(table, file)
    elif file.suffix == ".feather":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif file.suffix == ".arrow":
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        write_lines(file, rows)


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.parquet", "d.arrow", "d.feather"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = [rated_row("hi"), rated_row("good day", tone=1, safe=1)]
    _write(tmp_path / name, rows)
    loaded = rated_from(tmp_path / name)
    assert [row.response for row in loaded.rows] == ["hi", "good day"]
    assert [row.ratings for row in loaded.rows] == [{"tone": 3.0}, {"tone": 1.0, "safe": 1.0}]
    assert [row.id for row in loaded.rows] == ["d:1", "d:2"]
    assert loaded.tally.as_dict() == {"read": 2, "kept": 2, "skipped": {}}


def test_a_local_dataset_folder_is_read_by_load_dataset(tmp_path):
    _write(tmp_path / "train.parquet", [rated_row("hi"), rated_row("good day")])
    loaded = read_rated([DataSource(dataset=str(tmp_path), limit=1)], OBJECTIVES)
    assert [row.response for row in loaded.rows] == ["hi"]


BAD_ROWS = [
    ("{oops", "line", "not valid JSON"),
    ('["a"]', "line", "not a JSON object"),
    ('{"messages": [], "messages": []}', "line", "two values for the key 'messages'"),
    ('{"ratings": {"tone": 1, "tone": 2}}', "line", "two values for the key 'tone'"),
    ({"ratings": {"tone": 1}}, "messages", "not a list"),
    ({"messages": [USER]}, "messages[0].role", "does not end with the assistant"),
    (rated_row(""), "messages[1].content", "empty assistant message"),
    ({"messages": [{"content": "x"}], "ratings": {}}, "messages[0].role", "missing role"),
    (rated_row(tone=5), "ratings.tone", "outside the scale 0 to 4"),
    (rated_row(tone="3"), "ratings.tone", "a number or null"),
    (rated_row(tone=float("nan")), "ratings.tone", "finite"),
    (rated_row(tone=float("inf")), "ratings.tone", "finite"),
    (rated_row(tones=1), "ratings.tones", "unknown objective 'tones'"),
    (rated_row(tone=None), "ratings", "no objective is rated"),
    ({"messages": rated_row()["messages"]}, "ratings", "missing; the row has messages"),
    ({"messages": rated_row()["messages"], "ratings": 3}, "ratings", "not an object"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_by_file_row_field_and_value(tmp_path, row, field, reason):
    file = write_lines(tmp_path / "bad.jsonl", [rated_row(), row])
    with pytest.raises(InputError) as caught:
        rated_from(file)
    error = caught.value
    assert (error.file, error.row, error.field) == (str(file), 2, field)
    assert reason in error.reason
    assert error.remedy


def test_bad_rows_can_be_skipped_but_are_counted_and_listed(tmp_path):
    bad = [row for row, _, _ in BAD_ROWS]
    file = write_lines(tmp_path / "bad.jsonl", [rated_row(), *bad, rated_row("bye")])
    loaded = rated_from(file, invalid="skip")
    assert [row.response for row in loaded.rows] == ["hi", "bye"]
    assert loaded.tally.read == len(bad) + 2
    assert sum(loaded.tally.skipped.values()) == len(bad)
    loaded.write_invalid(tmp_path / "invalid.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "invalid.jsonl").open()]
    assert [error["row"] for error in listed] == list(range(2, len(bad) + 2))
    assert [error["field"] for error in listed] == [field for _, field, _ in BAD_ROWS]


def test_an_unknown_objective_names_its_neighbours(tmp_path):
    file = write_lines(tmp_path / "bad.jsonl", [rated_row(tonne=1)])
    with pytest.raises(InputError, match="Did you mean 'tone'"):
        rated_from(file)


def test_a_truncated_gzip_file_is_an_error_not_an_end(tmp_path):
    file = tmp_path / "cut.jsonl.gz"
    _write(file, [rated_row(str(i)) for i in range(1000)])
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read to its end"):
        rated_from(file)


def test_ratings_may_stand_in_columns_already_in_unit_scale(tmp_path):
    messages = rated_row()["messages"]
    rows = [{"messages": messages, "tone": 0.5, "safe": None, "other": "x"}]
    file = write_lines(tmp_path / "merged.jsonl", rows)
    loaded = read_rated([DataSource(path=str(file), unit_ratings=True)], OBJECTIVES)
    assert loaded.rows[0].ratings == {"tone": 2.0}


ASSISTANT = [{"role": "assistant", "content": "yes"}]
OTHER = [{"role": "assistant", "content": "no"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hello", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": ASSISTANT, "rejected": OTHER},
        {"chosen": [USER, *ASSISTANT], "rejected": [USER, *OTHER]},
        {"prompt": "hello", "chosen": [USER, *ASSISTANT], "rejected": [USER, *OTHER]},
    ],
    ids=["plain", "conversational", "implicit prompt", "prompt repeated"],
)
def test_preferences_in_every_accepted_form(tmp_path, row):
    file = write_lines(tmp_path / "p.jsonl", [{**row, "domain": "facts"}])
    (pair,) = read_preferences([DataSource(path=str(file))]).rows
    assert (pair.prompt, pair.chosen, pair.rejected) == ((USER,), "yes", "no")
    assert pair.subset == "facts"


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"chosen": "yes", "rejected": "no"}, "prompt", "missing"),
        ({"prompt": "hello", "chosen": "yes"}, "rejected", "not a list"),
        ({"prompt": "hello", "chosen": "yes", "rejected": ""}, "rejected[0].content", "empty"),
        ({"prompt": "hello", "chosen": "yes", "rejected": "yes"}, "rejected", "same text"),
        (
            {"chosen": [USER, *ASSISTANT], "rejected": [{**USER, "content": "bye"}, *OTHER]},
            "rejected",
            "differ before their last message",
        ),
    ],
)
def test_a_bad_pair_is_named(tmp_path, row, field, reason):
    file = write_lines(tmp_path / "p.jsonl", [row])
    with pytest.raises(InputError) as caught:
        read_preferences([DataSource(path=str(file))])
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_the_split_goes_by_prompt_and_is_the_same_for_both_kinds(tmp_path):
    prompts = [f"question {i}" for i in range(300)]
    rated = [
        {**rated_row(), "messages": [{"role": "user", "content": p}, *ASSISTANT]} for p in prompts
    ]
    pairs = [{"prompt": p, "chosen": "yes", "rejected": "no"} for p in prompts]
    held_out = HeldOut(fraction=0.2)
    first = rated_from(write_lines(tmp_path / "r.jsonl", rated), held_out=held_out).rows
    source = DataSource(path=str(write_lines(tmp_path / "p.jsonl", pairs)))
    second = read_preferences([source], held_out=held_out).rows
    assert [row.held_out for row in first] == [row.held_out for row in second]
    assert 0.1 < sum(row.held_out for row in first) / 300 < 0.3


def test_training_rows_of_a_held_out_prompt_are_dropped_and_counted(tmp_path):
    rated = write_lines(tmp_path / "r.jsonl", [{**rated_row(), "split": "train"}])
    pairs = write_lines(
        tmp_path / "p.jsonl", [{"prompt": "hello", "chosen": "a", "rejected": "b", "split": "val"}]
    )
    held_out = HeldOut(column="split", values=("val",))
    loaded = rated_from(rated, held_out=held_out)
    preferences = read_preferences([DataSource(path=str(pairs))], held_out=held_out)
    separate_prompts(loaded, preferences)
    assert loaded.rows == []
    assert loaded.tally.as_dict()["skipped"] == {
        "training row of a prompt that is held out elsewhere": 1
    }
    assert len(preferences.rows) == 1


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    with pytest.raises(RecipeError, match="No file matches"):
        rated_from(tmp_path / "none.jsonl")
    (tmp_path / "d.csv").write_text("a,b")
    with pytest.raises(RecipeError, match="unknown format"):
        rated_from(tmp_path / "d.csv")


def test_a_sample_is_spread_over_the_sources_and_always_the_same(tmp_path):
    sizes = {"large": 500, "middle": 90, "small": 6}
    rows = [
        {**rated_row(f"{source} {i}"), "source": source}
        for source, n in sizes.items()
        for i in range(n)
    ]
    file = write_lines(tmp_path / "rows.jsonl", rows)

    def drawn(**options):
        source = DataSource(path=str(file), **options)
        return [row.response for row in read_rated([source], OBJECTIVES).rows]

    found = drawn(sample=100)
    assert found == drawn(sample=100)
    counts = Counter(response.split()[0] for response in found)
    assert counts == {"large": 47, "middle": 47, "small": 6}
    numbers = [int(response.split()[1]) for response in found if response.startswith("large")]
    assert numbers == sorted(numbers)
    assert max(numbers) > 400
    assert len(set(found)) == 100
    assert drawn(sample=10_000) == drawn()
    assert len(drawn(limit=50, sample=20)) == 20


def test_a_sample_holds_bad_rows_too(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", ["{", rated_row()])
    loaded = read_rated([DataSource(path=str(file), sample=2)], OBJECTIVES, invalid="skip")
    assert (len(loaded.rows), len(loaded.invalid)) == (1, 1)
