"""The application: its commands under the headings of what people come for."""

from __future__ import annotations

from typing import Annotated

import typer

from armorm.cli import (
    auditing,
    benchmarking,
    candidates,
    data,
    exporting,
    formats,
    heads,
    judging,
    monitoring,
    serving,
    steering,
    training,
    viewing,
)

app = typer.Typer(
    name="armorm",
    help="Train, score with, and explain reward models that people can read and steer.",
    epilog="Start:  armorm train quickstart -o runs/quickstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MODULES = (
    training,
    judging,
    steering,
    monitoring,
    viewing,
    serving,
    benchmarking,
    auditing,
    data,
    heads,
    candidates,
    exporting,
    formats,
)
for module in MODULES:
    module.register(app)


def _print_version(asked: bool) -> bool:
    if asked:
        from armorm import __version__

        typer.echo(f"armorm {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version
