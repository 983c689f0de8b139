"""Damaged and hostile data files: every command names what is wrong, none ends in a traceback."""

from __future__ import annotations

import gzip
import json
import zlib
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armorm import InputError, Objective, ObjectiveSet
from armorm.data import DataSource, read_rated
from armorm.data.sources import count_rows, file_rows
from armorm.errors import ArmormError
from tests.data.commands import command

FORMATS = ["d.jsonl", "d.jsonl.gz", "d.parquet", "d.arrow", "d.feather"]
OBJECTIVES = ObjectiveSet([Objective(name="tone", minimum=0, maximum=4)])


def row(number: int, **fields: Any) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"question {number} é"},
        {"role": "assistant", "content": "answer " * (number + 1)},
    ]
    return {"id": str(number), "messages": messages, "ratings": {"tone": number % 5}, **fields}


def pair(**fields: Any) -> dict[str, Any]:
    return {"prompt": "q", "chosen": "yes", "rejected": "no", **fields}


def as_bytes(rows: list[dict[str, Any]], name: str) -> bytes:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith("l"):
        return lines
    if name.endswith(".gz"):
        return gzip.compress(lines, mtime=0)
    table, sink = pa.Table.from_pylist(rows), pa.BufferOutputStream()
    if name.endswith(".parquet"):
        pq.write_table(table, sink, row_group_size=4)
    else:
        make = pa.ipc.new_stream if name.endswith(".arrow") else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    return sink.getvalue().to_pybytes()


WHOLE = {name: as_bytes([row(i) for i in range(12)], name) for name in FORMATS}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(FORMATS),
    end=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_no_damage_of_a_file_raises_anything_but_an_error_of_its_own(name, end, flips, tmp_path):
    content = bytearray(WHOLE[name][: round(end * len(WHOLE[name]))])
    for place, value in flips:
        if content:
            content[int(place * len(content))] = value
    file = tmp_path / name
    file.write_bytes(content)
    count_rows(file)
    for raw in file_rows(file):
        if isinstance(raw.fields, InputError):
            assert str(raw.fields.at(raw.file, raw.row))
            json.dumps(raw.fields.as_dict(), allow_nan=False)
    read_rated([DataSource(path=str(file))], OBJECTIVES, invalid="skip")


@pytest.mark.parametrize("name", FORMATS[1:])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "folder"])
def test_every_command_names_a_damaged_file(name, damage, tmp_path):
    file = tmp_path / name
    if damage == "folder":
        file.mkdir()
    else:
        content = {"truncated": WHOLE[name][:-40], "empty": b"", "text": b"not this format\n" * 9}
        file.write_bytes(content[damage])
    if (damage, name) == ("empty", "d.jsonl.gz"):  # an empty file of lines has no lines
        return
    if damage != "folder":
        code, said = command("data", "check", file, "--json")
        assert (code, json.loads(said)["valid"]) == (3, False)
        assert "cannot be read to its end" in said
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "objectives": [{"name": "tone", "maximum": 4}],
                "data": {"rated": [{"path": str(file)}], "preferences": []},
            }
        )
    )
    code, said = command("data", "prepare", recipe, "-o", tmp_path / "out", "-q")
    assert code == 2
    assert str(file) in said
    assert "cannot be read to its end" in said
    code, said = command(
        "data", "prepare", recipe, "-o", tmp_path / "out", "-q", "--skip-invalid", "--json"
    )
    assert code == 0
    (source,) = json.loads(said)["sources"]
    assert source["skipped"]["cannot be read to its end"] == 1


