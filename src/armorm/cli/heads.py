"""Commands on a fitted head: learn more rows, forget some, merge, and say how sure it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    TEXT_HELP,
    Json,
    Quiet,
    SkipInvalid,
    hide_library_progress,
    text_or_file,
)
from armorm.cli.options import show_progress as shows
from armorm.cli.terminal import print_json

if TYPE_CHECKING:
    from armorm.data import InvalidPolicy

Run = Annotated[Path, typer.Argument(help="Run folder of `armorm train`.", metavar="RUN")]
Rated = Annotated[list[Path], typer.Argument(help="Files of rated rows.", metavar="DATA...")]


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(
        name="head",
        help="A fitted head that learns, forgets and merges, without reading its old rows again.",
        no_args_is_help=True,
    )
    add_command(group, add, example="armorm head add runs/quickstart new.jsonl")
    add_command(group, remove, example="armorm head remove runs/quickstart wrong.jsonl")
    add_command(group, merge, example="armorm head merge runs/a runs/b -o runs/both")
    add_command(group, errors, example="armorm head errors runs/quickstart")
    add_command(
        group,
        influence,
        example='armorm head influence runs/quickstart --prompt "What is 3 + 4?" '
        '--response "It is 7."',
    )
    app.add_typer(group, rich_help_panel="Data and heads")


def add(
    run: Run,
    data: Rated,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add rated rows to the head of RUN and fit it again. Then train the gate again (fit-gate)."""
    _update(run, data, "add", skip_invalid, as_json, quiet)


def remove(
    run: Run,
    data: Rated,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take rated rows out of the head of RUN: the weights are those of a fit without them."""
    _update(run, data, "remove", skip_invalid, as_json, quiet)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run whose head is replaced.", metavar="RUN")
    ],
    as_json: Json = False,
) -> None:
    """Fit one head on the rows of several runs, such as from several machines."""
    from armorm.training import merge_heads

    merge_heads(runs, output)
    _print_head(output, as_json)


def errors(run: Run, as_json: Json = False) -> None:
    """Held-out error of every penalty: across folds, and across data sources."""
    from armorm.training import head_errors

    report = head_errors(run)
    if as_json:
        print_json(report)
        return
    from armorm.cli.head_printing import print_head_errors

    print_head_errors(report)


def influence(
    run: Run,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    response: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    objective: Annotated[
        str | None,
        typer.Option(
            help="Whose prediction. Default: what adds most to the score.", metavar="NAME"
        ),
    ] = None,
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="How many rows.")] = 10,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Look the rows up in the recipe's data.")
    ] = True,
    as_json: Json = False,
) -> None:
    """List the training rows that pushed a prediction most.

    The effects are exact: those of leaving each row out.
    """
    from armorm.training import head_influence

    hide_library_progress()
    report = head_influence(
        run,
        text_or_file(prompt),
        text_or_file(response),
        objective=objective,
        top=top,
        with_text=text,
    )
    if as_json:
        print_json(report.as_dict())
        return
    from armorm.cli.head_printing import print_influence

    print_influence(report.as_dict())


def _update(
    run: Path,
    data: list[Path],
    change: Literal["add", "remove"],
    skip_invalid: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from armorm.data import DataSource
    from armorm.training import update_head

    hide_library_progress()
    invalid: InvalidPolicy = "skip" if skip_invalid else "error"
    sources = [DataSource(path=str(path)) for path in data]
    update = update_head(run, sources, change, invalid=invalid, show_progress=shows(quiet))
    _print_head(run, as_json)
    if not as_json:
        from armorm.cli.printing import console

        console.print(f"{change}: {update.tally}.", markup=False)


def _print_head(run: Path, as_json: bool) -> None:
    from armorm.files import read_json

    report: dict[str, Any] = read_json(run / "head" / "head.json")
    if as_json:
        print_json(report)
        return
    from armorm.cli.printing import console, print_objectives
    from armorm.evaluation.run_metrics import HeadReport

    print_objectives(HeadReport.from_dict(report))
    console.print("Train the gate on the new rewards: armorm fit-gate RECIPE -o RUN", markup=False)
