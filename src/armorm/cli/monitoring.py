"""The command that looks for drift in scored responses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armorm.cli.flags import Flags, add_command
from armorm.cli.options import Json, ModelArgument
from armorm.cli.terminal import print_json
from armorm.evaluation.monitoring.options import MonitorOptions

ALARM = 4
"""Exit code if an alarm rang, that of a broken rule."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add_command(
        app,
        monitor,
        panel="Judge",
        example="armorm monitor runs/quickstart/model scored.jsonl --step 64",
    )


def monitor(
    model: ModelArgument,
    scored: Annotated[
        Path,
        typer.Argument(
            help="What `armorm score` wrote, in the order in which it was produced.",
            metavar="SCORED",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Scored rows that the baseline is learned from. Default: the first of SCORED.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    step: Annotated[
        int, typer.Option(help="Responses of a step; equal prompts in it are one.", min=1)
    ] = 256,
    *,
    options: Annotated[MonitorOptions, Flags(panel="Monitor")],
    as_json: Json = False,
) -> None:
    """Look for drift in scored responses: which objective moved, which way, since when.

    The responses of a policy in training, or of a service, are read in their order. Alarms may be
    looked at after every step: without any change, the probability of a false one, ever, is at most
    --false-alarm. Exits with 4 if an alarm rings.
    """
    from armorm.data.sources import file_rows
    from armorm.evaluation.monitoring import DriftMonitor, monitor_file

    first = next(iter(file_rows(scored)), None)
    novelty = first is not None and isinstance(first.fields, dict) and "novelty" in first.fields
    found = monitor_file(
        DriftMonitor.of_folder(model, options, novelty=novelty),
        scored,
        reference=reference,
        step=step,
    )
    if as_json:
        print_json(found.as_dict())
    else:
        from armorm.cli.monitor_printing import print_monitor_report

        print_monitor_report(found)
    if found.alarms:
        raise typer.Exit(ALARM)
