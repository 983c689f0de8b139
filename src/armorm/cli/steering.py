"""The command that fits steering to a user's choices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from armorm.cli.flags import add_command
from armorm.cli.options import FileLoading, Json, ModelArgument
from armorm.cli.terminal import make_console, print_json

if TYPE_CHECKING:
    from armorm.evaluation.accuracy import Accuracy
    from armorm.evaluation.choices import SteeringFit


console = make_console()


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(
        name="steer",
        help="Weights of the objectives from choices of your own.",
        no_args_is_help=True,
    )
    # A group of one command would be that command.
    group.callback()(lambda: None)
    add_command(group, fit, example="armorm steer fit runs/quickstart/model pairs.jsonl")
    app.add_typer(group, rich_help_panel="Judge")


def fit(
    model: ModelArgument,
    pairs: Annotated[
        Path,
        typer.Argument(
            help="Pairs that you have judged: `prompt`, `chosen` and `rejected`, or whole "
            "conversations. 20 to 200 are enough.",
            metavar="PAIRS",
            show_default=False,
        ),
    ],
    *,
    loading: FileLoading,
    as_json: Json = False,
) -> None:
    """Fit weights of the objectives to pairs that you have judged, shrunk to the gate.

    Prints how much each objective counts, with its interval, the accuracy on pairs that were not
    fitted, and the --steer options that score so.
    """
    from armorm.data import DataSource, read_preferences
    from armorm.evaluation.choices import fit_steering

    rows = list(read_preferences([DataSource(path=str(pairs))]).rows)
    found = fit_steering(loading.load(model), rows)
    if as_json:
        print_json(found.as_dict())
    else:
        print_fit(found)


def print_fit(found: SteeringFit) -> None:
    """Print what each objective counts, what that is worth, and how to score so."""
    table = Table(title=f"What counts in {found.pairs} choices")
    for name in ("objective", "gate", "you", "90 % interval", ""):
        table.add_column(name, justify="left" if name in ("objective", "") else "right")
    for one in found.counts:
        table.add_row(
            escape(one.objective),
            f"{one.gate:+.4f}",
            f"{one.coefficient:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            "differs" if one.differs else "",
        )
    console.print(table)
    console.print(
        f"Accuracy on pairs not fitted: {_percent(found.accuracy)}; "
        f"of the gate: {_percent(found.gate_accuracy)}."
    )
    if found.unchanged:
        console.print("The choices agree with the gate: they ask for no other weights.")
    items = [f"{name}={value:g}" for name, value in found.steering.factors.items()]
    items += [f"add.{name}={value:g}" for name, value in found.steering.add.items()]
    console.print("Score so with: " + escape(" ".join(f"--steer {item}" for item in items)))


def _percent(accuracy: Accuracy) -> str:
    if accuracy.accuracy is None or accuracy.low is None or accuracy.high is None:
        return "unknown"
    return f"{accuracy.accuracy:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
