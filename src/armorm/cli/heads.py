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
from armorm.cli.terminal import print_json, print_line
from armorm.errors import RecipeError

if TYPE_CHECKING:
    from armorm.data import DataSource, InvalidPolicy

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
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", help="Licence of the rows, for the model card.", metavar="LICENCE"
        ),
    ] = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add rated rows to the head of RUN and fit it again. Then train the gate again (fit-gate)."""
    from armorm.data import DataSource

    sources = [DataSource(path=str(path), licence=licence) for path in data]
    _update(run, sources, "add", skip_invalid, as_json, quiet)


def remove(
    run: Run,
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of rated rows.", metavar="[DATA...]", show_default=False),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="Instead of DATA: all sources under this licence, such as 'CC-BY-NC*'.",
            metavar="LICENCE",
            show_default=False,
        ),
    ] = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take rated rows out of the head of RUN: the weights are those of a fit without them."""
    if (data is None) == (licence is None):
        raise RecipeError("armorm head remove RUN takes DATA or --license, one of the two.")
    from armorm.data import DataSource

    if data is not None:
        sources = [DataSource(path=str(path)) for path in data]
        _update(run, sources, "remove", skip_invalid, as_json, quiet)
    elif licence is not None:
        _remove_licence(run, licence, as_json)


def _remove_licence(run: Path, licence: str, as_json: bool) -> None:
    from armorm.training import remove_licence

    removal = remove_licence(run, licence)
    _print_head(run, as_json)
    if as_json:
        return
    for name, found in removal.sources.items():
        print_line(f"removed: {name} ({found})")
    print_line(
        f"{removal.rows:,} rows removed. {run / 'recipe.yaml'} and features/rated still hold them: "
        "take the sources out of your recipe before you train again."
    )
    if removal.pairs:
        names = " ".join(f"--leave-out {name}" for name in removal.pairs)
        print_line(f"Pairs under it train the gate: armorm fit-gate RECIPE -o {run} {names}")


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
    sources: list[DataSource],
    change: Literal["add", "remove"],
    skip_invalid: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from armorm.training import update_head

    hide_library_progress()
    invalid: InvalidPolicy = "skip" if skip_invalid else "error"
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
