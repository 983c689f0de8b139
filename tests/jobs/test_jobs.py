"""What workers do, in this process: tasks and answers go through JSON as they do on a cluster."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from armorm import InputError, PreferencePair, Recipe, Steering, extract_features
from armorm.cli import app
from armorm.data.ranges import FileRange, cut_file, range_rows
from armorm.data.sources import file_rows
from armorm.errors import ArmormError, MissingExtraError, RecipeError
from armorm.evaluation import scoring
from armorm.evaluation.scoring import ModelSettings, score_file
from armorm.features import StoreOptions, pooled
from armorm.jobs.answers import answer, result_of
from armorm.jobs.pools import FittedWorkers, Job, Pool, Workers, ray_pool
from armorm.training import run_backbone
from armorm.training.run_backbone import extraction_on_ray, load_backbone
from tests.features.rows import hashes, make_pairs


class PoolInThisProcess(Pool):
    """Does the tasks last first, and refuses any that carries rows; stops after some."""

    def __init__(self) -> None:
        super().__init__(FittedWorkers(1, 1, 0.0))
        self.most: int | None = None

    def describe(self, job: type[Job], settings: Mapping[str, Any]) -> dict[str, Any]:
        return result_of(answer(lambda: job(pickle.loads(pickle.dumps(settings))).describe()))

    def work(
        self, job: type[Job], settings: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        worker = job(pickle.loads(pickle.dumps(settings)))
        for done, text in enumerate(reversed([json.dumps(task) for task in tasks])):
            if done == self.most:
                raise KeyboardInterrupt
            assert len(text) < 300, "a task of a large run says where its rows are"
            yield result_of(answer(lambda: worker.make(json.loads(text))))  # noqa: B023


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> PoolInThisProcess:
    pool = PoolInThisProcess()
    for module in (run_backbone, scoring):
        monkeypatch.setattr(module, "ray_pool", lambda workers: contextlib.nullcontext(pool))
    return pool


ROWS: list[Any] = [
    {"prompt": "hello", "response": f"{'very ' * (i % 9)}ok", "n": i} for i in range(90)
]


def write(file: Path, rows: list[Any]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    else:
        table = pa.Table.from_pylist(rows)
        open_writer = pa.ipc.new_file if "file" in file.name else pa.ipc.new_stream
        with open_writer(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return file


NAMES = ["a.jsonl", "a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_same_bytes_in_each_format_and_after_an_interruption(
    pool, model, model_folder, loading, tmp_path, name
):
    rows = [{**row, "response": ""} if row["n"] in (30, 31, 89) else row for row in ROWS]
    source = write(tmp_path / name, rows)
    options: dict[str, Any] = {"skip_invalid": True, "rows_at_once": 2}
    alone = score_file(model, source, tmp_path / "alone.jsonl", **options)
    settings = ModelSettings(str(model_folder), loading)
    output = tmp_path / "out.jsonl"
    pool.most = 2
    with pytest.raises(KeyboardInterrupt):
        score_file(settings, source, output, workers=Workers(), **options)
    damaged = max((tmp_path / "out.jsonl.parts").glob("part-*.jsonl"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    pool.most = None
    summary = score_file(settings, source, output, workers=Workers(), **options)
    assert summary.resumed_at == 2  # of the two parts, one is damaged
    for ending in ("", ".invalid"):
        expected = (tmp_path / f"alone.jsonl{ending}").read_bytes()
        assert (tmp_path / f"out.jsonl{ending}").read_bytes() == expected
    assert (summary.rows, summary.scored, summary.skipped) == (90, 87, 3)
    assert (alone.rows, alone.scored, alone.skipped) == (90, 87, 3)
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("out")}
    assert left == {"out.jsonl", "out.jsonl.invalid"}


def test_the_commands_share_their_work(pool, model_folder, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    outputs = [tmp_path / "ray.jsonl", tmp_path / "alone.jsonl"]
    for output, engine in zip(outputs, (["--on", "ray", "--workers", "2"], []), strict=True):
        words = [
            "score",
            model_folder,
            source,
            "-o",
            output,
            "--device",
            "cpu",
            "--steer",
            "tone=2",
        ]
        done = CliRunner().invoke(app, [str(word) for word in (*words, *engine)])
        assert done.exit_code == 0, done.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()

    limits = ["data.rated.0.limit=120", "data.preferences.0.limit=20"]
    words = ["features", "recipes/quickstart.yaml", *(w for one in limits for w in ("--set", one))]
    for folder, engine in ((tmp_path / "ray", ["--on", "ray"]), (tmp_path / "alone", [])):
        done = CliRunner().invoke(app, [*words, "-o", str(folder), *engine])
        assert done.exit_code == 0, done.output
    for kind in ("rated", "preferences"):
        stores = [tmp_path / run / "features" / kind for run in ("ray", "alone")]
        assert hashes(stores[0]) == hashes(stores[1])


@pytest.mark.parametrize("option", ["--workers", "--worker-gpus"])
def test_workers_without_ray_are_refused(tmp_path, option):
    words = ["features", "recipes/quickstart.yaml", "-o", str(tmp_path), option, "2"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, RecipeError)
    assert "need --on ray" in str(done.exception)


def test_a_bad_row_is_the_error_of_the_run_without_ray(
    pool, model, model_folder, loading, tmp_path
):
    bad = {"messages": [{"role": "user", "content": "hello"}], "text": "x" * 200}
    source = write(tmp_path / "in.jsonl", [*ROWS[:50], bad, *ROWS[50:]])
    with pytest.raises(InputError) as expected:
        score_file(model, source, tmp_path / "alone.jsonl")
    settings = ModelSettings(str(model_folder), loading)
    with pytest.raises(InputError, match=r"in\.jsonl, row 51") as raised:
        score_file(settings, source, tmp_path / "out.jsonl", workers=Workers(), rows_at_once=2)
    assert str(raised.value) == str(expected.value)
    assert raised.value.as_dict() == expected.value.as_dict()


def test_parts_of_another_model_are_not_taken(pool, model_folder, loading, tmp_path):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    settings = ModelSettings(str(model_folder), loading)
    pool.most = 1
    with pytest.raises(KeyboardInterrupt):
        score_file(settings, source, output, workers=Workers(), rows_at_once=2)
    steered = ModelSettings(str(model_folder), loading, Steering({"tone": 0.0}))
    with pytest.raises(ArmormError, match="another model, input or command"):
        score_file(steered, source, output, workers=Workers(), rows_at_once=2)


def test_a_model_that_cannot_be_loaded_is_named(pool, tmp_path):
    source = write(tmp_path / "in.jsonl", ROWS)
    settings = ModelSettings(str(tmp_path / "no-such-folder"))
    with pytest.raises(ArmormError, match="no-such-folder"):
        score_file(settings, source, tmp_path / "out", workers=Workers())


def test_features_of_pairs_are_the_same_bytes(pool, tiny_folder, loading, tmp_path):
    odd = ({"role": "user", "content": "é ☺"},)
    rows = [*make_pairs(30), PreferencePair(odd, "ok", "one two", "odd", "test", "even")]
    sources = [{"catalog": "quickstart"}]
    recipe = Recipe(
        backbone={"model": str(tiny_folder), **loading},
        data={"rated": sources, "preferences": sources},
    )
    extract_features(rows, load_backbone(recipe, tmp_path), tmp_path / "alone", shard_responses=5)
    made: list[Any] = []
    options = {"options": StoreOptions(shard_responses=5), "on_summary": made.append}
    with extraction_on_ray(recipe, tmp_path, Workers()) as make_store:
        pool.most = 3
        with pytest.raises(KeyboardInterrupt):
            make_store(rows, path=tmp_path / "shared", **options)
        (tmp_path / "shared" / f"{pooled.ROWS}0.tmp").write_text("of a driver that was killed")
        pool.most = None
        make_store(rows, path=tmp_path / "shared", **options)
        assert hashes(tmp_path / "shared") == hashes(tmp_path / "alone")
        make_store(rows, path=tmp_path / "shared", **options)
    assert made[0].resumed_shards == 3
    assert made[1].resumed_shards == made[1].shards


def test_an_address_where_nothing_answers_is_an_error_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ArmormError, match=r"nothing answers at 127\.0\.0\.1:1"),
        ray_pool(Workers()),
    ):
        raise AssertionError("there is no such cluster")


@given(st.data())
def test_ranges_hold_each_row_once_with_its_number(tmp_path_factory, data):
    lines = data.draw(st.lists(st.sampled_from(["{}", "{", "", " \t", '{"a": "é"}']), max_size=30))
    file = tmp_path_factory.mktemp("ranges") / "in.jsonl"
    file.write_text("\n".join(lines) + data.draw(st.sampled_from(["", "\n"])))
    ranges = list(cut_file(file, data.draw(st.integers(1, 7))))
    rows = [row for part in ranges for row in range_rows(part)]
    expected = list(file_rows(file))
    assert [row.row for row in rows] == [row.row for row in expected]
    assert [str(row.fields) for row in rows] == [str(row.fields) for row in expected]
    assert sum(part.rows for part in ranges) == len(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 5, 7, 20, 100])
def test_ranges_of_tables_hold_each_row_once(tmp_path, name, size):
    file = write(tmp_path / name, ROWS)
    ranges = list(cut_file(file, size))
    assert [part.rows for part in ranges[:-1]] == [size] * (len(ranges) - 1)
    assert [row for part in ranges for row in range_rows(part)] == list(file_rows(file))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_that_cannot_be_read_is_one_bad_row(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(b"nothing of the kind")
    [part] = cut_file(file, 10)
    assert part == FileRange(str(file), rows=1)
    [row] = range_rows(part)
    assert isinstance(row.fields, InputError)


def test_a_compressed_file_is_refused_with_the_remedy(tmp_path):
    file = tmp_path / "in.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(RecipeError, match="gunzip --keep"):
        list(cut_file(file, 10))


@pytest.mark.parametrize(
    ("workers", "machines", "expected"),
    [
        (Workers(), [{"CPU": 8.0}], (1, 8, 0)),
        (Workers(), [{"CPU": 8.0}, {"CPU": 4.0}], (2, 4, 0)),
        (Workers(4), [{"CPU": 8.0}, {"CPU": 4.0}], (4, 2, 0)),
        (Workers(20), [{"CPU": 8.0}], (20, 1, 0)),
        (Workers(), [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}], (4, 1, 1)),
        (Workers(gpus=2.0), [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 3.0}], (3, 1, 2)),
        (Workers(gpus=0.5), [{"CPU": 8.0, "GPU": 1.0}], (2, 1, 0.5)),
        (Workers(gpus=0.0), [{"CPU": 8.0, "GPU": 1.0}], (1, 8, 0)),
    ],
)
def test_workers_fill_the_machines(workers, machines, expected):
    assert workers.fitted(machines) == FittedWorkers(*expected)


def test_workers_that_fit_nowhere_are_refused():
    with pytest.raises(ArmormError, match=r"needs 1 cores and 2 GPUs.*8 cores and 1 GPUs"):
        Workers(gpus=2.0).fitted([{"CPU": 8.0, "GPU": 1.0}])


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"armorm\[scale\]"), ray_pool(Workers()):
        pass
