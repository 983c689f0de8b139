"""Tables about drift. No user's text is read as markup."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from armorm.cli.printing import console
from armorm.errors import shorten
from armorm.evaluation.monitoring import Alarm, MonitorReport


def print_monitor_report(report: MonitorReport) -> None:
    """Print the alarms of a file, and the evidence of every stream at its end."""
    console.print(
        f"{report.responses:,} responses to {report.units:,} prompts in {report.steps:,} steps"
    )
    if report.learning:
        console.print("The file ended before the baseline was complete: lower --baseline.")
    for alarm in report.alarms:
        _print_alarm(alarm)
    if not report.alarms:
        console.print("No alarm.")
    _print_streams(report)


def _print_alarm(alarm: Alarm) -> None:
    console.print(f"[bold red]Step {alarm.step}:[/] {escape(alarm.sentence)}")
    for one in alarm.moved:
        console.print(f"  {one.value:.3g}  {escape(shorten(one.response, 90))}", highlight=False)


def _print_streams(report: MonitorReport) -> None:
    rung = {alarm.stream for alarm in report.alarms}
    table = Table(title="Streams at the end")
    table.add_column("stream")
    table.add_column("evidence, log10", justify="right")
    table.add_column("needed", justify="right")
    table.add_column("last 64 prompts, deviations", justify="right")
    for name, evidence in report.evidence.items():
        move = report.moves.get(name)
        table.add_row(
            escape(name),
            f"{evidence:.1f}",
            f"{report.needed:.1f}",
            "–" if move is None else f"{move:+.2f}",
            style="bold red" if name in rung else None,
        )
    console.print(table)
