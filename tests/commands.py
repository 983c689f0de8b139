"""The command line in tests: commands in this process or one of their own, and files of rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import typer
from typer.testing import CliRunner

from armorm.cli import app


def run(*arguments: object, code: int = 0) -> str:
    """Run a command in a process of its own; returns standard output."""
    done = armorm(*arguments)
    assert done.returncode == code, done.stderr
    return done.stdout


def armorm(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, whatever its exit code."""
    return subprocess.run(
        [sys.executable, "-c", "from armorm.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def heed_interrupts() -> None:
    """Let SIGINT end the process that is about to start (``preexec_fn``).

    A runner in the background may ignore SIGINT, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def invoke(*arguments: object) -> str:
    """Run a command in this process, for speed where the exit code is not the point."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.stdout


def all_commands(group: typer.Typer = app) -> list[tuple[str, ...]]:
    """Return the words of every command."""
    found = [(command.name or "",) for command in group.registered_commands]
    for inner in group.registered_groups:
        name = inner.typer_instance.info.name or ""
        found += [(name, *words) for words in all_commands(inner.typer_instance)]
    return found


def write(file: Path, rows: Iterable[object]) -> Path:
    """Write rows as JSON lines; a row that is a string is written as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file
