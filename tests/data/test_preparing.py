"""Preparing data: streamed into Parquet, no duplicates, no prompt on both sides, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armorm import PAPER_OBJECTIVES, InputError, Recipe
from armorm.data import DataSource, HeldOut, read_preferences, read_rated
from armorm.data.preparing import Preparation, prepare
from armorm.errors import ArmormError, OutputError, RecipeError
from armorm.files import exclusive
from armorm.training import prepare_data
from tests.data.commands import command
from tests.data.hub_layouts import write_hub, write_json_lines

ONE_OF_EACH = {
    "rated": [{"catalog": "helpsteer2"}, {"catalog": "ultrafeedback", "weight": 2}],
    "preferences": [{"catalog": "hh-rlhf", "source": "hh"}, {"catalog": "shp"}],
    "held_out": {"fraction": 0.5},
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


def recipe(data: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"data": data})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def pairs_in(file: Path, **options: Any) -> Preparation:
    return Preparation(
        rated=(),
        preferences=(DataSource(path=str(file)),),
        objectives=PAPER_OBJECTIVES,
        held_out=HeldOut(fraction=0.3),
        **options,
    )


def test_a_recipe_becomes_files_that_the_written_recipe_reads(hub, tmp_path):
    output = tmp_path / "out"
    manifest = prepare_data(recipe(ONE_OF_EACH), output, root=hub).as_dict()
    written = Recipe.load(output / "recipe.yaml")
    rated = read_rated(written.data.rated, PAPER_OBJECTIVES, held_out=written.data.held_out)
    pairs = read_preferences(written.data.preferences, held_out=written.data.held_out)
    assert len(rated.invalid) == len(pairs.invalid) == 0
    straight = recipe(ONE_OF_EACH).data
    sources = [source.model_copy(update={"root": str(hub)}) for source in straight.rated]
    expected = read_rated(sources, PAPER_OBJECTIVES, held_out=straight.held_out).rows

    def content(rows):
        return sorted(
            (row.source, row.id, row.response, str(row.ratings), row.held_out) for row in rows
        )

    assert content(rated.rows) == content(expected)
    assert {row.source for row in pairs.rows} == {"hh", "shp"}
    assert manifest["totals"]["rated"]["train"] == sum(not row.held_out for row in rated.rows)


def test_the_manifest_accounts_for_every_row(hub, tmp_path):
    manifest = prepare_data(recipe(ONE_OF_EACH), tmp_path, root=hub).as_dict()
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    helpsteer2, _, hh, shp = manifest["sources"]
    assert helpsteer2["licence"] == "CC-BY-4.0"
    # Four copies of five transcripts, of which one is a pair.
    assert hh["read"] == 20
    assert hh["kept"] == 1
    assert hh["skipped"]["the same row again"] == 3
    assert shp["skipped"] == {"votes too close (min_ratio)": 1}
    for source in manifest["sources"]:
        dropped = sum(source["skipped"].values())
        repeated = source["kept"] - (source["read"] - dropped)
        assert repeated == (
            0 if source["source"] != "ultrafeedback" else source["rows"]["train"] / 2
        )
        assert sum(source["rows"].values()) == source["kept"]
        listed = (tmp_path / source["left_out"]).read_text().splitlines()
        assert len(listed) == dropped
        for name, file in source["files"].items():
            digest = hashlib.sha256((tmp_path / name).read_bytes()).digest()
            together = hashlib.sha256(Path(name).name.encode() + digest).hexdigest()
            assert file["sha256"] == together
            assert file["rows"] == pq.read_metadata(tmp_path / name).num_rows
    left_out = [json.loads(line) for line in (tmp_path / hh["left_out"]).open()]
    assert left_out[0]["file"] == "Anthropic/hh-rlhf[train]"
    assert (left_out[0]["row"], left_out[0]["field"]) == (2, "chosen[1].role")


def test_ratings_are_counted_by_value(hub, tmp_path):
    manifest = prepare_data(recipe(ONE_OF_EACH), tmp_path, root=hub).as_dict()
    helpfulness = manifest["sources"][0]["ratings"]["helpsteer-helpfulness"]
    assert helpfulness == {"n": 2, "mean": 1.5, "histogram": [[0.0, 1], [3.0, 1]]}


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda text: not text.isspace()
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), texts, texts), max_size=40))
def test_no_prompt_is_on_both_sides_and_no_row_is_there_twice(rows, tmp_path):
    file = tmp_path / "pairs.jsonl"
    write_json_lines(file, [pair(*row) for row in rows])
    manifest = prepare(pairs_in(file, invalid="skip"), tmp_path / "out").as_dict()
    kept = rows_of(tmp_path / "out" / "preferences")
    found = [(row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in kept]
    assert sorted(found) == sorted({row for row in rows if row[1] != row[2]})
    sides = {}
    for row in kept:
        sides.setdefault(row["prompt"][0]["content"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    (source,) = manifest["sources"]
    assert source["kept"] + sum(source["skipped"].values()) == source["read"] == len(rows)


def test_duplicates_are_found_across_sources_but_other_ratings_are_other_rows(tmp_path):
    def row(rating: float) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
        ]
        return {"messages": messages, "ratings": {"code-style": rating}}

    write_json_lines(tmp_path / "a.jsonl", [row(1), row(2)])
    write_json_lines(tmp_path / "b.jsonl", [row(2), row(3)])
    sources = tuple(DataSource(path=str(tmp_path / f"{name}.jsonl")) for name in "ab")
    preparation = Preparation(rated=sources, preferences=(), objectives=PAPER_OBJECTIVES)
    manifest = prepare(preparation, tmp_path / "out").as_dict()
    assert [source["kept"] for source in manifest["sources"]] == [2, 1]
    assert sorted(row["code-style"] for row in rows_of(tmp_path / "out" / "rated")) == [1, 2, 3]


def test_an_interrupted_preparation_goes_on_and_gives_the_same_files(tmp_path):
    good = [pair(f"q{i}") for i in range(50)]
    write_json_lines(tmp_path / "a.jsonl", good)
    write_json_lines(tmp_path / "b.jsonl", [*good[:5], *[pair(f"r{i}") for i in range(9)]])
    second = (tmp_path / "b.jsonl").read_bytes()

    def preparation(invalid: str) -> Preparation:
        sources = tuple(DataSource(path=str(tmp_path / f"{name}.jsonl")) for name in "ab")
        return Preparation(
            rated=(),
            preferences=sources,
            objectives=PAPER_OBJECTIVES,
            held_out=HeldOut(fraction=0.3),
            invalid=invalid,
        )

    whole = prepare(preparation("error"), tmp_path / "whole").as_dict()
    (tmp_path / "b.jsonl").write_bytes(second + b"{}\n")
    with pytest.raises(InputError, match=r"b\.jsonl, row 15"):
        prepare(preparation("error"), tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    assert {file.name for file in (tmp_path / "cut/preferences").iterdir()} == {
        f"{split}-00-{name}.parquet"
        for split in ("train", "held_out")
        for name in [_safe(tmp_path)]
    }
    # The first source is not read again: it may even be gone.
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").write_bytes(second)
    resumed = prepare(preparation("skip"), tmp_path / "cut").as_dict()
    assert resumed["sources"] == whole["sources"]
    assert not list((tmp_path / "cut").glob(".*"))


def _safe(folder: Path) -> str:
    """How the path of the first source becomes a part of file names."""
    return str(folder / "a.jsonl").replace("/", "-").strip("-")


def test_a_finished_preparation_is_done_anew_and_leaves_nothing_of_the_old(hub, tmp_path):
    prepare_data(recipe(ONE_OF_EACH), tmp_path, root=hub)
    only_pairs = {**ONE_OF_EACH, "rated": [], "preferences": [{"catalog": "shp"}]}
    prepare_data(recipe(only_pairs), tmp_path, root=hub)
    assert rows_of(tmp_path / "rated") == []
    assert {row["source"] for row in rows_of(tmp_path / "preferences")} == {"shp"}


def test_leftovers_of_another_preparation_are_refused(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    (tmp_path / "out").mkdir()
    progress = {"fingerprint": "another", "accounts": {}}
    (tmp_path / "out" / ".progress.json").write_text(json.dumps(progress))
    with pytest.raises(ArmormError, match="unfinished preparation of other sources"):
        prepare(pairs_in(tmp_path / "a.jsonl"), tmp_path / "out")


def test_a_split_by_column_is_refused(tmp_path):
    preparation = pairs_in(tmp_path / "a.jsonl")
    by_column = Preparation(
        rated=(),
        preferences=preparation.preferences,
        objectives=PAPER_OBJECTIVES,
        held_out=HeldOut(column="split"),
    )
    with pytest.raises(RecipeError, match="no prompt is on both sides"):
        prepare(by_column, tmp_path / "out")


def test_half_a_character_is_left_out_and_listed(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "q", "chosen": "a \\ud83d", "rejected": "b"}\n' + json.dumps(pair("q"))
    )
    with pytest.raises(InputError, match=r"row 1: chosen.*half a character"):
        prepare(pairs_in(tmp_path / "a.jsonl"), tmp_path / "out")
    manifest = prepare(pairs_in(tmp_path / "a.jsonl", invalid="skip"), tmp_path / "out").as_dict()
    (source,) = manifest["sources"]
    assert source["kept"] == 1
    (listed,) = (json.loads(line) for line in (tmp_path / "out" / source["left_out"]).open())
    assert (listed["row"], listed["field"]) == (1, "chosen[0].content")
    assert "lone surrogate" in listed["reason"]


def recipe_file(tmp_path: Path, *sources: Path, **source: Any) -> Path:
    file = tmp_path / "recipe.yaml"
    pairs = [{"path": str(path), **source} for path in sources]
    file.write_text(yaml.safe_dump({"data": {"rated": [], "preferences": pairs}}))
    return file


def test_an_input_that_changed_while_the_run_was_interrupted_is_read_again(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_json_lines(a, [pair(f"q{i}") for i in range(10, 30)])
    write_json_lines(b, [pair("r"), {}])
    sources = (DataSource(path=str(a)), DataSource(path=str(b)))
    preparation = Preparation(rated=(), preferences=sources, objectives=PAPER_OBJECTIVES)
    with pytest.raises(InputError, match=r"b\.jsonl, row 2"):
        prepare(preparation, tmp_path / "out")
    before = a.stat()
    write_json_lines(a, [pair(f"p{i}") for i in range(10, 30)])  # as many bytes
    os.utime(a, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_json_lines(b, [pair("r")])
    manifest = prepare(preparation, tmp_path / "out")
    assert [source.kept for source in manifest.sources] == [20, 1]
    prompts = {row["prompt"][0]["content"] for row in rows_of(tmp_path / "out" / "preferences")}
    assert prompts == {"r", *(f"p{i}" for i in range(10, 30))}


def test_a_source_is_never_overwritten(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair(f"q{i}") for i in range(9)])
    file = recipe_file(tmp_path, tmp_path / "a.jsonl")
    whole = prepare_data(Recipe.load(file), tmp_path / "out")
    written = (tmp_path / "out" / "recipe.yaml").read_bytes()
    code, said = command("data", "prepare", tmp_path / "out/recipe.yaml", "-o", tmp_path / "out")
    assert code != 0
    assert "is the input" in said
    assert (tmp_path / "out" / "recipe.yaml").read_bytes() == written
    again = recipe_file(tmp_path, tmp_path / "out" / "preferences" / "*.parquet")
    code, said = command("data", "prepare", again, "-o", tmp_path / "out")
    assert code != 0
    assert "is the input" in said
    assert len(rows_of(tmp_path / "out" / "preferences")) == whole.sources[0].kept == 9


def test_files_of_others_are_not_deleted_nor_read(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    (tmp_path / "out" / "preferences").mkdir(parents=True)
    mine = tmp_path / "out" / "preferences" / "mine.parquet"
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"mine\.parquet is not of a preparation"):
        prepare(pairs_in(tmp_path / "a.jsonl"), tmp_path / "out")
    assert mine.read_bytes() == b"mine"


def test_outputs_that_cannot_be_written_are_named(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    file = recipe_file(tmp_path, tmp_path / "a.jsonl")
    (tmp_path / "file").write_text("here")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "rated").write_text("here")
    long = tmp_path / ("x" * 300)
    for output in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "taken", long):
        code, said = command("data", "prepare", file, "-o", output, "-q")
        assert code != 0
        assert "cannot be written" in said
    assert (tmp_path / "file").read_text() == "here"


def test_a_full_disk_is_an_error_and_the_run_resumes(tmp_path):
    rows = [pair(f"q{i}", chosen=os.urandom(600).hex()) for i in range(400)]
    write_json_lines(tmp_path / "a.jsonl", rows)
    file = recipe_file(tmp_path, tmp_path / "a.jsonl")
    program = (
        "import resource, sys; from armorm.cli import main; import pyarrow.parquet\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); main()"
    )
    arguments = ["data", "prepare", str(file), "-o", str(tmp_path / "out"), "-q"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be" in done.stderr
    code, _ = command(*arguments)
    assert code == 0
    assert len(rows_of(tmp_path / "out" / "preferences")) == 400
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_long_name_of_a_source_is_shortened(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    file = recipe_file(tmp_path, tmp_path / "a.jsonl", source="s" * 3000)
    code, _ = command("data", "prepare", file, "-o", tmp_path / "out", "-q")
    assert code == 0
    assert len(rows_of(tmp_path / "out" / "preferences")) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"fingerprint": "x"}', '{"accounts": {"0": 1}}'])
def test_a_damaged_journal_is_named(content, tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    (tmp_path / "out").mkdir()
    preparation = pairs_in(tmp_path / "a.jsonl")
    text = content.replace('"x"', json.dumps(preparation.fingerprint()))
    (tmp_path / "out" / ".progress.json").write_text(text)
    with pytest.raises(ArmormError, match=r"\.progress\.json is damaged .*Delete it"):
        prepare(preparation, tmp_path / "out")


def test_one_process_at_a_time_prepares_into_a_folder(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [pair("q")])
    with exclusive(tmp_path / "out", "something else"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "armorm", "data", "prepare"),
                *(recipe_file(tmp_path, tmp_path / "a.jsonl"), "-o", tmp_path / "out"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "in use by process" in done.stderr


def test_weights_that_would_fill_the_disk_are_refused_in_advance(tmp_path, monkeypatch):
    write_json_lines(tmp_path / "a.jsonl", [pair(f"q{i}") for i in range(99)])
    usage = shutil.disk_usage(tmp_path)._replace(free=9000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    heavy = Preparation(
        rated=(),
        preferences=(DataSource(path=str(tmp_path / "a.jsonl"), weight=100),),
        objectives=PAPER_OBJECTIVES,
    )
    with pytest.raises(RecipeError, match=r"weight: repeating the rows of .*a\.jsonl"):
        prepare(heavy, tmp_path / "out")
