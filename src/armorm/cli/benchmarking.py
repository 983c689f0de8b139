"""The command ``armorm benchmark``: any scorers on any benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    BenchmarkLoading,
    From,
    Json,
    Loading,
    Profile,
    Quiet,
    SkipInvalid,
    Steer,
    show_progress,
)
from armorm.cli.scorers import Scorers, open_model
from armorm.cli.terminal import print_json
from armorm.errors import RecipeError
from armorm.evaluation.scorers.options import ScorerOptions

if TYPE_CHECKING:
    from armorm.data import InvalidPolicy
    from armorm.evaluation.scorers import Scorer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add_command(
        app,
        benchmark,
        panel="Judge",
        example="armorm benchmark runs/quickstart/model length pairs.jsonl --compare",
        resumable=True,
    )


def benchmark(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Benchmarks: reward-bench, reward-bench-2, rm-bench, judgebench, rmb, "
            "ppe-preference, if-reward-bench, preference-test-sets, or all; or preference pairs: "
            "a file, a pattern, or DATASET@SPLIT. Anything else is a model: a folder, a hub id, "
            "fixed:MODEL, bradley-terry-head:RUN, the address of a server, length, random.",
            metavar="MODEL... NAME...",
            show_default=False,
        ),
    ] = None,
    root: From = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write scores, results.json, report.html and the files of other programs here. "
            "Scores that are there are not made again.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    objectives: Annotated[
        bool, typer.Option("--objectives", help="Also report each objective alone.")
    ] = False,
    fixed_weights: Annotated[
        bool,
        typer.Option(
            "--fixed-weights",
            help="Also report the gate against fixed weights (Table 2 of the paper): those trained "
            "beside it, else the mean of its coefficients.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Test every pair of models, with Holm's correction."),
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="No model: rows {id, scores: [chosen…, rejected…]} in the benchmark's order, or "
            "RewardBench's _outputs.jsonl.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    profile: Profile = None,
    *,
    scoring: Scorers,
    loading: BenchmarkLoading,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score benchmarks and preference pairs with one or several models.

    Every figure has its 95 % interval; a tie counts as wrong. Nothing is cut: rows that are too
    long for a model are counted and shown.
    """
    from armorm.evaluation.benchmarks.suite import (
        ALL,
        Detail,
        given_result,
        load_suite,
        named_benchmark,
        run_suite,
    )

    invalid: InvalidPolicy = "skip" if skip_invalid else "error"
    given = list(dict.fromkeys(names or []))
    asked = [name for name in given if name == ALL or named_benchmark(name) is not None]
    models = [name for name in given if name not in asked]
    renders: dict[str, Callable[..., str]] = {}
    if output is not None:
        from armorm.evaluation.benchmarks.result_files import check_results_folder, write_results

        check_results_folder(output)
    if scores is not None:
        flags = {"compare": compare, "objectives": objectives, "fixed-weights": fixed_weights}
        _check_one_benchmark(given, ALL, flags)
        result = given_result(scores, given[0] if given else None, root, invalid=invalid)
    else:
        _check_names(asked, models, compare)
        shown = show_progress(quiet)
        suite = load_suite(asked, root, invalid=invalid, show_progress=shown)
        result = run_suite(
            suite,
            {name: _opening(name, scoring, loading, steer, profile, renders) for name in models},
            None if output is None else output / "scores",
            detail=Detail(objectives, fixed_weights),
            compare=compare,
            invalid=invalid,
            show_progress=shown,
        )
    if output is not None:
        write_results(output, result, renders)
    if as_json:
        print_json(result.as_dict())
    else:
        from armorm.cli.benchmark_printing import print_benchmarks

        print_benchmarks(result, output)


def _check_one_benchmark(given: Sequence[str], every: str, flags: Mapping[str, bool]) -> None:
    """Check the arguments beside ``--scores``: one benchmark at most, and nothing of a model."""
    if len(given) > 1 or every in given:
        raise RecipeError("--scores FILE takes the name of one benchmark, and no model.")
    if needless := [f"--{flag}" for flag, is_on in flags.items() if is_on]:
        raise RecipeError(f"--scores FILE has no model: leave out {', '.join(needless)}.")


def _check_names(asked: Sequence[str], models: Sequence[str], compare: bool) -> None:
    if not asked or not models:
        missing = "a benchmark or a preference file" if models else "a model"
        raise RecipeError(f"Name {missing}: armorm benchmark MODEL... NAME...")
    if compare and len(models) < 2:
        raise RecipeError(f"--compare needs two models or more; there is only {models[0]}.")


def _opening(
    name: str,
    scoring: ScorerOptions,
    loading: Loading,
    steer: list[str] | None,
    profile: str | None,
    renders: dict[str, Callable[..., str]],
) -> Callable[[], Scorer]:
    """Return how a scorer is opened; its chat template is kept for the files that show text."""

    def open_it() -> Scorer:
        scorer = open_model(name, scoring, loading, steer, profile)
        backbone = getattr(getattr(scorer, "model", None), "backbone", None)
        if backbone is not None:
            renders[scorer.name] = backbone.encoder.render
        return scorer

    return open_it
