"""Commands that use a model: score, explain, compare, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    TEXT_HELP,
    BenchmarkLoading,
    FileLoading,
    From,
    Json,
    ModelArgument,
    Quiet,
    SkipInvalid,
    Steer,
    TextLoading,
    Where,
    WorkerCount,
    WorkerGpus,
    ray_workers,
    report_scoring,
    show_progress,
    text_or_file,
)
from armorm.cli.terminal import print_json
from armorm.errors import RecipeError

if TYPE_CHECKING:
    from armorm.data import DataSource, InvalidPolicy
    from armorm.evaluation.benchmarks import BenchmarkReport


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Judge"
    texts = '--prompt "What is 3 + 4?"'
    add_command(
        app,
        score,
        panel=panel,
        example="armorm score runs/quickstart/model in.jsonl -o out.jsonl",
        resumable=True,
    )
    add_command(
        app,
        explain,
        panel=panel,
        example=f'armorm explain runs/quickstart/model {texts} --response "It is 7."',
    )
    add_command(
        app,
        compare,
        panel=panel,
        example=f'armorm compare runs/quickstart/model {texts} --a "It is 7." --b "It is 9."',
    )
    add_command(
        app, evaluate, panel=panel, example="armorm evaluate runs/quickstart/model pairs.jsonl"
    )


def score(
    model: ModelArgument,
    source: Annotated[
        Path,
        typer.Argument(
            help="Conversations: JSON lines (also .gz), Parquet or Arrow, with `messages`, or "
            "`prompt` and `response`. With --on ray also a pattern: 'in/*.parquet'.",
            metavar="IN",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines.", metavar="OUT", show_default=False)
    ],
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    *,
    loading: FileLoading,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also deviations, score_deviation, novelty, novel."),
    ] = False,
    on: Where = "local",
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every conversation of a file.

    Each row is written with score, rewards, gating and coefficients beside its own fields.
    """
    from armorm.evaluation.scoring import score_file

    workers_on_ray = ray_workers(on, workers, worker_gpus)
    summary = score_file(
        loading.judge(model, steer, workers_on_ray),
        source,
        output,
        workers=workers_on_ray,
        uncertainty=uncertainty,
        skip_invalid=skip_invalid,
        show_progress=show_progress(quiet),
    )
    report_scoring(summary, output, as_json)


def explain(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    response: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    steer: Steer = None,
    *,
    loading: TextLoading,
    as_json: Json = False,
) -> None:
    """Explain the score of one response, objective by objective.

    Nothing is written; the table shows each objective's rating, reward, coefficient and share.
    """
    loaded = loading.load(model, steer)
    explanation = loaded.explain(
        [
            {"role": "user", "content": text_or_file(prompt)},
            {"role": "assistant", "content": text_or_file(response)},
        ]
    )
    if as_json:
        print_json(explanation.as_dict())
    else:
        from armorm.cli.printing import print_explanation

        print_explanation(explanation)


def compare(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    a: Annotated[str, typer.Option("--a", help=f"First response. {TEXT_HELP}", show_default=False)],
    b: Annotated[str, typer.Option("--b", help=f"Second one. {TEXT_HELP}", show_default=False)],
    steer: Steer = None,
    *,
    loading: TextLoading,
    as_json: Json = False,
) -> None:
    """Compare two responses: the preferred one, and the objectives that decided.

    Nothing is written; the table shows each objective's share of the margin.
    """
    loaded = loading.load(model, steer)
    comparison = loaded.compare(text_or_file(prompt), text_or_file(a), text_or_file(b))
    if as_json:
        print_json(comparison.as_dict())
    else:
        from armorm.cli.printing import print_comparison

        print_comparison(comparison)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder or hub id. With --scored: the first file.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    preferences: Annotated[
        list[str] | None,
        typer.Argument(
            help="Benchmarks or datasets of the catalogue, preference files, or hub datasets as "
            "NAME or NAME@SPLIT.",
            metavar="PREFERENCES...",
            show_default=False,
        ),
    ] = None,
    scored: Annotated[
        bool,
        typer.Option(
            "--scored",
            help="No MODEL: the files are RewardBench's _outputs.jsonl, which hold their scores.",
        ),
    ] = False,
    rule: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="Report by the score rule of this benchmark. Default: that of PREFERENCES, if it "
            "is one benchmark.",
            metavar="NAME",
        ),
    ] = None,
    root: From = None,
    rewardbench: Annotated[
        Path | None,
        typer.Option(help="Also write RewardBench's result files here.", metavar="DIR"),
    ] = None,
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    *,
    loading: BenchmarkLoading,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Report accuracy on preference pairs or a benchmark. A tie counts as wrong.

    Nothing is written but what --rewardbench asks for.
    """
    from armorm.evaluation import ScoredRows, score_all
    from armorm.evaluation.benchmarks import PreferenceBenchmark, benchmark, benchmarks
    from armorm.evaluation.benchmarks.reward_bench_files import (
        read_rewardbench_outputs,
        write_rewardbench_results,
    )
    from armorm.evaluation.scorers import RewardModelScorer

    names = preferences or []
    if rule is None and len(names) == 1 and names[0] in benchmarks():
        rule = names[0]
    chosen = PreferenceBenchmark() if rule is None else benchmark(rule)
    if scored:
        done = [one for name in (model, *names) for one in read_rewardbench_outputs(Path(name))]
        rows = {"read": len(done), "kept": len(done), "skipped": {}}
        _print_evaluation(chosen.report(ScoredRows(done)), rows, [], as_json)
        return
    if not names:
        raise RecipeError("Name the preference files or the benchmark to evaluate on.")
    invalid: InvalidPolicy = "skip" if skip_invalid else "error"
    sources = [source for name in names for source in _sources(name, root)]
    loaded = chosen.read(sources, invalid=invalid, show_progress=show_progress(quiet))
    judge = loading.load(model, steer)
    found = score_all(
        RewardModelScorer(judge), loaded.rows, invalid=invalid, show_progress=show_progress(quiet)
    )
    report = chosen.report(found)
    if rewardbench is not None:
        write_rewardbench_results(rewardbench, model, judge.backbone.encoder, found.rows)
    _print_evaluation(report, loaded.tally.as_dict(), list(loaded.invalid), as_json)


def _print_evaluation(
    report: BenchmarkReport, rows: dict[str, Any], invalid: list[dict[str, Any]], as_json: bool
) -> None:
    result = report.as_dict()
    result |= {"rows": rows, "invalid": [*invalid, *result.get("invalid", ())]}
    if as_json:
        print_json(result)
    else:
        from armorm.cli.printing import print_evaluation

        print_evaluation(result)


def _sources(name: str, root: Path | None) -> list[DataSource]:
    """Return the sources of a file, a benchmark, a dataset of the catalogue or of the hub."""
    from armorm.data import DataSource
    from armorm.data.catalog import catalog
    from armorm.evaluation.benchmarks import benchmarks

    if name in benchmarks():
        found = list(benchmarks()[name].sources)
    elif name in catalog():
        found = [DataSource(catalog=name)]
    elif Path(name).suffixes or Path(name).exists() or "*" in name:
        found = [DataSource(path=name)]
    else:
        dataset, _, split = name.partition("@")
        found = [DataSource(dataset=dataset, split=split or "train")]
    if root is None:
        return found
    return [
        one if one.path is not None else one.model_copy(update={"root": str(root)}) for one in found
    ]
