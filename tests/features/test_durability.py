"""Kills, full disks and damage: an extraction goes on to the same bytes, or refuses by name."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest

from armorm import Backbone, FeatureStore, extract_features
from armorm.errors import ArmormError, StoreError
from tests.features.rows import OBJECTIVES, OPTIONS, PROMPTS, hashes, make_pairs, make_rated

KILLS = 50

# Loads once; each line on its input is a store folder, which a forked child begins or goes on with.
NURSERY = """
import os, sys
import torch
torch.set_num_threads(1)
from armorm import Backbone, extract_features
from tests.features.rows import OPTIONS, PROMPTS, make_rated
backbone = Backbone.from_pretrained(sys.argv[1], dtype="float32", device="cpu", batch_tokens=64)
rows = make_rated(PROMPTS)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        extract_features(rows, backbone, line.strip(), **OPTIONS)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def backbone(tiny_folder: Path) -> Backbone:
    return Backbone.from_pretrained(tiny_folder, dtype="float32", device="cpu", batch_tokens=64)


@pytest.fixture(scope="module")
def whole(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("durability") / "whole"
    extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    return folder


@contextlib.contextmanager
def nursery(backbone_folder: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(backbone_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with process:
        yield process.stdin, process.stdout
        process.stdin.close()


def test_fifty_kills_lose_no_row_and_double_none(tiny_folder, whole, tmp_path):
    """Signals at random instants of a real process; each time the same call goes on."""
    generator = random.Random(0)
    ended: Counter[int] = Counter()
    lost = doubled = stores = 0
    folder = tmp_path / "0"
    with nursery(tiny_folder) as (orders, answers):
        while ended[-signal.SIGKILL] + ended[-signal.SIGTERM] < KILLS:
            orders.write(f"{folder}\n")
            orders.flush()
            child = int(answers.readline())
            time.sleep(generator.uniform(0.01, 0.25))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, generator.choice([signal.SIGKILL, signal.SIGTERM]))
            status = int(answers.readline())
            ended[status] += 1
            if status == 0:
                rows = Counter(pq.read_table(folder / "index.parquet")["row"].to_pylist())
                expected = Counter(pq.read_table(whole / "index.parquet")["row"].to_pylist())
                lost += (expected - rows).total()
                doubled += (rows - expected).total()
                assert hashes(folder) == hashes(whole)
                stores += 1
                folder = tmp_path / str(stores)
    assert set(ended) <= {0, -signal.SIGKILL, -signal.SIGTERM}
    extract_features(
        make_rated(PROMPTS),
        Backbone.from_pretrained(tiny_folder, dtype="float32", device="cpu", batch_tokens=64),
        folder,
        **OPTIONS,
    )
    assert hashes(folder) == hashes(whole)
    assert (lost, doubled) == (0, 0)


def _damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "missing":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[:-10])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["missing", "cut", "one bit"])
def test_a_damaged_shard_is_refused_and_then_made_anew(backbone, whole, tmp_path, kind):
    rows, folder = make_rated(PROMPTS), tmp_path / "s"
    extract_features(rows, backbone, folder, **OPTIONS)
    shard = sorted(folder.glob("features-*"))[2]
    _damage(shard, kind)
    with pytest.raises(StoreError, match=rf"{shard.name} is missing or damaged.*again"):
        list(FeatureStore.open(folder).response_features())
    made = []
    extract_features(rows, backbone, folder, **OPTIONS, on_summary=made.append)
    assert made[0].shards - made[0].resumed_shards == 1
    assert hashes(folder) == hashes(whole)


@pytest.mark.parametrize("kind", ["missing", "one bit"])
def test_a_damaged_index_is_refused(backbone, tmp_path, kind):
    store = extract_features(make_pairs(), backbone, tmp_path / "s")
    _damage(tmp_path / "s" / "index.parquet", kind)
    with pytest.raises(StoreError, match=r"index\.parquet is missing or damaged"):
        FeatureStore.open(store.path).pairs()


