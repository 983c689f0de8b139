"""A real Ray on this machine with two workers: killed workers and drivers, and bad rows."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from armorm import InputError, Recipe, extract_features
from armorm.errors import ArmormError
from armorm.evaluation.scoring import ModelSettings, score_file
from armorm.features import StoreOptions
from armorm.jobs.pools import MOST_ATTEMPTS, Workers, ray_pool
from armorm.training.run_backbone import extraction_on_ray, load_backbone
from tests.features.rows import OBJECTIVES, hashes, make_rated
from tests.jobs.light_jobs import SCORING, TWO, LightJob

DRIVER = """
import sys
from pathlib import Path
from armorm.evaluation.scoring import ModelSettings, score_file
from tests.jobs.light_jobs import SCORING, TWO
model, pattern, output = sys.argv[1:]
settings = ModelSettings(model, {"dtype": "float32", "device": "cpu"})
score_file(settings, pattern, Path(output), **SCORING)
"""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """Its address; the tests of this module share it, as it takes seconds to start."""
    context = ray.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def kill_a_worker() -> None:
    """Kill one of the actors of the pool that is working."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::MapWorker"):
                process.kill()
                return
    raise AssertionError("no worker was found")


def test_features_are_the_same_bytes_though_a_worker_was_killed(tiny_folder, loading, tmp_path):
    rows = make_rated(200)
    options: dict[str, Any] = {"objectives": OBJECTIVES, "options": StoreOptions(shard_responses=5)}
    sources = [{"catalog": "quickstart"}]
    recipe = Recipe(
        backbone={"model": str(tiny_folder), **loading},
        data={"rated": sources, "preferences": sources},
    )
    whole = extract_features(rows, load_backbone(recipe, tmp_path), tmp_path / "whole", **options)
    folder, made, killed_at = tmp_path / "ray", [], []

    def kill() -> None:
        wait_for(lambda: len(list(folder.glob("index-*"))) >= 5)
        kill_a_worker()
        killed_at.append(len(list(folder.glob("index-*"))))

    killer = threading.Thread(target=kill)
    killer.start()
    with extraction_on_ray(recipe, tmp_path, TWO) as make_store:
        make_store(rows, path=folder, on_summary=made.append, **options)
    killer.join(timeout=1)
    assert 5 <= killed_at[0] < whole.manifest.shards
    assert hashes(folder) == hashes(tmp_path / "whole")
    assert made[0].resumed_shards == 0
    assert made[0].responses == len(rows)


def test_scores_are_the_same_bytes_though_a_worker_and_then_the_driver_were_killed(
    model, model_folder, loading, cluster, tmp_path
):
    """Two files of a pattern, in two formats, with bad rows and empty lines."""
    rows: list[Any] = [
        {"prompt": "hello", "response": f"one {'very ' * (i % 5)} ok", "n": i} for i in range(2400)
    ]
    table, lines = tmp_path / "b.in.parquet", tmp_path / "a.in.jsonl"
    pq.write_table(pa.Table.from_pylist([*rows[:300], {"prompt": "hello"}]), table)
    rows[40] = {"prompt": "hello", "response": ""}
    texts = [json.dumps(row) for row in rows]
    texts[700], texts[701] = "{", ""
    lines.write_text("".join(f"{text}\n" for text in texts))
    output, parts = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    pattern = tmp_path / "?.in.*"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, (model_folder, pattern, output))],
        env={**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )

    def parts_or_end(number: int) -> bool:
        return driver.poll() is not None or len(list(parts.glob("part-*.json"))) >= number

    wait_for(lambda: parts_or_end(1))
    kill_a_worker()
    wait_for(lambda: parts_or_end(3))
    driver.kill()
    assert driver.wait() == -signal.SIGKILL, driver.communicate()[1]
    assert not output.exists()

    settings = ModelSettings(str(model_folder), loading)
    summary = score_file(settings, pattern, output, **SCORING)
    assert 32 * 2 <= summary.resumed_at < summary.rows == 2700
    assert not parts.exists()

    alone = [tmp_path / "alone.a", tmp_path / "alone.b"]
    for source, target in zip((lines, table), alone, strict=True):
        score_file(model, source, target, **{**SCORING, "workers": None})
    for ending in ("", ".invalid"):
        files = [target.with_name(f"{target.name}{ending}") for target in alone]
        joined = b"".join(file.read_bytes() for file in files)
        assert (tmp_path / f"out.jsonl{ending}").read_bytes() == joined
    assert summary.skipped == 3


def test_a_task_that_was_begun_by_a_killed_worker_is_done_by_another(tmp_path):
    log = tmp_path / "log"
    tasks = [{"number": 0}, {"number": 1, "deaths": 1}, {"number": 2}]
    with ray_pool(Workers(count=1)) as pool:
        made = list(pool.work(LightJob, {"log": str(log)}, tasks))
    assert sorted(one["number"] for one in made) == [0, 1, 2]
    assert log.read_text().split().count("1") == 2


def test_a_task_that_kills_every_worker_ends_the_run(tmp_path):
    log = tmp_path / "log"
    tasks = [{"number": 0}, {"number": 1, "deaths": 100}]
    with ray_pool(Workers(count=1)) as pool, pytest.raises(ArmormError, match="workers died"):
        list(pool.work(LightJob, {"log": str(log)}, tasks))
    assert log.read_text().split().count("1") == MOST_ATTEMPTS


def test_a_bad_row_is_named_by_our_own_error(tmp_path):
    settings = {"log": str(tmp_path / "log")}
    with ray_pool(Workers(count=1)) as pool, pytest.raises(InputError) as raised:
        list(pool.work(LightJob, settings, [{"number": 0, "bad": ""}]))
    assert str(raised.value) == "in.jsonl, row 7: response = '': empty. Write one."
