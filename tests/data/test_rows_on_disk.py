"""Rows stand on disk: what comes back is what went in, in little memory."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armorm import PreferencePair, RatedResponse
from armorm.data import DataSource, read_preferences
from armorm.data.rows_on_disk import DiskList
from armorm.errors import ArmormError
from armorm.features.extraction import hash_rows
from armorm.features.shards import plan_shards
from armorm.files import json_line

texts = st.text(st.characters(codec=None), min_size=1)  # half characters too
prompts = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}),
    min_size=1,
).map(tuple)
ratings = st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False))
rated = st.builds(RatedResponse, prompts, texts, ratings, texts, texts, st.booleans())
pairs = st.builds(PreferencePair, prompts, texts, texts, texts, texts, texts, st.booleans())


def on_disk(rows, folder=None):
    kind = PreferencePair if rows and isinstance(rows[0], PreferencePair) else RatedResponse
    kept = DiskList(kind.as_record, kind.from_record, folder)
    kept.extend(rows)
    return kept


@given(st.one_of(st.lists(rated, max_size=8), st.lists(pairs, max_size=8)), st.data())
def test_what_comes_back_is_what_went_in(rows, data):
    kept = on_disk(rows)
    assert len(kept) == len(rows)
    assert kept == rows
    assert kept == on_disk(rows)
    assert kept != [*rows, *rows[:1]] or not rows
    assert list(reversed(kept)) == rows[::-1]
    chosen = data.draw(st.slices(len(rows)))
    assert list(kept[chosen]) == rows[chosen]
    positions = data.draw(st.lists(st.sampled_from(range(len(rows)))) if rows else st.just([]))
    assert list(kept.select(positions)) == [rows[i] for i in positions]
    assert list(kept.select(positions)[1:]) == [rows[i] for i in positions[1:]]


@given(st.lists(rated, min_size=1, max_size=8))
def test_the_plan_and_the_fingerprint_are_those_of_a_list(rows):
    kept = on_disk(rows)
    assert hash_rows(kept) == hash_rows(rows)
    shards = [(plan.rows.tolist(), plan.responses) for plan in plan_shards(kept, 3)]
    assert shards == [(plan.rows.tolist(), plan.responses) for plan in plan_shards(rows, 3)]


def test_half_a_character_is_kept_in_valid_utf8():
    row = RatedResponse(({"role": "user", "content": "?\ud800?"},), "\ud83d", {"é": 0.1})
    assert on_disk([row]) == [row]
    json_line(row.as_record()).decode("utf-8")


def test_rows_take_no_more_disk_than_their_text_in_any_script():
    record = RatedResponse(({"role": "user", "content": "ж" * 1000},), "日" * 1000, {}).as_record()
    assert len(json_line(record)) < 2000 + 3000 + 200


def test_rows_on_disk_are_not_pickled():
    with pytest.raises(TypeError, match=r"take list\(rows\)"):
        pickle.dumps(on_disk([]))


def test_a_selection_cannot_grow():
    kept = on_disk([RatedResponse(({"role": "user", "content": "q"},), "a", {})])
    with pytest.raises(TypeError, match="selection"):
        kept[:].extend([kept[0]])
    with pytest.raises(IndexError):
        kept[1]


def test_threads_may_read_while_rows_are_added():
    row = RatedResponse(({"role": "user", "content": "q"},), "a" * 3000, {})
    kept = on_disk([row] * 50)
    wrong = []

    def read():
        try:
            for _ in range(20):
                wrong.extend(other for other in kept if other != row)
        except ValueError as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    kept.extend([row] * 200)
    for reader in readers:
        reader.join()
    assert not wrong
    assert list(kept) == [row] * 250


def test_reading_takes_little_memory_and_leaves_nothing_behind(tmp_path):
    file, scratch = tmp_path / "pairs.jsonl", tmp_path / "scratch"
    with file.open("w") as lines:
        for number in range(3000):
            row = {"prompt": f"{number} " + "p" * 4000, "chosen": "c" * 4000, "rejected": "r"}
            lines.write(json.dumps(row) + "\n")
    tracemalloc.start()
    loaded = read_preferences([DataSource(path=str(file))], scratch=scratch)
    plan = plan_shards(loaded.rows, 64)
    hash_rows(loaded.rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(loaded.rows) == sum(len(shard.rows) for shard in plan) == 3000
    assert peak < 2e6 < file.stat().st_size / 10
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("rows", [90, 95, 200])
def test_a_disk_that_is_full_is_said_so(tmp_path, rows):
    script = """
import resource, sys
from pathlib import Path
from armorm import RatedResponse
from armorm.data.rows_on_disk import DiskList
from armorm.errors import ArmormError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = DiskList(RatedResponse.as_record, RatedResponse.from_record, Path(sys.argv[1]))
try:
    for _ in range(int(sys.argv[2])):
        rows.append(RatedResponse(({"role": "user", "content": "q"},), "a" * 1000, {}))
    list(rows)  # the last rows may be written only now
except ArmormError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cannot be kept in {tmp_path} (File too large)" in run.stdout


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    row = RatedResponse(({"role": "user", "content": "q"},), "a", {})
    with pytest.raises(ArmormError, match="cannot be kept in"):
        on_disk([row], file / "folder")
