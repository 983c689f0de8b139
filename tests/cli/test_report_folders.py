"""Folders that reports are written to: a report of something else is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import invoke, write

COMMANDS = {
    "audit": ("audit", "length", "--change", "filler", "-q"),
    "diff": ("diff", "length", "random", "-q"),
    "benchmark": ("benchmark", "length", "-q"),
}
FILES = {"audit": "report.html", "diff": "diff.md", "benchmark": "report.html"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Name {i}.", "chosen": f"{i} is it.", "rejected": f"No{'!' * i}"}
        for i in range(12)
    ]
    return write(tmp_path / "pairs.jsonl", rows)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_earlier_report_is_replaced_and_anothers_is_not(tmp_path, pairs, command):
    name, *arguments = COMMANDS[command]
    folder = tmp_path / "out"
    for _ in range(2):
        invoke(name, *arguments, pairs, "-o", folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / FILES[command]).write_text("mine")
    with pytest.raises(AssertionError, match="which no earlier armorm-"):
        invoke(name, *arguments, pairs, "-o", other)
    assert (other / FILES[command]).read_text() == "mine"
    assert [file.name for file in other.iterdir()] == [FILES[command]]


def test_a_report_of_another_command_is_not_replaced(tmp_path, pairs):
    folder = tmp_path / "out"
    for command in ("audit", "benchmark"):
        name, *arguments = COMMANDS[command]
        if command == "audit":
            invoke(name, *arguments, pairs, "-o", folder)
            continue
        with pytest.raises(AssertionError, match=r"report\.html, which no earlier"):
            invoke(name, *arguments, pairs, "-o", folder)
