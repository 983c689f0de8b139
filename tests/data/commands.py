"""The command line, run in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from armorm.cli import app
from armorm.errors import ArmormError


def command(*arguments: object) -> tuple[int, str]:
    """Run the command line in this process; a traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ArmormError):
        return 2, str(result.exception)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.exit_code, result.output
