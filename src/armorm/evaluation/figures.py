"""Pictures of the report, drawn by matplotlib (extra ``report``) as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from armorm.evaluation.accuracy import MethodAccuracy
from armorm.evaluation.debiasing_report import DebiasingReport
from armorm.evaluation.layer_comparison import LayerComparison
from armorm.evaluation.run_metrics import HeadReport, ObjectiveFit
from armorm.model import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOOD, BAD, QUIET = "#1a7f5a", "#b4443c", "#8a93a3"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "armorm",
    "text.parse_math": False,  # a dollar in somebody's name is a dollar
}


def accuracy_figure(accuracies: Mapping[str, MethodAccuracy], methods: Mapping[str, str]) -> Figure:
    """Draw the accuracy of every method with its interval, on all pairs and by the winner."""
    figure, axes = _figure(7.0, 1.2 + 0.5 * len(methods))
    parts = (
        ("all", "all pairs", GOOD, "o"),
        ("shorter_won", "shorter response won", BAD, "v"),
        ("longer_won", "longer response won", QUIET, "^"),
        ("balanced", "balanced: mean of both", "#444", "D"),
    )
    for offset, (part, label, color, marker) in zip((-0.27, -0.09, 0.09, 0.27), parts, strict=True):
        drawn = [
            (place + offset, found)
            for place, method in enumerate(methods)
            if (found := getattr(accuracies[method], part)).accuracy is not None
        ]
        shares = [100 * found.accuracy for _, found in drawn]
        errors = [
            [100 * (found.accuracy - found.low) for _, found in drawn],
            [100 * (found.high - found.accuracy) for _, found in drawn],
        ]
        places = [place for place, _ in drawn]
        axes.errorbar(shares, places, xerr=errors, fmt=marker, color=color, label=label, capsize=3)
    axes.axvline(50, color="#444", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(methods)), list(methods.values()))
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy on held-out pairs with its 95 % interval, % (dotted: chance)")
    figure.legend(frameon=False, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def coefficient_figure(coefficients: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw a heat map of the mean coefficients, a row per group of prompts."""
    subsets = list(coefficients)
    objectives = list(next(iter(coefficients.values())))
    values = [[coefficients[subset][name] for name in objectives] for subset in subsets]
    limit = max(abs(value) for row in values for value in row) or 1.0
    figure, axes = _figure(2.6 + 0.62 * len(objectives), 1.9 + 0.36 * len(subsets))
    axes.imshow(values, cmap="RdYlGn", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(objectives)), objectives, rotation=40, ha="right")
    axes.set_yticks(range(len(subsets)), subsets)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            color = "white" if abs(value) > 0.75 * limit else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.tick_params(length=0)
    return figure


