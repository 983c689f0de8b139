"""Commands that make a model: train, and each of its stages alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from armorm.cli.options import (
    Json,
    OutputFolder,
    Overrides,
    Quiet,
    RecipeArgument,
    SkipInvalid,
    WorkerCount,
    WorkerGpus,
    hide_library_progress,
    print_json,
    ray_workers,
    show_progress,
)

if TYPE_CHECKING:
    from armorm.training import Recipe, TrainingResult


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("train")(train)
    app.command("pretrain")(pretrain)
    app.command("finetune")(finetune)
    app.command("features")(features)
    app.command("fit-head")(fit_head)
    app.command("fit-gate")(fit_gate)


def train(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a reward model through all stages: the model is left in DIR/model.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from armorm import training

    loaded = _load(recipe, overrides, skip_invalid)
    _report(training.train(loaded, output, show_progress=show_progress(quiet)), as_json)


def pretrain(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the backbone as a Bradley–Terry reward model (section pretraining): DIR/pretrained."""
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
    """Stage 1 through the backbone (head.method: finetune): DIR/finetuned."""
    from armorm.training import finetune_stage

    finetune_stage(
        _load(recipe, overrides, skip_invalid), output, show_progress=show_progress(quiet)
    )
    _report_tuning("finetuning", output / "finetuned", as_json)


def features(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    engine: Annotated[
        Literal["ray"] | None,
        typer.Option(
            help="ray: share the work among workers on this machine or a cluster; the recipe says "
            "what runs the backbone in each.",
            show_default=False,
        ),
    ] = None,
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the recipe's data and extract the features of both stages into DIR/features.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from armorm.features import Process
    from armorm.files import read_json
    from armorm.training import features_stage

    loaded = _load(recipe, overrides, skip_invalid)
    shared_among = ray_workers(engine, workers, worker_gpus)
    speaks = Process.current().is_first
    bars = speaks and show_progress(quiet)
    if shared_among is None:
        features_stage(loaded, output, show_progress=bars)
    else:
        from armorm.scaling.features import ray_extraction

        with ray_extraction(loaded, output, shared_among) as make_store:
            features_stage(loaded, output, make_store=make_store, show_progress=bars)
    if not speaks:
        return
    account = read_json(output / "data.json")
    if as_json:
        print_json(account)
    else:
        from armorm.cli.printing import print_data

        print_data(account)


def fit_head(
    recipe: RecipeArgument,
    output: OutputFolder,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Stage 1: regress every objective on the features in DIR/features/rated."""
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
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Debiasing and stage 2, on what features and fit-head left: writes DIR/model."""
    from armorm.training import fit_gate_stage

    loaded = _load(recipe, overrides)
    _report(fit_gate_stage(loaded, output, show_progress=show_progress(quiet)), as_json)


def _load(recipe: Path, overrides: list[str] | None, skip_invalid: bool = False) -> Recipe:
    from armorm.training import Recipe

    hide_library_progress()
    extra = ["data.invalid=skip"] if skip_invalid else []
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
