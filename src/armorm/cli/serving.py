"""The command that serves a model over HTTP."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from armorm.cli.flags import Flags, add_command
from armorm.cli.options import (
    Loading,
    ModelArgument,
    Profile,
    Steer,
    hide_library_progress,
    parse_steering,
)
from armorm.cli.terminal import print_line
from armorm.errors import MissingExtraError
from armorm.evaluation.monitoring.options import MonitorOptions, ReportingOptions
from armorm.serving.options import BatchingOptions, ServerOptions

_LIMITS = (
    "max_body_mb",
    "max_conversations",
    "max_responses",
    "max_messages",
    "max_connections",
    "deadline",
    "max_deadline",
    "receive_timeout",
    "keep_alive",
    "drain_timeout",
)
_SERVER = tuple(name for name in ServerOptions.model_fields if name not in _LIMITS)
_MODEL = (
    "revision",
    "device",
    "dtype",
    "verify",
    "max_length",
    "overlong",
    "compile_model",
    "engine",
    "engine_options",
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add_command(app, serve, panel="Judge", example="armorm serve runs/quickstart/model --port 8000")


def serve(
    model: ModelArgument,
    steer: Steer = None,
    profile: Profile = None,
    *,
    server: Annotated[ServerOptions, Flags(*_SERVER, panel="Server")],
    limits: Annotated[ServerOptions, Flags(*_LIMITS, panel="Limits")],
    batching: Annotated[BatchingOptions, Flags(panel="Batching")],
    loading: Annotated[Loading, Flags(*_MODEL, panel="Model", overlong="error")],
    monitor: Annotated[
        bool,
        typer.Option(
            "--monitor", help="Watch what is scored for drift.", rich_help_panel="Drift monitor"
        ),
    ] = False,
    monitoring: Annotated[MonitorOptions, Flags(panel="Drift monitor", prefix="monitor")],
    reporting: Annotated[ReportingOptions, Flags(panel="Drift monitor", prefix="monitor")],
) -> None:
    """Serve a model over HTTP, to RL trainers and other programs.

    Requests that arrive together share batches. The address is printed when the server is ready;
    logs are JSON lines on standard error. SIGTERM answers what was taken and stops; SIGHUP loads
    the model folder again.
    """
    from armorm.model import Steering

    try:
        from armorm.serving.running import ServeSettings
        from armorm.serving.running import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "starlette"):
            raise
        raise MissingExtraError("The reward server", "serve") from None
    hide_library_progress()
    judging = parse_steering(steer, profile)
    settings = ServeSettings(
        model=model,
        loading=loading.arguments(),
        steering=judging if isinstance(judging, Steering) else None,
        profile=None if isinstance(judging, Steering) else judging,
        batching=batching,
        server=server.model_copy(update=limits.model_dump(exclude_unset=True)),
        monitor=monitor,
        monitoring=monitoring,
        reporting=reporting,
    )
    run(settings, _announce)


def _announce(line: str) -> None:
    print_line(line)
    sys.stdout.flush()  # a script waits for the address
