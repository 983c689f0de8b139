"""Tables about a fitted head. No user's text is read as markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from armorm.cli.printing import console
from armorm.errors import shorten


def print_head_errors(report: Mapping[str, Any]) -> None:
    """Print the least held-out error of every objective, and the penalty that gives it."""
    table = Table(title="Mean squared error in unit rewards, from the statistics")
    table.add_column("objective")
    for title in ("fold left out", "alpha", "source left out", "alpha"):
        table.add_column(title, justify="right")
    for name, errors in report["objectives"].items():
        cells = []
        for way in ("folds", "sources"):
            found = errors[way]
            best = None if found is None else min(range(len(found)), key=found.__getitem__)
            cells += (
                ["", ""] if best is None else [f"{found[best]:.4f}", f"{report['alphas'][best]:g}"]
            )
        table.add_row(escape(name), *cells)
    console.print(table)


def print_influence(report: Mapping[str, Any]) -> None:
    """Print the rows that pushed a prediction most, with the effect of each one."""
    table = Table(
        title=f"{escape(report['objective'])}: predicted {report['prediction']:.2f}",
        show_lines=True,
    )
    table.add_column("effect", justify="right")
    table.add_column("rated", justify="right")
    table.add_column("predicted", justify="right")
    table.add_column("training row")
    for row in report["rows"]:
        lines = [f"[bold]{escape(row['source'])}[/bold] {escape(row['id'])}"]
        if row["response"] is not None:
            lines += [
                escape(shorten(row["prompt"][-1]["content"])),
                escape(shorten(row["response"])),
            ]
        table.add_row(
            f"{row['effect']:+.4f}",
            f"{row['rating']:.2f}",
            f"{row['predicted']:.2f}",
            "\n".join(lines),
        )
    console.print(table)
    console.print(
        f"effect: the prediction with the row minus without it, in rating units, over "
        f"{report['rows_searched']:,} training rows."
    )
    if report["rows_elsewhere"]:
        console.print(
            f"{report['rows_elsewhere']:,} rows of the head have their features in other run "
            "folders and were not looked at.",
            style="yellow",
        )
