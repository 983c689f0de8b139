"""Tables about a fitted head. No user's text is read as markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from armorm.cli.printing import console
from armorm.errors import shorten
from armorm.evaluation.accuracy import Accuracy
from armorm.evaluation.layer_comparison import LayerComparison
from armorm.evaluation.pages import p_value


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


def print_layers(comparison: LayerComparison, output: Path) -> None:
    """Print the comparison of layers, and the line of a recipe that chooses the best one."""
    table = Table(
        title=f"Layers of {escape(comparison.model)} ({comparison.layers}): "
        f"{comparison.held_out_pairs:,} held-out pairs, 95 % intervals"
    )
    table.add_column("layer", justify="right")
    for title in ("log-loss", "linear head", "p", "fixed weights", "R²", "Spearman"):
        table.add_column(title, justify="right", no_wrap=True)
    for fit in comparison.fits:
        linear, fixed = fit.bradley_terry_head, fit.fixed_weights
        table.add_row(
            str(fit.layer),
            f"{fit.log_loss:.4f}",
            _share(linear.all),
            p_value(linear.mcnemar_p),
            _share(fixed.all),
            "–" if fit.r2.value is None else f"{fit.r2.value:.2f}",
            "–" if fit.spearman.value is None else f"{fit.spearman.value:.2f}",
            style="bold green" if fit.layer == comparison.best else None,
        )
    console.print(table)
    console.print(
        "log-loss: of the linear Bradley–Terry head on training pairs, cross-validated by prompt; "
        "it chooses the layer. p: McNemar's test of that head against the deepest layer. R², "
        "Spearman: means over objectives with enough held-out ratings; intervals: layers.json."
    )
    console.print(f"Recipe: {comparison.recipe_line}")
    best = escape(str(output / "layers" / str(comparison.best)))
    console.print(f"armorm train {best}/recipe.yaml -o {best} goes on with its features.")


def _share(found: Accuracy) -> str:
    if found.accuracy is None or found.low is None or found.high is None:
        return "–"
    return f"{found.accuracy:.1%} ({100 * found.low:.0f}–{100 * found.high:.0f})"


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
