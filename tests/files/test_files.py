"""Safe files: locks, complete or absent files and folders, clear errors, JSON that can be read."""

from __future__ import annotations

import doctest
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from armorm import files
from armorm.errors import ArmormError, DamagedFileError, InputError, OutputError
from armorm.files import (
    exclusive,
    json_line,
    open_atomically,
    parse_json,
    read_json,
    refuse_same_file,
    replace_folder,
    write_atomically,
    write_json,
    writing,
)

HOLD = """
import sys, time
from pathlib import Path
from armorm.files import exclusive
with exclusive(Path(sys.argv[1]), doing="scoring"):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_docstring_examples():
    options = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    assert doctest.testmod(files, optionflags=options).failed == 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_process_is_refused_and_told_by_whom(tmp_path, kind):
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    process = hold(output)
    try:
        started = time.perf_counter()
        with (
            pytest.raises(ArmormError, match=rf"out is in use by process {process.pid} on .*scori"),
            exclusive(output),
        ):
            pass
        assert time.perf_counter() - started < 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with exclusive(output):  # the lock of a killed process is free
        pass
    assert names(tmp_path) == ({"out"} if kind == "folder" else set())


def test_the_same_thread_may_lock_again(tmp_path):
    with exclusive(tmp_path / "run"):
        with exclusive(tmp_path / "." / ".." / tmp_path.name / "run"):
            pass
        assert names(tmp_path) == {".run.lock"}
    assert not names(tmp_path)


def test_output_errors_name_file_reason_and_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, reason in [
        ("folder", "It is a folder"),
        ("file/below", "Not a directory|File exists"),
        ("n" * 300, "name too long"),
    ]:
        with pytest.raises(OutputError, match=rf"cannot be written: .*({reason}).*(?i:choose)"):
            write_atomically(tmp_path / name, b"content")
    with pytest.raises(OutputError, match=r"/dev/full cannot be written: It is not a regular file"):
        write_atomically(Path("/dev/full"), b"content")
    assert names(tmp_path) == {"file", "folder"}


def test_a_full_disk_is_an_output_error_and_leaves_the_old_file(tmp_path):
    script = """
import resource, sys
from pathlib import Path
from armorm.errors import OutputError
from armorm.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), bytes(2000))
except OutputError as error:
    print(error)
"""
    (tmp_path / "out").write_text("old")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "out cannot be written: File too large" in done.stdout
    assert (tmp_path / "out").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_errors_of_reading_pass_through_and_errors_of_rust_are_understood(tmp_path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "out"):
        (tmp_path / "input").read_text()
    with (
        pytest.raises(OutputError, match=r"out cannot be written: No such file or directory"),
        writing(tmp_path / "no" / "out"),
    ):
        save_file({"a": np.zeros(1)}, tmp_path / "no" / "out")


@pytest.mark.parametrize("link", ["same", "symlink", "hard link", "other spelling"])
def test_the_input_is_not_the_output(tmp_path, link):
    source = tmp_path / "in.jsonl"
    source.write_text("{}\n")
    output = tmp_path / "out.jsonl"
    if link == "symlink":
        output.symlink_to(source)
    elif link == "hard link":
        output.hardlink_to(source)
    elif link == "same":
        output = source
    else:
        output = tmp_path / "folder" / ".." / "in.jsonl"
        (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is the input"):
        refuse_same_file(source, output)
    refuse_same_file(source, tmp_path / "another")


def fill_the_disk(file: Path) -> None:
    file.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def recognise(folder: Path) -> bool:
    return names(folder) <= {"mine"}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with replace_folder(path, recognise) as folder:
            (folder / "mine").write_text(content)
    with (
        pytest.raises(OutputError, match="model cannot be written: No space left"),
        replace_folder(path, recognise) as folder,
    ):
        fill_the_disk(folder / "mine")
    assert (path / "mine").read_text() == "second"
    assert names(tmp_path) == {"model"}


def test_a_folder_with_files_of_others_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(OutputError, match="holds files that would be deleted"),
        replace_folder(tmp_path / "model", recognise),
    ):
        pass
    assert names(tmp_path / "model") == {"thesis.tex"}


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    old = tmp_path / ".model.old"
    old.mkdir()
    (old / "mine").write_text("old")
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "model", recognise):
        raise KeyboardInterrupt
    assert (tmp_path / "model" / "mine").read_text() == "old"
    assert names(tmp_path) == {"model"}


def test_numbers_that_are_not_finite_are_named(tmp_path):
    with pytest.raises(InputError, match=r"meta\.scores\[1\] = nan: not a finite number"):
        json_line({"meta": {"scores": [1.0, float("nan")]}})
    with pytest.raises(ArmormError, match=r"out\.json cannot be written: a\.b = inf"):
        write_json(tmp_path / "out.json", {"a": {"b": float("inf")}})
    assert not names(tmp_path)


def test_the_root_is_never_replaced():
    root = Path(Path.cwd().anchor)
    with (
        pytest.raises(OutputError, match="cannot be written"),
        replace_folder(root, recognise=lambda _: True),
    ):
        raise AssertionError


def test_a_value_nested_too_deeply_to_be_written_is_named():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InputError, match="nested too deeply"):
        json_line({"deep": value})


def test_half_characters_are_read_back_from_valid_utf8(tmp_path):
    text = "a \ud800 b \\ud800 é"
    line = json_line({"text": text})
    line.decode()
    assert json.loads(line) == {"text": text}
    write_json(tmp_path / "out.json", {text: text})
    assert read_json(tmp_path / "out.json") == {text: text}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"\0\0\0", "Expecting value"),
        (b"\xff", "decode"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"b": 1, "b": 2}}', "two values for the key 'b'"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, reason):
    file = tmp_path / "damaged.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"damaged\.json cannot be read: .*{reason}"):
        read_json(file)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")


def test_parse_json_reads_what_json_reads():
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="No space left"), open_atomically(tmp_path / "out"):
        fill_the_disk(tmp_path / "other")
    assert names(tmp_path) == {"other"}
