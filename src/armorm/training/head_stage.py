"""Stage 1: the regression layer of a run, and its files for the next stage and for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from armorm.errors import ArmormError, StoreError
from armorm.evaluation.data_account import DataAccount
from armorm.evaluation.run_metrics import HeadReport, ObjectiveFit
from armorm.features import FeatureStore
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import RewardHead
from armorm.heads.metrics import RegressionFit, regression_fits
from armorm.objectives import ObjectiveSet
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import HeadStatistics
from armorm.training.tuning.folders import read_score
from armorm.training.uncertainty import save_uncertainty

MALFORMED = (ValueError, TypeError, KeyError, AttributeError)
"""Errors of JSON that has other keys or types than were written."""


def fit_head_stage(recipe: Recipe, output: str | Path | RunFolder) -> RewardHead:
    """Regress every objective on the features of the rated responses.

    A head that was trained with the backbone is used as it is, if the recipe says so.

    Raises:
        StoreError: The features are missing, or were extracted for other objectives.
        ArmormError: The folder is in use by another process.
    """
    run = RunFolder.of(output)
    with run.locked("fitting the head"):
        return _fit_head(recipe, run)


def _fit_head(recipe: Recipe, run: RunFolder) -> RewardHead:
    started = time.perf_counter()
    store = FeatureStore.open(run.rated_features)
    if store.manifest.objectives != list(recipe.objective_set()):
        raise StoreError(
            f"{store.path} was made for the objectives {', '.join(store.objectives.names)}; the "
            "recipe now has others. Extract the features again."
        )
    has_account = run.data_report.exists()  # the folder of a layer has none
    if store.manifest.cuts != recipe.prefix_cuts:
        raise StoreError(
            f"{store.path} was made for other beginnings of responses than head.prefixes, "
            "head.prefix_cuts and seed of the recipe now say. Extract the features again."
        )
    statistics = HeadStatistics.of_store(
        store,
        folds=recipe.head.folds,
        seed=recipe.seed,
        held_out=recipe.data.held_out,
        licences=DataAccount.load(run.data_report).rated.licences if has_account else {},
    )
    return fit_head_of(statistics, store, recipe, run, started)


def fit_head_of(
    statistics: HeadStatistics,
    store: FeatureStore,
    recipe: Recipe,
    output: str | Path | RunFolder,
    started: float,
) -> RewardHead:
    """Fit the head on statistics, measure it on the store's held-out rows, and write both.

    A head that was trained with the backbone keeps its weights and has no uncertainty, because it
    is no ridge fit of these sums.  Its penalties are those that ridge would choose on its features.
    """
    run, objectives = RunFolder.of(output), statistics.objectives
    head = statistics.fit(recipe.head)
    if recipe.trains_head_with_backbone:
        head = replace(head, weight=read_score(run.finetuned).double().numpy())
    judges = statistics.judges(store)
    fits = held_out_fits(store, head, judges)
    statistics.save(run.statistics)
    uncertainty = save_uncertainty(
        run.head,
        statistics.total(),
        head,
        objectives,
        store,
        judges,
        withheld=_why_no_uncertainty(recipe),
    )
    seconds = time.perf_counter() - started
    save_head(run.head, head, objectives, fits, uncertainty, recipe.head.alphas, seconds)
    return head


def _why_no_uncertainty(recipe: Recipe) -> str | None:
    if not recipe.head.uncertainty:
        return "the recipe says head.uncertainty: false"
    if recipe.trains_head_with_backbone:
        return "the head was trained with its backbone (head.finetune.final_head), not by ridge"
    return None


def held_out_fits(
    store: FeatureStore, head: RewardHead, judges: npt.NDArray[np.bool_]
) -> list[RegressionFit]:
    """Return the fit of each objective on rows that no training has seen, given as a mask."""
    ratings, _ = store.ratings()
    return regression_fits(rewards_of_responses(store, head)[judges], ratings[judges])


def rewards_of_responses(
    store: FeatureStore, head: RewardHead
) -> Float[np.ndarray, "responses objectives"]:
    """Return the predicted rewards of all responses, reading the features shard by shard."""
    shards = [head.rewards(shard.float().numpy()) for shard in store.response_features()]
    return np.concatenate(shards).astype(np.float64)


def save_head(
    folder: Path,
    head: RewardHead,
    objectives: ObjectiveSet,
    fits: list[RegressionFit],
    uncertainty: dict[str, Any],
    alphas: Sequence[float],
    seconds: float,
) -> None:
    """Write the regression layer in float64 and the report of the stage."""
    write_atomically(
        folder / "head.safetensors", save({"regression_layer.weight": np.asarray(head.weight)})
    )
    report = HeadReport(
        objectives={
            name: ObjectiveFit(
                r2=fit.r2,
                spearman=fit.spearman,
                rows=head.rows[i],
                held_out_rows=fit.rows,
                alpha=head.alphas[i],
            )
            for i, (name, fit) in enumerate(zip(objectives.names, fits, strict=True))
        },
        alphas=list(alphas),
        selection_errors=[
            [None if np.isnan(error) else error for error in errors]
            for errors in head.selection_errors
        ],
        uncertainty=uncertainty,
        seconds=seconds,
    )
    write_json(folder / "head.json", report.as_dict())


def load_head(folder: Path) -> tuple[RewardHead, HeadReport]:
    """Return the head that :func:`save_head` wrote, and its report.

    Raises:
        StoreError: They are missing or damaged.
    """
    try:
        weight = load_file(folder / "head.safetensors")["regression_layer.weight"]
        report = HeadReport.from_dict(read_json(folder / "head.json"))
        fits = report.objectives.values()
        head = RewardHead(
            weight,
            tuple(float(fit.alpha) for fit in fits),
            tuple(int(fit.rows) for fit in fits),
            [[np.nan if e is None else e for e in errors] for errors in report.selection_errors],
        )
        if weight.ndim != 2 or len(weight) != len(fits) or not np.isfinite(weight).all():
            raise ValueError("head.json and head.safetensors do not fit together")
    except (ArmormError, OSError, SafetensorError, *MALFORMED) as error:
        raise StoreError(
            f"{folder / 'head.json'} or head.safetensors is missing or damaged ({error}). Run "
            "`armorm fit-head` first."
        ) from error
    return head, report
