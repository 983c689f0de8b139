"""The page a person reads after a run: one HTML file that needs nothing from outside.

Pictures are inline SVG by matplotlib (extra ``report``); every text goes through jinja2's
escaping, so no prompt or response becomes HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from armorm.data import DataSource, read_preferences
from armorm.evaluation import figures
from armorm.files import write_atomically
from armorm.heads.metrics import LEVELS
from armorm.model import Comparison, RewardModel

METHODS = {
    "gate": "gate",
    "fixed_weights": "fixed weights",
    "best_single_objective": "best single objective",
    "length": "longer response",
}
COLLAPSED_GATE = (
    "The gate has collapsed: one objective takes nearly all weight on every prompt. Try fewer "
    "steps, a lower starting beta, or a higher temperature."
)

Example = tuple[Mapping[str, str], Comparison]


def example_comparison(model: RewardModel, run: Path) -> Example | None:
    """Compare the first held-out pair whose shorter response was preferred, if there is one.

    Chosen by length alone, not by how well the model does on it.
    """
    pairs = read_preferences([DataSource(path=str(run / "held_out_pairs.jsonl"))]).rows
    shorter_won = (pair for pair in pairs if len(pair.chosen) < len(pair.rejected))
    for pair in shorter_won:
        if model.backbone.encoder.encode_or_skip(pair.prompt, pair.responses) is None:
            continue
        texts = {
            "prompt": pair.prompt[-1]["content"],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        return texts, model.compare(pair.prompt, pair.chosen, pair.rejected)
    return None


def write_run_report(run: Path, metrics: Mapping[str, Any], example: Example | None) -> Path | None:
    """Write ``report.html`` into the run folder; ``None`` where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    with mpl.rc_context(figures.STYLE):
        pictures = {name: figures.as_svg(figure) for name, figure in _pictures(metrics, example)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("armorm.evaluation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    environment.filters["decimal"] = lambda value: "–" if value is None else f"{value:.3f}"
    page = environment.get_template("run.html.jinja").render(
        run=run.name,
        metrics=metrics,
        methods=METHODS,
        levels=LEVELS,
        pictures=pictures,
        example=example,
        collapsed_gate=COLLAPSED_GATE,
        largest=_largest_correlations(metrics["debiasing"]),
    )
    file = run / "report.html"
    write_atomically(file, page.encode("utf-8", "surrogatepass"))
    return file


def solved_correlations(debiasing: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of a debiasing report, what the debiasing was solved for, by set of rows."""
    wanted = (debiasing["confounder"], debiasing["correlation"])
    return {
        found["rows"]: found
        for found in debiasing["found"]
        if (found["confounder"], found["correlation"]) == wanted
    }


def _largest_correlations(debiasing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of every correlation with every confounder, the largest over the other objectives."""
    return [
        {
            **{key: found[key] for key in ("rows", "responses", "confounder", "correlation")},
            **{
                when: max(
                    (abs(value) for name, value in found[when].items() if name != left_out),
                    default=None,
                )
                for when in ("before", "after")
            },
        }
        for left_out in [debiasing["objective"]]
        for found in debiasing["found"]
    ]


def _pictures(metrics: Mapping[str, Any], example: Example | None) -> Iterator[tuple[str, Any]]:
    yield "accuracy", figures.accuracy_figure(metrics, METHODS)
    yield "coefficients", figures.coefficient_figure(metrics["coefficients"])
    sources = metrics["coefficients_by_source"]
    if len(sources) > 1 and sources != metrics["coefficients"]:
        yield "sources", figures.coefficient_figure(sources)
    yield "objectives", figures.objective_figure(metrics["objectives"])
    for stage in ("pretraining", "finetuning"):
        if stage in metrics:
            yield stage, figures.curve_figure(metrics[stage]["curve"], "mean loss")
    if metrics["gate_curve"]:
        yield "curve", figures.curve_figure(metrics["gate_curve"], "training pairs")
    if metrics["calibration"] is not None:
        yield "reliability", figures.reliability_figure(metrics["calibration"]["bins"])
    debiasing = metrics["debiasing"]
    if debiasing["objective"] is not None and (solved := solved_correlations(debiasing)):
        confounder = debiasing["confounder"]
        yield (
            "debiasing",
            figures.debiasing_figure(
                solved,
                debiasing["objective"],
                debiasing["objective"] if confounder == "objective" else confounder,
                debiasing["correlation"],
            ),
        )
    head = metrics["head"]
    if head["selection_errors"]:
        names = list(metrics["objectives"])
        yield "penalties", figures.penalty_figure(head["alphas"], head["selection_errors"], names)
    if example is not None:
        yield "comparison", figures.comparison_figure(example[1])