def test_damaged_compression_in_the_middle_keeps_the_rows_before_it(tmp_path):
    squeeze = zlib.compressobj(wbits=31)
    content = squeeze.compress(as_bytes([row(i) for i in range(600)], "d.jsonl"))
    content += squeeze.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 50  # no block begins so
    (tmp_path / "d.jsonl.gz").write_bytes(content)
    source = DataSource(path=str(tmp_path / "d.jsonl.gz"))
    with pytest.raises(InputError, match=r"d\.jsonl\.gz, row \d+: .* cannot be read to its end"):
        read_rated([source], OBJECTIVES)
    loaded = read_rated([source], OBJECTIVES, invalid="skip")
    assert len(loaded.rows) >= 599
    assert loaded.tally.skipped["cannot be read to its end"] == 1


def undecodable() -> dict[str, pa.Array]:
    """Columns of three rows, the second of which Python cannot hold."""
    text = pa.array(["a", "b", "c"])
    broken = pa.py_buffer(text.buffers()[2].to_pybytes().replace(b"b", b"\xff"))
    return {
        "text": pa.StringArray.from_buffers(3, text.buffers()[1], broken),
        "when": pa.array([0, 2**61, 1]).cast(pa.timestamp("ms")),
    }


@pytest.mark.parametrize("column", ["text", "when"])
@pytest.mark.parametrize("name", ["d.parquet", "d.arrow", "d.feather"])
def test_a_value_that_cannot_be_decoded_is_an_error_of_its_row(name, column, tmp_path):
    table = pa.Table.from_pylist([row(i) for i in range(3)])
    table = table.append_column(column, undecodable()[column])
    file = tmp_path / name
    if name == "d.parquet":
        pq.write_table(table, file)
    else:
        make = pa.ipc.new_stream if name == "d.arrow" else pa.ipc.new_file
        with make(str(file), table.schema) as writer:
            writer.write_table(table)
    source = DataSource(path=str(file))
    with pytest.raises(InputError, match=rf"row 2: {column} = .*cannot be decoded"):
        read_rated([source], OBJECTIVES)
    loaded = read_rated([source], OBJECTIVES, invalid="skip")
    assert [row.id for row in loaded.rows] == ["0", "2"]
    fine = next(raw.fields for raw in file_rows(file))
    assert column == "text" or fine["when"] == datetime(1970, 1, 1)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_pylist([row(0)])
    pq.write_table(table.append_column("id", pa.array(["b"])), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"\['id'\]: several columns have the same name"):
        read_rated([DataSource(path=str(tmp_path / "d.parquet"))], OBJECTIVES)


HALF = "a \ud83d b"
HOSTILE = [
    (row(0, id=HALF), "id"),
    (row(0, source=HALF), "source"),
    (row(0, messages=[{"role": "user", "content": HALF}, row(0)["messages"][1]]), "content"),
    (row(0, messages=[row(0)["messages"][0], {"role": "assistant", "content": HALF}]), "content"),
    (row(0, ratings={HALF: 1}), "ratings"),
    (row(0, ratings={"tone": 10**400}), "ratings.tone"),
    (row(0, ratings={"tone": -(10**400)}), "ratings.tone"),
    (row(0, ratings={"tone": float("nan")}), "ratings.tone"),
    (row(0, ratings={"tone": True, "tones": []}), "ratings"),
    (row(0, ratings=[]), "ratings"),
    (row(0, messages={}), "messages"),
    (row(0, messages=[[[[[{}]]]]]), "messages"),
    (row(0, messages=[{"role": "user", "content": "q"}] * 2), "messages"),
]
HOSTILE_PAIRS = [
    (pair(subset=HALF), "subset"),
    (pair(domain=HALF), "domain"),
    (pair(chosen=HALF), "chosen"),
    (pair(rejected=HALF), "rejected"),
    (pair(prompt=HALF), "prompt"),
    (pair(chosen=[]), "chosen"),
    (pair(rejected=None), "rejected"),
    (pair(chosen=10**400), "chosen"),
    (pair(prompt=[{"role": "user", "content": 10**400}]), "prompt"),
]


