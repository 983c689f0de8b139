"""The page that a person reads after a run: one HTML file that needs nothing from outside.

Pictures are inline SVG by matplotlib (extra ``report``); every text goes through jinja2's
escaping, so no prompt or response becomes HTML.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armorm.data import DataSource, read_preferences
from armorm.errors import InputError
from armorm.evaluation import figures
from armorm.evaluation.layer_comparison import LayerComparison
from armorm.evaluation.leave_out import FEWEST_PAIRS
from armorm.evaluation.pages import p_value, write_page
from armorm.evaluation.run_metrics import METHODS, RunMetrics
from armorm.files import write_atomically
from armorm.heads.metrics import LEVELS
from armorm.model import Comparison, RewardModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_COMPARED = 200
"""Held-out pairs that are compared in search of a right and of a wrong decision."""


@dataclass(frozen=True, slots=True)
class ExplainedPair:
    """A preference pair and the model's comparison of its responses.

    Attributes:
        prompt: Text of the last user turn.
        chosen: The preferred response, ``a`` of the comparison.
        rejected: The other one, ``b``.
        comparison: The comparison.
        mislabelled: The label is known to be wrong: it was planted so.
    """

    prompt: str
    chosen: str
    rejected: str
    comparison: Comparison
    mislabelled: bool = False

    @property
    def right(self) -> bool:
        """The model prefers the chosen response; a tie is wrong."""
        return self.comparison.preferred == "a"

    @property
    def verdict(self) -> str:
        """One sentence that says what was decided, rightly or wrongly, and by what."""
        preferred = self.comparison.preferred
        if preferred == "tie":
            return "Wrong: a tie, where people chose a."
        one = max(
            self.comparison.objectives,
            key=lambda found: found.contribution if preferred == "a" else -found.contribution,
        )
        if self.right:
            outcome = "Right: the model and people prefer a"
        elif self.mislabelled:
            outcome = "The model prefers b, people chose a, but this label was planted wrong"
        else:
            outcome = "Wrong: the model prefers b, people chose a"
        return (
            f"{outcome}. {one.objective} decides: predicted at {one.rating_a:.2f} for a and "
            f"{one.rating_b:.2f} for b, it contributes {one.contribution:+.3f} to the margin of "
            f"{self.comparison.margin:+.3f}; its coefficient is {one.coefficient:+.2f} for this "
            "prompt."
        )


def explained_pairs(
    model: RewardModel, pairs: Path, mislabelled: Collection[str] = ()
) -> tuple[ExplainedPair, ...]:
    """Compare pairs whose shorter response was preferred; return a right and a wrong decision.

    Each is the one of its kind in which length argues most against the label, among the 200 pairs
    where it does so most; the right one comes first. A pair is chosen by nothing else, and what
    does not occur is missing. Where labels are known to be wrong, a decision against such a label
    comes last: the model may well be right there.

    Args:
        model: The model.
        pairs: File of preference rows.
        mislabelled: Ids of the pairs whose label is known to be wrong.
    """
    rows = read_preferences([DataSource(path=str(pairs))]).rows
    shorter_won = [pair for pair in rows if len(pair.chosen) < len(pair.rejected)]
    shorter_won.sort(key=lambda pair: len(pair.chosen) - len(pair.rejected))
    kinds = [(True, False), (False, False), *([(False, True)] if mislabelled else [])]
    found: dict[tuple[bool, bool], ExplainedPair] = {}
    for pair in shorter_won[:MOST_COMPARED]:
        try:
            comparison = model.compare(pair.prompt, pair.chosen, pair.rejected)
        except InputError:  # too long for this model, or without a finite score
            continue
        prompt = pair.prompt[-1]["content"]
        explained = ExplainedPair(
            prompt, pair.chosen, pair.rejected, comparison, pair.id in mislabelled
        )
        found.setdefault((explained.right, explained.mislabelled), explained)
        if all(kind in found for kind in kinds):
            break
    return tuple(found[kind] for kind in kinds if kind in found)


def write_run_report(
    file: Path, title: str, metrics: RunMetrics, examples: Sequence[ExplainedPair] = ()
) -> Path | None:
    """Write the page, unless matplotlib is not installed.

    Returns:
        The file, or None.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    with mpl.rc_context(figures.STYLE):
        pictures = {name: figures.as_svg(figure) for name, figure in _pictures(metrics)}
        comparisons = [
            figures.as_svg(figures.comparison_figure(example.comparison)) for example in examples
        ]
    filters = {
        "percent": lambda value: "–" if value is None else f"{value:.1%}",
        "decimal": lambda value: "–" if value is None else f"{value:.3f}",
        "p": p_value,
    }
    write_page(
        file,
        "run.html.jinja",
        filters,
        trim=False,
        run=title,
        metrics=metrics,
        preferences=metrics.preferences,
        methods=METHODS,
        levels=LEVELS,
        fewest_pairs=FEWEST_PAIRS,
        pictures=pictures,
        examples=examples,
        comparisons=comparisons,
    )
    return file


def write_layer_figure(file: Path, comparison: LayerComparison) -> Path | None:
    """Write the picture of a comparison of layers as SVG, unless matplotlib is not installed.

    Returns:
        The file, or None.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    with mpl.rc_context(figures.STYLE):
        picture = figures.as_svg(figures.layer_figure(comparison))
    write_atomically(file, picture.encode())
    return file


def _pictures(metrics: RunMetrics) -> Iterator[tuple[str, Figure]]:
    preferences, debiasing = metrics.preferences, metrics.debiasing
    yield "accuracy", figures.accuracy_figure(preferences.methods, METHODS)
    yield "coefficients", figures.coefficient_figure(preferences.coefficients)
    sources = preferences.coefficients_by_source
    if len(sources) > 1 and sources != preferences.coefficients:
        yield "sources", figures.coefficient_figure(sources)
    yield "objectives", figures.objective_figure(metrics.head.objectives)
    for stage, report in metrics.tuning.items():
        points = [(point["step"], point["loss"]) for point in report["curve"]]
        yield stage, figures.curve_figure({"mean loss": [points]})
    if metrics.gate_curve:
        yield "curve", figures.curve_figure(_losses(metrics))
    if preferences.calibration is not None:
        yield "reliability", figures.reliability_figure(preferences.calibration.bins)
    if debiasing.objective is not None and debiasing.solved():
        yield "debiasing", figures.debiasing_figure(debiasing)
    if metrics.head.selection_errors:
        yield "penalties", figures.penalty_figure(metrics.head)


def _losses(metrics: RunMetrics) -> dict[str, list[list[tuple[int, float]]]]:
    """Return the losses on training and validation pairs, a line for each fold."""
    folds = sorted({point.fold for point in metrics.gate_curve})
    by_fold = [[point for point in metrics.gate_curve if point.fold == fold] for fold in folds]
    losses = {"training pairs": [[(p.step, p.loss) for p in points] for points in by_fold]}
    validated = [
        [(p.step, p.validation_loss) for p in points if p.validation_loss is not None]
        for points in by_fold
    ]
    return losses | ({"validation pairs": validated} if all(validated) else {})
