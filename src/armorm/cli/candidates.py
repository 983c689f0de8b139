"""Commands on files of candidates: annotate, best-of, pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    FileLoading,
    Json,
    ModelArgument,
    Profile,
    Quiet,
    SkipInvalid,
    Steer,
    Where,
    WorkerCount,
    WorkerGpus,
    ray_workers,
    report_scoring,
    show_progress,
)
from armorm.cli.terminal import print_json
from armorm.errors import RecipeError

Choice = Literal["max_min", "max_max", "max_random", "max_min_p", "random"]

Candidates = Annotated[
    Path,
    typer.Argument(
        help="Rows with `prompt` and `responses`: JSON lines (also .gz), Parquet or Arrow.",
        metavar="IN",
        show_default=False,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="JSON lines.", metavar="OUT", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Training data for policies"
    add_command(
        app,
        annotate,
        panel=panel,
        example="armorm annotate runs/quickstart/model in.jsonl -o annotated.jsonl",
        resumable=True,
    )
    add_command(
        app,
        best_of,
        panel=panel,
        example="armorm best-of runs/quickstart/model in.jsonl -o best.jsonl --keep 2",
        resumable=True,
    )
    add_command(app, pairs, panel=panel, example="armorm pairs annotated.jsonl -o pairs.jsonl")


def annotate(
    model: ModelArgument,
    source: Candidates,
    output: Output,
    objectives: Annotated[
        bool, typer.Option(help="Keep each objective's rewards beside the scores.")
    ] = True,
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: FileLoading,
    on: Where = "local",
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add rewards to files of {prompt, responses}, as iterative DPO needs them.

    Each row is written with the score of every response and, by objective, its rewards.
    """
    from armorm.integrations import annotate_file

    workers_on_ray = ray_workers(on, workers, worker_gpus)
    summary = annotate_file(
        loading.judge(model, steer, profile, workers_on_ray),
        source,
        output,
        workers=workers_on_ray,
        objectives=objectives,
        skip_invalid=skip_invalid,
        show_progress=show_progress(quiet),
    )
    report_scoring(summary, output, as_json)


def best_of(
    model: ModelArgument,
    source: Candidates,
    output: Output,
    keep: Annotated[int, typer.Option(help="How many of the best to list in `ranked`.", min=1)] = 1,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="Least unit reward of an objective: helpsteer-correctness=0.5. Responses below it "
            "come after all others. Repeatable.",
            metavar="NAME=NUMBER",
        ),
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(
            help="Rank by scores less this many standard deviations of what the head does not "
            "know, compared with the row's other responses.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    risk_kl: Annotated[
        float | None,
        typer.Option(
            help="Or less deviation² / (2 BETA): robust at this strength of a KL penalty.",
            metavar="BETA",
            show_default=False,
        ),
    ] = None,
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: FileLoading,
    on: Where = "local",
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep the best response of each row of {prompt, responses}: best-of-n, RAFT.

    Each row is written with the best response, its score, and the best ones in order. Where all
    responses are below a --floor, the best of these is written with `meets_floors` false.
    """
    from armorm.integrations import best_of_file
    from armorm.model import Risk

    workers_on_ray = ray_workers(on, workers, worker_gpus)
    summary = best_of_file(
        loading.judge(model, steer, profile, workers_on_ray),
        source,
        output,
        workers=workers_on_ray,
        keep=keep,
        floors=parse_floors(floor or []),
        risk=None if risk is None and risk_kl is None else Risk(risk, kl=risk_kl),
        skip_invalid=skip_invalid,
        show_progress=show_progress(quiet),
    )
    report_scoring(summary, output, as_json)


def parse_floors(items: list[str]) -> dict[str, float]:
    """Return the least unit reward by objective, as ``--floor`` gives it.

    Raises:
        RecipeError: An item of another form, or an objective with two floors.
    """
    floors: dict[str, float] = {}
    for item in items:
        name, _, number = item.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise RecipeError(f"--floor {item}: write it as objective=number.")
        if name in floors:
            raise RecipeError(f"--floor {item}: {name} has the floor {floors[name]:g} already.")
        floors[name] = value
    return floors


def pairs(
    source: Annotated[
        Path,
        typer.Argument(
            help="What `armorm annotate` wrote: rows with prompt, responses and rewards.",
            metavar="IN",
            show_default=False,
        ),
    ],
    output: Output,
    choose: Annotated[
        Choice,
        typer.Option(
            help="Best against worst, second best, any other; max_min_p: best against worst after "
            "--length-penalty; random: any two."
        ),
    ] = "max_min",
    min_margin: Annotated[
        float, typer.Option(help="A pair needs a larger difference of rewards.", min=0.0)
    ] = 0.0,
    length_penalty: Annotated[
        float, typer.Option(help="Reward taken off per character (max_min_p).", min=0.0)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="For the random choices.")] = 0,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
) -> None:
    """Make preference pairs for TRL from annotated candidates.

    Each line written has prompt, chosen and rejected as messages, and the two scores.
    """
    from armorm.integrations import write_pairs

    summary = write_pairs(
        source,
        output,
        choice=choose,
        min_margin=min_margin,
        length_penalty=length_penalty,
        seed=seed,
        skip_invalid=skip_invalid,
    )
    if as_json:
        print_json(summary.as_dict())
    else:
        from armorm.cli.printing import print_pairs

        print_pairs(summary.as_dict(), output)