@pytest.mark.parametrize("rows", [HOSTILE, HOSTILE_PAIRS], ids=["rated", "pairs"])
def test_a_hostile_row_is_named_skipped_and_makes_the_file_invalid(rows, tmp_path):
    file = tmp_path / "d.jsonl"
    good = pair() if rows is HOSTILE_PAIRS else row(1)
    for bad, field in rows:
        file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        code, said = command("data", "check", file, "--json", "-q")
        assert code == 3
        (checked,) = json.loads(said)["files"]
        assert (checked["rows"], checked["kept"]) == (2, 1)
        ((_, found),) = checked["invalid"].items()
        assert found["examples"][0]["row"] == 2
        assert field in found["examples"][0]["field"]
        command("data", "check", file, "-q")  # as a table


def test_hostile_rows_are_counted_when_skipped(tmp_path):
    (tmp_path / "rated.jsonl").write_text(
        "".join(json.dumps(bad) + "\n" for bad, _ in HOSTILE) + json.dumps(row(3)) + "\n"
    )
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(bad) + "\n" for bad, _ in HOSTILE_PAIRS) + json.dumps(pair()) + "\n"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "objectives": [{"name": "tone", "maximum": 4}],
                "data": {
                    "rated": [{"path": str(tmp_path / "rated.jsonl")}],
                    "preferences": [{"path": str(tmp_path / "pairs.jsonl")}],
                },
            }
        )
    )
    code, said = command(
        "data", "prepare", recipe, "-o", tmp_path / "out", "-q", "--skip-invalid", "--json"
    )
    assert code == 0
    rated, pairs = json.loads(said)["sources"]
    assert (rated["kept"], sum(rated["skipped"].values())) == (1, len(HOSTILE))
    assert (pairs["kept"], sum(pairs["skipped"].values())) == (1, len(HOSTILE_PAIRS))
    for source in (rated, pairs):
        listed = (tmp_path / "out" / source["left_out"]).read_bytes().decode().splitlines()
        assert len(listed) == sum(source["skipped"].values())


deep = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["user", "assistant", "system", HALF]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tone", "id", HALF]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
names = st.sampled_from(
    ["messages", "ratings", "prompt", "chosen", "rejected", "id", "source", "subset", "tone", HALF]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.dictionaries(names, deep, max_size=6), min_size=1, max_size=6))
def test_any_json_is_checked_without_a_traceback(rows, tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = command("data", "check", file, "--json", "-q", "--no-near-duplicates")
    assert code in (0, 3)
    assert json.loads(said)["files"][0]["rows"] == len(rows)


def test_a_row_nested_to_the_limit_is_an_error_of_its_row(tmp_path):
    file = tmp_path / "d.jsonl"
    for depth in (400, 900, 985, 5000):
        file.write_text('{"messages": ' + "[" * depth + "]" * depth + ', "ratings": {}}\n')
        code, said = command("data", "check", file, "--json", "-q")
        assert code == 3
        assert json.loads(said)["files"][0]["rows"] == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "x", "weight": 1e18}, "less than or equal to 100"),
        ({"path": "x", "weight": float("nan")}, "finite"),
        ({"path": "x", "limit": 10**30}, "less than or equal to"),
        ({"path": "x\0y"}, "zero byte"),
        ({"path": "a\ud800"}, "half a character"),
    ],
)
def test_options_of_a_source_are_bounded(source, message):
    with pytest.raises(ValueError, match=message):
        DataSource(**source)


@pytest.mark.parametrize(
    "options", [{"per_post": True}, {"per_post": 1.5}, {"per_post": -1}, {"min_ratio": 1e300}]
)
def test_options_of_the_catalogue_are_bounded(options):
    with pytest.raises(ArmormError, match="options"):
        DataSource(catalog="shp", options=options).check_catalog("preferences")


def test_an_unknown_home_folder_is_named():
    with pytest.raises(ArmormError, match="home"):
        list(DataSource(path="~nobody-of-this-name/x.jsonl").rows("rated"))
