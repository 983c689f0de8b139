"""Tables for people. No user's text is read as markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from armorm.cli.explanation_printing import print_comparison
from armorm.cli.terminal import make_console
from armorm.evaluation.accuracy import Accuracy, MethodAccuracy
from armorm.evaluation.data_account import DataAccount
from armorm.evaluation.debiasing_report import DebiasingReport
from armorm.evaluation.leave_out import LeaveOutReport
from armorm.evaluation.pages import p_value
from armorm.evaluation.run_metrics import METHODS, HeadReport, PreferenceMetrics, RunMetrics
from armorm.training import TrainingResult

console = make_console()


def print_run(result: TrainingResult) -> None:
    """Print the figures of a training run."""
    metrics = result.metrics
    print_tuning(metrics.tuning)
    console.print(_accuracy_table(metrics.preferences))
    if len(metrics.preferences.methods["gate"].sources) > 1:
        console.print(_source_table(metrics.preferences))
    if metrics.left_out is not None:
        console.print(_leave_out_table(metrics.left_out))
    print_objectives(metrics.head)
    _print_intervals(metrics.head.uncertainty)
    if metrics.debiasing.objective is not None:
        console.print(_debiasing_table(metrics.debiasing))
    _print_gate(metrics)
    if metrics.preferences.planted:
        console.print(_recovery_table(metrics.preferences))
    for warning in metrics.warnings:
        console.print(escape(warning), style="bold yellow")
    for example in result.examples:
        console.print()
        console.print(Text("prompt    ", style="bold") + Text(example.prompt))
        console.print(Text("chosen  a ", style="bold") + Text(example.chosen))
        console.print(Text("rejected b ", style="bold") + Text(example.rejected))
        wrong = "yellow" if example.mislabelled else "red"
        console.print(escape(example.verdict), style="green" if example.right else wrong)
        print_comparison(example.comparison)
    seconds = metrics.seconds
    parts = ", ".join(f"{name} {seconds[name]:.1f}" for name in seconds if name != "total")
    console.print(f"{seconds['total']:.1f} s of work ({parts})")
    written = ["model/", "metrics.json", *([result.report.name] if result.report else [])]
    console.print(f"Written to {escape(str(result.folder.path))}: {', '.join(written)}")
    if result.report is None:
        console.print(
            "No report.html: pip install 'armorm\\[report]', and armorm fit-gate writes it.",
            style="yellow",
        )


def print_tuning(reports: Mapping[str, Any]) -> None:
    """Print the reports of the trainings of the backbone."""
    for stage in ("pretraining", "finetuning", "pairwise"):
        if stage in reports:
            report, curve = reports[stage], reports[stage]["curve"]
            console.print(
                f"{stage}: {report['steps']:,} steps on {report['rows']:,} rows, loss "
                f"{curve[0]['loss']:.4f} at first, {curve[-1]['loss']:.4f} at last, "
                f"{report['seconds']:.1f} s"
            )
            if report["too_long"]:
                console.print(f"{report['too_long']:,} rows too long, skipped.", style="yellow")
    if "pretraining" in reports:
        held_out = reports["pretraining"]["accuracy"]
        console.print(
            f"Bradley–Terry accuracy: {_percent(held_out['held_out'])} of "
            f"{held_out['held_out_pairs']:,} held-out pairs"
        )
    if "finetuning" in reports:
        console.print(_finetuning_table(reports["finetuning"]["held_out"]))


def _finetuning_table(held_out: Mapping[str, Any]) -> Table:
    table = Table(title="Fine-tuning: fit on held-out ratings")
    table.add_column("objective")
    for column in ("R² of the probe", "fine-tuned", "Spearman of the probe", "fine-tuned"):
        table.add_column(column, justify="right")
    for name, probe in held_out["probe"].items():
        found = held_out["finetuned"][name]
        figures = (probe["r2"], found["r2"], probe["spearman"], found["spearman"])
        table.add_row(escape(name), *map(_decimal, figures))
    return table


def _accuracy_table(preferences: PreferenceMetrics) -> Table:
    gate = preferences.methods["gate"]
    table = Table(
        title=f"Accuracy on held-out preference pairs: {gate.all.n:,}, of which "
        f"{gate.shorter_won.n:,} won by the shorter, {gate.longer_won.n:,} by the longer response",
        caption=f"Best single objective: {escape(preferences.best_single_objective)}. Balanced: "
        "mean of shorter won and longer won. Intervals: 95 %. p: McNemar's test against the gate.",
        pad_edge=False,
    )
    table.add_column("method", min_width=18)
    for column in ("all", "shorter\nwon", "longer\nwon", "balanced", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for method, label in METHODS.items():
        one = preferences.methods[method]
        table.add_row(label, *_accuracies(one), p_value(one.mcnemar_p))
    on = preferences.gate_on_confounder
    if on is not None and on.switched_off is not None:
        table.add_row(f"gate without {escape(on.objective)}", *_accuracies(on.switched_off), "")
    return table


def _accuracies(one: MethodAccuracy) -> tuple[str, ...]:
    return (
        _with_interval(one.all),
        _percent(one.shorter_won.accuracy),
        _percent(one.longer_won.accuracy),
        _with_interval(one.balanced),
    )


IN_SHORT = ("gate", "fixed_weights", "bradley_terry_head")
"""Methods that a terminal is wide enough for; report.html has all."""


def _source_table(preferences: PreferenceMetrics) -> Table:
    table = Table(title="Held-out pairs by source", caption="All methods: report.html.")
    table.add_column("source", overflow="fold")
    for column in ("pairs", *(METHODS[method] for method in IN_SHORT)):
        table.add_column(column, justify="right")
    for name, of_gate in preferences.methods["gate"].sources.items():
        found = [preferences.methods[method].sources[name].all for method in IN_SHORT]
        table.add_row(escape(name), f"{of_gate.all.n:,}", *map(_with_interval, found))
    return table


def _leave_out_table(report: LeaveOutReport) -> Table:
    table = Table(
        title="Sources that stage 2 has not seen",
        caption=f"Mean over {len(report.counted)} sources. All methods: report.html.",
    )
    table.add_column("source left out", overflow="fold")
    for column in ("pairs", *(METHODS[method] for method in IN_SHORT)):
        table.add_column(column, justify="right")
    for name, one in report.sources.items():
        found = [one.methods[method].all for method in IN_SHORT]
        table.add_row(escape(name), f"{one.pairs:,}", *map(_with_interval, found))
    table.add_section()
    table.add_row("mean", "", *(_with_interval(report.mean(method)) for method in IN_SHORT))
    return table


def _with_interval(found: Accuracy) -> str:
    if found.low is None or found.high is None:
        return "–"
    return f"{_percent(found.accuracy)} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def print_objectives(head: HeadReport) -> None:
    """Print the fit of each objective on held-out ratings."""
    table = Table(title="Objectives: fit on held-out ratings")
    table.add_column("objective")
    for column in ("rows", "R²", "Spearman", "penalty alpha"):
        table.add_column(column, justify="right")
    for name, fit in head.objectives.items():
        table.add_row(
            escape(name),
            f"{fit.rows:,}",
            _decimal(fit.r2),
            _decimal(fit.spearman),
            f"{fit.alpha:g}",
        )
    console.print(table)


def _print_intervals(uncertainty: Mapping[str, Any]) -> None:
    if uncertainty["unavailable"] is not None:
        console.print(
            f"The model cannot say how sure it is: {escape(uncertainty['unavailable'])}",
            style="yellow",
        )
        return
    for reason in uncertainty["missing"].values():
        console.print(f"No interval: {escape(reason)}", style="yellow")
    covered = [levels["0.9"] for levels in uncertainty["coverage"].values()]
    rated = [share for share in covered if share is not None]
    if rated:
        console.print(
            f"90 % intervals cover {min(rated):.1%} to {max(rated):.1%} of the held-out ratings "
            "of an objective."
        )


def _debiasing_table(debiasing: DebiasingReport) -> Table:
    kind, other = debiasing.correlation.capitalize(), escape(debiasing.measure_name)
    table = Table(title=f"{kind} correlation with {other}, before and after debiasing")
    table.add_column("objective")
    solved = debiasing.solved()
    for rows, found in solved.items():
        table.add_column(f"{rows.replace('_', ' ')}\nbefore", justify="right", no_wrap=True)
        table.add_column(f"{found.responses:,}\nafter", justify="right", no_wrap=True)
    for name in next(iter(solved.values())).before if solved else ():
        if name not in debiasing.names:
            pairs = ((found.before[name], found.after[name]) for found in solved.values())
            table.add_row(escape(name), *(f"{value:+.3f}" for pair in pairs for value in pair))
    return table


def _print_gate(metrics: RunMetrics) -> None:
    gate, seeds = metrics.preferences.gate, metrics.gate_seeds
    calibration = metrics.preferences.calibration
    console.print(
        f"Gate: entropy {gate['entropy']:.2f} of the largest possible, "
        f"{gate['prompt_dependence']:.0%} explained by the prompt; calibration error "
        f"{_decimal(calibration.error if calibration else None)}."
    )
    on = metrics.preferences.gate_on_confounder
    if on is not None:
        shares = ", ".join(f"{share:.0%} {escape(name)}" for name, share in on.share.items())
        opinion = " (dropped by debiasing: no opinion)" if on.confounder == "dropped" else ""
        console.print(f"Of the gate's weights {shares}{opinion}.")
    if metrics.gate_shrinkage is not None:
        console.print(
            f"Shrinkage: {metrics.gate_shrinkage.share:.0%} of the logits are the gate's, the rest "
            "those of fixed weights, chosen on pairs that each fold's gate has not seen."
        )
    if seeds is not None:
        console.print(
            f"Over {len(seeds.accuracies)} seeds: accuracy {seeds.mean:.1%} ± "
            f"{seeds.standard_deviation:.1%} (standard deviation)."
        )


def _recovery_table(preferences: PreferenceMetrics) -> Table:
    table = Table(title=f"Deciding objective found: {_percent(preferences.gate_recovery)}")
    gate = preferences.methods["gate"].subsets
    for column in ("domain", "planted", "largest coefficient"):
        table.add_column(column)
    for column in ("gate", "labels", "gate against truth"):
        table.add_column(column, justify="right")
    for domain, one in preferences.planted.items():
        found = Text(str(one.found), style="green" if one.planted == one.found else "red")
        accuracies = (gate.get(domain), one.right_labels, one.truth)
        shares = ("–" if share is None else _with_interval(share) for share in accuracies)
        table.add_row(escape(domain), escape(one.planted), found, *shares)
    return table


def print_data(account: DataAccount) -> None:
    """Print the numbers of rows read, kept and skipped."""
    table = Table(title="Data")
    for column in ("kind", "read", "kept", "too long", "prompts"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind, row in account.by_kind().items():
        numbers = (row.read, row.kept, row.too_long, row.prompts)
        table.add_row(kind, *(f"{number:,}" for number in numbers))
    console.print(table)
    for kind, row in account.by_kind().items():
        if row.refused_by_template:
            console.print(
                f"{kind}: {row.refused_by_template:,} refused by the chat template, not counted.",
                style="yellow",
            )
        for reason, count in row.skipped.items():
            console.print(f"{kind}: {count:,} skipped: {escape(reason)}", style="yellow")


def print_scoring(summary: Mapping[str, Any], output: Path) -> None:
    """Print the numbers of rows scored and skipped."""
    rate = summary["scored"] / max(summary["seconds"], 1e-9)
    console.print(
        f"{summary['scored']:,} of {summary['rows']:,} rows scored into {escape(str(output))} "
        f"({rate:,.0f} rows/s)"
    )
    if summary["skipped"]:
        console.print(
            f"{summary['skipped']:,} skipped, listed in {escape(summary['invalid_file'])}",
            style="yellow",
        )


def print_pairs(summary: Mapping[str, Any], output: Path) -> None:
    """Print the numbers of pairs and of rows without one."""
    console.print(
        f"{summary['pairs']:,} pairs from {summary['rows']:,} rows into {escape(str(output))}"
    )
    for reason, count in summary["skipped"].items():
        console.print(f"{count:,} rows without a pair: {escape(reason)}", style="yellow")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