@pytest.mark.parametrize("kind", ["missing", "cut", "one bit"])
def test_a_part_of_the_index_damaged_while_the_run_was_interrupted_is_written_again(
    backbone, whole, tmp_path, kind
):
    folder = tmp_path / "s"
    extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    shard = sorted(folder.glob("features-*"))[2]
    _damage(shard, "missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "features", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    _damage(min(folder.glob("index-*")), kind)
    extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    assert hashes(folder) == hashes(whole)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_shard_damaged_while_the_run_was_interrupted_is_made_anew(backbone, whole, tmp_path):
    folder = tmp_path / "s"

    class InterruptedRunError(Exception):
        pass

    def stop_at_third(*args, **keywords):
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedRunError
        return original(*args, **keywords)

    calls: list[int] = []
    original = backbone.features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "features", stop_at_third)
        with pytest.raises(InterruptedRunError):
            extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    with pytest.raises(StoreError, match="unfinished"):
        FeatureStore.open(folder)
    _damage(min(folder.glob("features-*")), "one bit")
    extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    assert hashes(folder) == hashes(whole)


FULL_DISK = """
import resource, sys
import torch
torch.set_num_threads(1)
from armorm import Backbone, extract_features
from armorm.errors import OutputError
from tests.features.rows import OPTIONS, PROMPTS, make_rated
backbone = Backbone.from_pretrained(sys.argv[1], dtype="float32", device="cpu", batch_tokens=64)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    extract_features(make_rated(PROMPTS), backbone, sys.argv[2], **OPTIONS)
except OutputError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_lost(
    backbone, whole, tiny_folder, tmp_path
):
    sizes = sorted(file.stat().st_size for file in whole.glob("features-*"))
    folder = tmp_path / "s"
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tiny_folder), str(folder), str(sizes[-1] - 1)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "cannot be written" in answer.stdout
    assert "give the same command again" in answer.stdout
    assert not list(folder.glob(".*.tmp"))
    extract_features(make_rated(PROMPTS), backbone, folder, **OPTIONS)
    assert hashes(folder) == hashes(whole)


SHARE = """
import sys
import torch
torch.set_num_threads(1)
from armorm import Backbone, extract_features
from tests.features.rows import OPTIONS, PROMPTS, make_rated
backbone = Backbone.from_pretrained(sys.argv[1], dtype="float32", device="cpu", batch_tokens=64)
made = []
extract_features(make_rated(PROMPTS), backbone, sys.argv[2], **OPTIONS, on_summary=made.append)
print(made[0].shards - made[0].resumed_shards)
"""


def test_processes_launched_together_make_one_store(tiny_folder, whole, tmp_path):
    """The environment that torchrun and accelerate launch give; one process starts late."""
    processes = []
    for rank in range(2):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SHARE, str(tiny_folder), str(tmp_path / "s")],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )
    made = [int(process.communicate(timeout=120)[0]) for process in processes]
    shards = json.loads((whole / "manifest.json").read_text())["shards"]
    assert sum(made) == shards
    assert abs(made[0] - made[1]) <= 1
    assert hashes(tmp_path / "s") == hashes(whole)


HOLD = """
import sys, time
from pathlib import Path
from armorm.features import Process
with Process().holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_command(folder: Path) -> Iterator[int]:
    """Another process that is writing a store; its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with process:
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_a_store_that_another_command_writes_is_refused_at_once(backbone, tmp_path):
    folder = tmp_path / "s"
    with another_command(folder) as number, pytest.raises(ArmormError, match=f"process {number}"):
        extract_features(make_pairs(), backbone, folder)
    assert len(extract_features(make_pairs(), backbone, folder).pairs().chosen) == 20


def test_the_summary_counts_what_was_computed(backbone, tmp_path):
    rows = make_rated(30)
    made = []
    store = extract_features(
        rows, backbone, tmp_path / "s", objectives=OBJECTIVES, on_summary=made.append
    )
    summary = made[0].as_dict()
    assert summary["responses"] == len(rows) == store.manifest.responses
    assert summary["prompts"] == store.manifest.prompts
    assert summary["tokens"] == sum(store.index["tokens"].to_pylist())
    assert summary["computed_tokens"] < summary["tokens"]  # prompts are shared
    assert summary["tokens_per_second"] == summary["tokens"] / summary["seconds"]
    extract_features(rows, backbone, tmp_path / "s", objectives=OBJECTIVES, on_summary=made.append)
    assert made[1].responses == made[1].computed_tokens == 0
    assert made[1].resumed_shards == made[1].shards
