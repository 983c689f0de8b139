"""Commands that make a model: train, and each of its stages alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    Json,
    OutputFolder,
    Overrides,
    Quiet,
    RecipeArgument,
    SkipInvalid,
    Where,
    WorkerCount,
    WorkerGpus,
    hide_library_progress,
    ray_workers,
    show_progress,
)
from armorm.cli.terminal import print_json
from armorm.errors import RecipeError

if TYPE_CHECKING:
    from armorm.training import Recipe, TrainingResult


LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        help="Keep the pairs of this source out of stage 2 and measure on all of them; all: train "
        "as usual, and once more without each source, for a table (leave_out.json).",
        metavar="SOURCE",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Train"
    arguments = "quickstart -o runs/quickstart"
    add_command(app, train, panel=panel, example=f"armorm train {arguments}", resumable=True)
    add_command(
        app,
        pretrain,
        panel=panel,
        example="armorm pretrain recipe.yaml -o runs/mine --set pretraining.epochs=1",
        resumable=True,
    )
    add_command(
        app,
        finetune,
        panel=panel,
        example="armorm finetune recipe.yaml -o runs/mine --set head.method=finetune",
        resumable=True,
    )
    add_command(
        app,
        train_pairwise,
        panel=panel,
        example="armorm train-pairwise quickstart -o runs/quickstart",
        resumable=True,
    )
    add_command(app, features, panel=panel, example=f"armorm features {arguments}", resumable=True)
    add_command(
        app,
        layers,
        panel=panel,
        example=f"armorm layers {arguments} --layers 2,4",
        resumable=True,
    )
    add_command(app, fit_head, panel=panel, example=f"armorm fit-head {arguments}")
    add_command(
        app,
        fit_gate,
        panel=panel,
        example=f"armorm fit-gate {arguments} --set gate.steps=500",
    )


def train(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    leave_out: LeaveOut = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a reward model through all stages.

    Writes DIR/model, DIR/metrics.json and DIR/report.html.
    """
    from armorm import training

    loaded = _load(recipe, overrides, skip_invalid, leave_out)
    _report(training.train(loaded, output, show_progress=show_progress(quiet)), as_json)


def pretrain(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the backbone as a Bradley–Terry reward model (section pretraining).

    Writes DIR/pretrained.
    """
    from armorm.training import pretrain_stage

    pretrain_stage(
        _load(recipe, overrides, skip_invalid), output, show_progress=show_progress(quiet)
    )
    _report_tuning("pretraining", output / "pretrained", as_json)


def finetune(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train head and backbone together (head.method: finetune).

    Writes DIR/finetuned.
    """
    from armorm.training import finetune_stage

    finetune_stage(
        _load(recipe, overrides, skip_invalid), output, show_progress=show_progress(quiet)
    )
    _report_tuning("finetuning", output / "finetuned", as_json)


def train_pairwise(
    recipe: RecipeArgument,
    output: OutputFolder,
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="Write the training rows, and train nothing.")
    ] = False,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a pairwise preference model on the recipe's pairs, a rival of the gate (pairwise).

    Writes DIR/pairwise_rows.jsonl and DIR/pairwise; score with it as pairwise:DIR/pairwise.
    """
    from armorm.training import pairwise_stage

    pairwise_stage(
        _load(recipe, overrides, skip_invalid),
        output,
        rows_only=rows_only,
        show_progress=show_progress(quiet),
    )
    if not rows_only:
        _report_tuning("pairwise", output / "pairwise", as_json)


def features(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    on: Where = "local",
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the recipe's data and extract the features of both stages.

    Writes DIR/features and DIR/data.json.
    """
    from armorm.evaluation.data_account import DataAccount
    from armorm.features import Process
    from armorm.training import features_stage

    loaded = _load(recipe, overrides, skip_invalid)
    workers_on_ray = ray_workers(on, workers, worker_gpus)
    speaks = Process.current().is_first
    bars = speaks and show_progress(quiet)
    if workers_on_ray is None:
        features_stage(loaded, output, show_progress=bars)
    else:
        from armorm.training.run_backbone import extraction_on_ray

        with extraction_on_ray(loaded, output, workers_on_ray) as make_store:
            features_stage(loaded, output, make_store=make_store, show_progress=bars)
    if not speaks:
        return
    account = DataAccount.load(output / "data.json")
    if as_json:
        print_json(account.as_dict())
    else:
        from armorm.cli.printing import print_data

        print_data(account)


def layers(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    chosen: Annotated[
        str | None,
        typer.Option(
            "--layers",
            help="Numbers of the layers. Default: six, evenly spread, the last one among them.",
            metavar="6,14,22,30",
            show_default=False,
        ),
    ] = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare layers of the backbone by heads on their features, from one pass over the data.

    Writes DIR/layers.json, DIR/layers.svg, and for each layer L a run folder DIR/layers/L with its
    features and its head.
    """
    from armorm.training import compare_layers

    comparison = compare_layers(
        _load(recipe, overrides, skip_invalid),
        output,
        None if chosen is None else _numbers(chosen),
        show_progress=show_progress(quiet),
    )
    if as_json:
        print_json(comparison.as_dict())
    else:
        from armorm.cli.head_printing import print_layers

        print_layers(comparison, output)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"--layers {text}: write numbers, such as 6,14,22,30.") from error


def fit_head(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Fit the head (stage 1): regress every objective on the features in DIR/features/rated.

    Writes DIR/head.
    """
    from armorm.files import read_json
    from armorm.training import fit_head_stage

    fit_head_stage(_load(recipe, overrides), output)
    report = read_json(output / "head" / "head.json")
    if as_json:
        print_json(report)
    else:
        from armorm.cli.printing import print_objectives
        from armorm.evaluation.run_metrics import HeadReport

        print_objectives(HeadReport.from_dict(report))


def fit_gate(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    leave_out: LeaveOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Debias the rewards and train the gate (stage 2), on what features and fit-head wrote.

    Writes DIR/model, DIR/metrics.json and DIR/report.html.
    """
    from armorm.training import fit_gate_stage

    loaded = _load(recipe, overrides, leave_out=leave_out)
    _report(fit_gate_stage(loaded, output, show_progress=show_progress(quiet)), as_json)


def _load(
    recipe: Path,
    overrides: list[str] | None,
    skip_invalid: bool = False,
    leave_out: list[str] | None = None,
) -> Recipe:
    from armorm.training import Recipe

    hide_library_progress()
    extra = ["data.invalid=skip"] if skip_invalid else []
    if leave_out:
        extra.append(f"data.leave_out={json.dumps(leave_out)}")
    return Recipe.load(recipe, [*(overrides or []), *extra])


def _report_tuning(stage: str, folder: Path, as_json: bool) -> None:
    from armorm.files import read_json

    report = read_json(folder / "training.json")["report"]
    if as_json:
        print_json(report)
    else:
        from armorm.cli.printing import print_tuning

        print_tuning({stage: report})


def _report(result: TrainingResult, as_json: bool) -> None:
    if as_json:
        print_json(result.metrics.as_dict())
    else:
        from armorm.cli.printing import print_run

        print_run(result)
