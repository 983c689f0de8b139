"""Tables about data for people. No user's text is read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from armorm.cli.terminal import make_console
from armorm.data.catalog import CatalogEntry

console = make_console()

LONGEST_TEXT = 400
"""Characters of a turn that a sample shows."""

BAR_WIDTH = 40


KINDS = {"rated": "rated", "preferences": "pairs", "benchmark": "benchmark"}


def print_catalog(entries: Iterable[CatalogEntry]) -> None:
    """Two lines a dataset, so that the table fits a narrow terminal."""
    caption = "~ from memory, not checked; armorm data show NAME says more"
    table = Table(title="Public datasets", caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    others = 46  # columns that the rest of the table takes
    table.add_column(
        "name, hub id",
        no_wrap=True,
        overflow="ellipsis",
        max_width=max(24, console.width - others),
    )
    table.add_column("kind", no_wrap=True, min_width=12)
    table.add_column("rows", justify="right", no_wrap=True, min_width=8)
    table.add_column("rates", justify="right", no_wrap=True, min_width=5)
    table.add_column("licence", no_wrap=True, overflow="ellipsis", min_width=10, max_width=12)
    for entry in entries:
        table.add_row(
            Text(entry.name, style="bold") + Text(f"\n{entry.hub_id}", style="dim"),
            ", ".join(KINDS[kind] for kind in entry.kinds),
            ("" if entry.rows is None or "rows" in entry.verified else "~") + _count(entry.rows),
            str(len(entry.objectives) or "–"),
            escape(entry.licence),
        )
    console.print(table)


def print_dataset(description: Mapping[str, Any]) -> None:
    """Everything about one dataset."""
    console.print(Text(description["name"], style="bold") + Text(f"  {description['about']}"))
    console.print(_facts(description))
    console.print(_columns_table(description))
    samples = description["sample"]
    if "unavailable" in samples:
        console.print(f"No sample: {escape(samples['unavailable'])}", style="yellow")
        return
    for kind, sample in samples.items():
        _print_sample(kind, sample)


def _facts(description: Mapping[str, Any]) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("hub", description["hub_id"])
    for part in ("config", "data_dir", "data_files"):
        if description[part]:
            facts.add_row(part.replace("_", " "), description[part])
    splits = ", ".join(description["splits"])
    others = ", ".join(description["other_splits"])
    facts.add_row("splits", f"{splits} (also {others})" if others else splits)
    facts.add_row("rows", _count(description["rows"]))
    facts.add_row("licence", escape(description["licence"]))
    for kind in ("rated", "preferences"):
        form = description[kind]
        if form is not None:
            facts.add_row(kind, escape(form["rule"]))
            for name, option in form["options"].items():
                choices = (
                    f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
                )
                facts.add_row(
                    "", escape(f"option {name} = {option['default']}{choices}: {option['meaning']}")
                )
    for defect in description["defects"]:
        facts.add_row("defect", escape(defect))
    facts.add_row("verified", ", ".join(description["verified"]) or "nothing")
    facts.add_row("from memory", ", ".join(description["from_memory"]) or "nothing")
    return facts


def _columns_table(description: Mapping[str, Any]) -> Table:
    table = Table(title="Columns that conversion needs")
    for column in ("column", "meaning", "rates", "scale"):
        table.add_column(column)
    rated = {rating["column"]: rating for rating in description["ratings"]}
    for column, meaning in description["columns"].items():
        table.add_row(escape(column), escape(meaning), *_rating_cells(rated.pop(column, None)))
    for column, rating in rated.items():  # ratings inside a column
        table.add_row(escape(column), "", *_rating_cells(rating))
    return table


def _rating_cells(rating: Mapping[str, Any] | None) -> tuple[str, str]:
    if rating is None:
        return "", ""
    return rating["objective"], f"{rating['minimum']:g} to {rating['maximum']:g}"


def _print_sample(kind: str, sample: Mapping[str, Any]) -> None:
    console.print(Text(f"\nfirst {sample['read']:,} {kind} rows", style="bold"))
    for row in sample["rows"]:
        _print_row(row)
    _print_counts("skipped", sample["left_out"])
    _print_counts("repaired", sample["notes"])
    print_histograms(sample["ratings"])


def _print_row(row: Mapping[str, Any]) -> None:
    for message in row.get("messages") or row["prompt"]:
        _print_turn(message["role"], message["content"])
    for side in ("chosen", "rejected"):
        answer = row.get(side, ())
        for text in [answer] if isinstance(answer, str) else [turn["content"] for turn in answer]:
            _print_turn(side, text)
    if "ratings" in row:
        _print_turn("ratings", ", ".join(f"{k} {v:g}" for k, v in row["ratings"].items()))
    console.print()


def _print_turn(label: str, text: str) -> None:
    shown = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    console.print(Text(f"{label:>10}  ", style="cyan") + Text(shown))


def print_histograms(ratings: Mapping[str, Mapping[str, Any]]) -> None:
    """Bars of how often each rating was given, one objective after the other."""
    for objective, counts in ratings.items():
        console.print(
            Text(f"{objective}  ", style="bold")
            + Text(f"{counts['n']:,} ratings, mean {counts['mean']:.2f}")
        )
        largest = max(count for _, count in counts["histogram"])
        for value, count in counts["histogram"]:
            bar = "█" * max(1, round(BAR_WIDTH * count / largest))
            console.print(Text(f"{value:>8g} ") + Text(bar, style="green") + Text(f" {count:,}"))


def print_manifest(manifest: Mapping[str, Any], output: Path) -> None:
    """Print what a preparation kept and skipped, source by source."""
    table = Table(title="Prepared data")
    table.add_column("source", overflow="fold")
    table.add_column("kind")
    for column in ("read", "train", "held out", "skipped"):
        table.add_column(column, justify="right")
    table.add_column("licence", overflow="fold")
    for source in manifest["sources"]:
        table.add_row(
            escape(source["source"]),
            source["kind"],
            f"{source['read']:,}",
            f"{source['rows']['train']:,}",
            f"{source['rows']['held_out']:,}",
            f"{sum(source['skipped'].values()):,}",
            escape(source["licence"] or "–"),
        )
    console.print(table)
    for source in manifest["sources"]:
        name = f"{source['kind']} {source['source']}"
        _print_counts(f"{name}: skipped", source["skipped"])
        _print_counts(f"{name}: repaired", source["notes"])
    console.print(
        f"{manifest['seconds']:.1f} s. Left in {escape(str(output))}: rated/, preferences/, "
        "left-out/, manifest.json, recipe.yaml"
    )
    console.print(f"Train on it: armorm train {escape(str(output / 'recipe.yaml'))} -o runs/mine")


def print_check(report: Mapping[str, Any]) -> None:
    """Print the faults of files, the worst first."""
    table = Table(title="Checked files")
    table.add_column("file", overflow="fold")
    table.add_column("kind")
    for column in ("rows", "valid", "invalid", "duplicates", "chosen longer"):
        table.add_column(column, justify="right")
    for file in report["files"]:
        longer = file["lengths"]["chosen_longer"]
        table.add_row(
            escape(file["file"]),
            file["kind"],
            f"{file['rows']:,}",
            f"{file['kept']:,}",
            f"{_total(file['invalid']):,}",
            f"{_total(file['duplicates']):,}",
            "–" if longer is None else f"{longer:.1%}",
        )
    console.print(table)
    for file in report["files"]:
        _print_findings(file["invalid"], "red")
        _print_findings(file["duplicates"], "yellow")
        print_histograms(file["ratings"])
    if report["prompts"] is not None:
        console.print(f"{report['prompts']['distinct']:,} distinct prompts")
        _print_findings(report["prompts"]["near"], "yellow")
    for name, found in report["contamination"].items():
        _print_contamination(name, found)
    if not report["contamination"]:
        console.print("Not compared with a benchmark: add --against reward-bench")


def _print_contamination(name: str, found: Mapping[str, Any]) -> None:
    table = Table(title=f"{escape(name)}: {found['benchmark_rows']:,} rows")
    table.add_column("part")
    table.add_column("of the benchmark, found", justify="right")
    table.add_column("rows here that hold it", justify="right")
    for part, count in found["found"].items():
        table.add_row(part, f"{count:,}", f"{found['rows_with_overlap'][part]:,}")
    console.print(table)
    _print_counts("found by subset", found["found_by_subset"])
    for example in found["examples"]:
        console.print(f"  {escape(_in_words(example))}", style="yellow")


def _print_findings(findings: Mapping[str, Any], style: str) -> None:
    for sort, finding in findings.items():
        console.print(f"{finding['count']:,}  {escape(sort)}", style=style)
        for example in finding["examples"]:
            console.print(f"     {escape(_in_words(example))}", style="dim")


def _print_counts(title: str, counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        console.print(f"{escape(title)}: {count:,}  {escape(reason)}", style="yellow")


def _total(findings: Mapping[str, Any]) -> int:
    return sum(finding["count"] for finding in findings.values())


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _in_words(example: object) -> str:
    """``prompt: a row, like: another, similarity: 0.8`` of a mapping; anything else as it is."""
    if not isinstance(example, Mapping):
        return str(example)
    return ", ".join(f"{name}: {value}" for name, value in example.items())
