"""Tables of benchmarks for people. No user's text is read as markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from armorm.cli.terminal import make_console
from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.published import COLUMNS, TableRow, table_1, table_2
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.rm_bench import STYLES
from armorm.evaluation.benchmarks.suite import SuiteResult
from armorm.evaluation.pages import p_value

console = make_console()
LISTED = 3
"""Errors of rows that are printed; --json has all of them."""


def print_benchmarks(result: SuiteResult, output: Path | None) -> None:
    """Print figures, subsets, tables of the paper, comparisons and notes."""
    for name, found in result.results.items():
        console.print(_figures(name, found))
        if set(found[0].whole.subsets) - set(found[0].whole.figures):
            console.print(_subsets(found))
        for note in found[0].data_notes:
            console.print(f"{escape(note)}.", style="yellow")
        for one in found:
            if one.whole.matrices:
                console.print(_matrix(one))
            if one.parts:
                console.print(_parts(one))
            _print_notes(one)
        if result.comparisons.get(name):
            console.print(_comparisons(result, name))
    _print_paper(result)
    for name, reason in result.absent.items():
        console.print(f"Not run: {escape(name)}: {escape(reason)}", style="yellow")
    if output is not None:
        console.print(f"Written to {escape(str(output))}: results.json, report.html, scores/")


def _columns(title: str, first: str, results: Sequence[BenchmarkResult]) -> Table:
    table = Table(title=escape(title))
    table.add_column(first)
    table.add_column("rows", justify="right")
    for result in results:
        table.add_column(escape(result.scorer), justify="right", overflow="fold")
    return table


def _rows(
    table: Table,
    results: Sequence[BenchmarkResult],
    of: Callable[[BenchmarkResult], Mapping[str, Estimate]],
) -> None:
    for name in dict.fromkeys(name for result in results for name in of(result)):
        estimates = [of(result).get(name, Estimate(None, 0)) for result in results]
        counts = "/".join(dict.fromkeys(f"{estimate.n:,}" for estimate in estimates))
        table.add_row(escape(name), counts, *map(estimate_text, estimates))


def _figures(name: str, results: Sequence[BenchmarkResult]) -> Table:
    table = _columns(f"{name} (95 % intervals)", "figure", results)
    _rows(table, results, lambda result: result.whole.figures)
    table.add_section()
    _rows(
        table,
        results,
        lambda result: {
            "pairs, at equal length": result.style.equal_length,
            "pairs, at equal style": result.style.equal_style,
        },
    )
    return table


def _subsets(results: Sequence[BenchmarkResult]) -> Table:
    table = _columns("By subset", "subset", results)
    _rows(table, results, lambda result: result.whole.subsets)
    return table


def _matrix(result: BenchmarkResult) -> Table:
    table = Table(title=escape(f"{result.scorer}: right answer (rows) beats wrong one (columns)"))
    table.add_column("right \\ wrong")
    for style in STYLES:
        table.add_column(style, justify="right")
    for style, row in zip(STYLES, result.whole.matrices["all domains"], strict=True):
        table.add_row(style, *(f"{value:.1%}" for value in row))
    return table


SHOWN = 7


def _parts(result: BenchmarkResult) -> Table:
    figures = list(result.whole.figures)[:SHOWN]
    table = Table(title=escape(f"{result.scorer}, {result.benchmark}: one part alone"))
    table.add_column("part")
    for name in figures:
        table.add_column(escape(name), justify="right")
    for name, part in result.parts.items():
        table.add_row(escape(name), *(percent(part.figures[figure]) for figure in figures))
    table.add_section()
    table.add_row("the score", *(percent(result.whole.figures[figure]) for figure in figures))
    return table


def _comparisons(result: SuiteResult, name: str) -> Table:
    found = result.comparisons[name]
    tests = sorted({one.test for one in found})
    table = Table(
        title=escape(f"{name}: paired comparison on {found[0].n:,} rows"),
        caption=f"Test: {', '.join(tests)}; the last column is corrected by Holm.",
    )
    table.add_column("a", overflow="fold")
    table.add_column("b", overflow="fold")
    for column in ("a − b (95 %)", "only a", "only b", "p", "p, Holm"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(
            escape(one.a),
            escape(one.b),
            f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})",
            f"{one.only_a:,}",
            f"{one.only_b:,}",
            p_value(one.p_value),
            p_value(one.p_holm),
        )
    return table


def _print_paper(result: SuiteResult) -> None:
    if "reward-bench" not in result.results:
        return
    found = result.results["reward-bench"], result.results.get("preference-test-sets", [])
    console.print(_paper("Table 1 of the paper, and ours", table_1(*found)))
    if rows := table_2(*found):
        console.print(_paper("Table 2 of the paper, and ours", rows))


def _paper(title: str, rows: Sequence[TableRow]) -> Table:
    sources = {row.source for row in rows if row.source}
    caption = f"Published rows: {', '.join(sorted(sources))}; their board score is computed."
    table = Table(title=title, caption=caption)
    table.add_column("method", overflow="fold")
    table.add_column("base model")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    published = True
    for row in rows:
        if published and not row.source:
            table.add_section()
            published = False
        cells = (percent(row.values[column]) for column in COLUMNS)
        table.add_row(escape(row.method), escape(row.base), *cells)
    return table


def _print_notes(result: BenchmarkResult) -> None:
    for note in result.notes:
        console.print(f"{escape(result.scorer)}: {escape(note)}.", style="yellow")
    for error in result.invalid[:LISTED]:
        place = f"{error['file']}, row {error['row']}" if error["row"] else error["file"]
        said = f"{place}: {error['field']}: {error['reason']}"
        console.print(f"Not counted: {escape(said)}", style="yellow")
    if len(result.invalid) > LISTED:
        console.print(f"… and {len(result.invalid) - LISTED:,} more (--json).", style="yellow")


def estimate_text(estimate: Estimate) -> str:
    """Return a figure with its interval, in percent."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return percent(estimate)
    return f"{percent(estimate)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def percent(estimate: Estimate) -> str:
    """Return a figure in percent."""
    return "–" if estimate.value is None else f"{100 * estimate.value:.1f}"
