"""The page of the command line, written from the commands themselves when the site is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from armorm.cli import app

INTRODUCTION = """\
# Commands

Every command of `armorm`, with the text of its `--help`.

Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 invalid input, 4 a broken rule of `audit`
or `diff`, 130 interrupted, 141 the reader of the output left, 143 terminated.
"""


def page() -> str:
    """Return the page."""
    commands = _commands("armorm", typer.main.get_command(app))
    sections = [f"## {name}\n\n```text\n{_help(name, one)}\n```\n" for name, one in commands]
    return "\n".join([INTRODUCTION, *sections])


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, with their full names."""
    if hasattr(command, "commands"):
        for inner, subcommand in command.commands.items():
            if not subcommand.hidden:
                yield from _commands(f"{name} {inner}", subcommand)
    else:
        yield name, command


def _help(name: str, command: Any) -> str:
    command.rich_markup_mode = None  # plain text, without boxes
    context = command.context_class(command, info_name=name, terminal_width=96)
    return str(command.get_help(context)).strip()