def objective_figure(objectives: Mapping[str, ObjectiveFit]) -> Figure:
    """Draw the rank correlation of each objective with held-out ratings."""
    names = list(objectives)
    figure, axes = _figure(7.0, 1.0 + 0.26 * len(names))
    values = [objectives[name].spearman or 0.0 for name in names]
    colors = [GOOD if value > 0 else BAD for value in values]
    bars = axes.barh(names, values, color=colors, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, *values), 1.08)
    axes.set_xlabel("Spearman correlation of predicted and held-out ratings")
    return figure


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw the contribution of each objective to a margin."""
    names = [difference.objective for difference in comparison.objectives]
    values = [difference.contribution for difference in comparison.objectives]
    figure, axes = _figure(7.0, 1.0 + 0.28 * len(names))
    axes.barh(names, values, color=[GOOD if value > 0 else BAD for value in values], height=0.6)
    axes.axvline(0, color="#444", linewidth=0.8)
    axes.locator_params(axis="x", nbins=5)
    axes.invert_yaxis()
    axes.set_xlabel("← for b      contribution to score(a) − score(b)      for a →")
    return figure


def layer_figure(comparison: LayerComparison) -> Figure:
    """Draw the accuracies of the compared layers with their intervals."""
    figure, axes = _figure(6.0, 3.2)
    heads = (
        ("bradley_terry_head", "Bradley–Terry linear head", GOOD, "o", -0.1),
        ("fixed_weights", "fixed weights", QUIET, "s", 0.1),
    )
    for name, label, color, marker, offset in heads:
        accuracies = [getattr(fit, name).all for fit in comparison.fits]
        shares = [100 * one.accuracy for one in accuracies]
        errors = [
            [100 * (one.accuracy - one.low) for one in accuracies],
            [100 * (one.high - one.accuracy) for one in accuracies],
        ]
        places = [fit.layer + offset for fit in comparison.fits]
        axes.errorbar(
            places, shares, yerr=errors, color=color, marker=marker, label=label, capsize=3
        )
    axes.axvline(comparison.best, color="#444", linewidth=0.8, linestyle=":")
    axes.set_xticks([fit.layer for fit in comparison.fits])
    axes.set_xlabel("layer (dotted: least log-loss on training pairs)")
    axes.set_ylabel("held-out accuracy, %")
    figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize=9)
    return figure


def curve_figure(losses: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> Figure:
    """Draw losses over the steps of one or several trainings, the first kind in grey."""
    figure, axes = _figure(7.0, 2.4)
    for color, (label, lines) in zip((QUIET, GOOD), losses.items(), strict=False):
        for number, points in enumerate(lines):
            name = label if number == 0 else None
            axes.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def reliability_figure(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the share of right answers by the probability that the model gave them."""
    figure, axes = _figure(4.2, 3.6)
    axes.plot([50, 100], [50, 100], color="#444", linewidth=0.8, linestyle=":")
    confidence = [100 * one["confidence"] for one in bins]
    right = [100 * one["accuracy"] for one in bins]
    most = max(one["n"] for one in bins)
    axes.plot(confidence, right, color=GOOD, linewidth=1)
    axes.scatter(confidence, right, s=[12 + 130 * one["n"] / most for one in bins], color=GOOD)
    axes.set_xlim(49, 101.5)
    axes.set_ylim(min(45.0, *right) - 4, 104)
    axes.set_xlabel("said: P(preferred), %")
    axes.set_ylabel("found: right, %")
    return figure


def debiasing_figure(debiasing: DebiasingReport) -> Figure:
    """Draw the correlation of each objective with the measure, before and after."""
    from matplotlib.figure import Figure

    solved = debiasing.solved()
    names = [name for name in next(iter(solved.values())).before if name not in debiasing.names]
    figure = Figure(figsize=(8.4, 1.3 + 0.28 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(solved), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (rows, found) in zip(panels, solved.items(), strict=True):
        before, after = ([values[name] for name in names] for values in (found.before, found.after))
        axes.axvline(0, color="#444", linewidth=0.8)
        axes.hlines(names, before, after, color="#d5dae2", linewidth=2, zorder=0)
        axes.scatter(before, names, color=QUIET, label="before", s=28)
        axes.scatter(after, names, color=GOOD, label="after", s=28)
        axes.set_title(f"{rows.replace('_', ' ')}: {found.responses:,} responses", fontsize=10)
    panels[0].invert_yaxis()
    dots = panels[0].get_legend_handles_labels()
    figure.legend(*dots, frameon=False, fontsize=9, ncols=2, loc="outside upper right")
    kind = debiasing.correlation.capitalize()
    figure.supxlabel(f"{kind} correlation with {debiasing.measure_name}", fontsize=10)
    return figure


def penalty_figure(head: HeadReport) -> Figure:
    """Draw the held-out error of every penalty as a multiple of the objective's smallest one."""
    from matplotlib import colormaps

    names = list(head.objectives)
    figure, axes = _figure(7.0, max(3.0, 0.3 + 0.18 * len(names)))
    distinct = 10 if len(names) <= 10 else 20
    axes.set_prop_cycle(color=colormaps[f"tab{distinct}"](range(distinct)))
    for name, row in zip(names, head.selection_errors, strict=True):
        found = [(a, e) for a, e in zip(head.alphas, row, strict=True) if e is not None]
        least = min((error for _, error in found), default=1.0)
        alphas, ratios = [a for a, _ in found], [error / least for _, error in found]
        axes.plot(alphas, ratios, marker="o", markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}×")
    axes.yaxis.set_minor_formatter("{x:g}×")
    axes.set_xlabel("penalty alpha")
    axes.set_ylabel("error, over the smallest")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def as_svg(figure: Figure) -> str:
    """Return the figure as an SVG element; matplotlib escapes the labels it draws."""
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
