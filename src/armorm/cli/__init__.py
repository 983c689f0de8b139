"""The command line: parsing and printing only.

Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 invalid input, 130 interrupted (SIGINT),
143 terminated (SIGTERM).
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from armorm.cli import candidates, data, exporting, heads, judging, training
from armorm.errors import ArmormError, InputError, RecipeError

app = typer.Typer(
    name="armorm",
    help="Train, score with, and explain reward models that people can read and steer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
training.register(app)
heads.register(app)
judging.register(app)
data.register(app)
candidates.register(app)
exporting.register(app)


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


def main() -> None:
    """Run the command line; deliberate errors become a message and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except ArmormError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        sys.exit(130)


def _terminate(signal_number: int, frame: object) -> None:
    """End as an interruption does, so that files and processes are closed in order."""
    del frame
    sys.stderr.write("terminated; the same command goes on where it stopped\n")
    sys.exit(128 + signal_number)


def _exit_code(error: ArmormError) -> int:
    if isinstance(error, RecipeError):
        return 2
    return 3 if isinstance(error, InputError) else 1
