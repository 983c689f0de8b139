"""Stage 1: the regression layer of a run, and its files for the next stage and for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from armorm.errors import StoreError
from armorm.features import FeatureStore
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import RewardHead
from armorm.heads.metrics import RegressionFit, regression_fits
from armorm.objectives import ObjectiveSet
from armorm.training.recipe import Recipe
from armorm.training.statistics import HeadStatistics
from armorm.training.tuning.folders import FINETUNED, read_score
from armorm.training.uncertainty import save_uncertainty

REPORTED = {"objectives", "alphas", "selection_errors", "uncertainty"}
"""What later stages read in ``head.json``; builds before the release wrote less."""


def fit_head_stage(recipe: Recipe, output: str | Path) -> RewardHead:
    """Stage 1: regress every objective on the features of the rated responses.

    The head that was trained with the backbone is taken as it is, where the recipe says so.
    """
    output = Path(output)
    started = time.perf_counter()
    store = FeatureStore.open(output / "features" / "rated")
    objectives = recipe.objective_set()
    if store.objectives != objectives:
        raise StoreError(
            f"{store.path} was made for the objectives {', '.join(store.objectives.names)}; the "
            "recipe now has others. Extract the features again."
        )
    statistics = HeadStatistics.of_store(
        store, folds=recipe.head.folds, seed=recipe.seed, held_out=recipe.data.held_out
    )
    return fit_head_of(statistics, store, recipe, output, started)


def fit_head_of(
    statistics: HeadStatistics, store: FeatureStore, recipe: Recipe, output: Path, started: float
) -> RewardHead:
    """Fit the head on statistics, judge it on the store's held-out rows, and leave all in the run
    folder.

    A head that was trained with the backbone keeps its weights, and has no uncertainty: it is no
    ridge fit of these sums. The penalties are those that ridge would take on its features.
    """
    objectives = recipe.objective_set()
    head = statistics.fit(recipe.head)
    if recipe.trains_head_with_backbone:
        head = replace(head, weight=read_score(output / FINETUNED).double().numpy())
    fits = held_out_fits(store, head)
    statistics.save(output / "head" / "statistics")
    uncertainty = save_uncertainty(
        output / "head",
        statistics.total(),
        head,
        objectives,
        store,
        withheld=_why_no_uncertainty(recipe),
    )
    seconds = time.perf_counter() - started
    save_head(output / "head", head, objectives, fits, uncertainty, recipe.head.alphas, seconds)
    return head


def _why_no_uncertainty(recipe: Recipe) -> str | None:
    if not recipe.head.uncertainty:
        return "the recipe says head.uncertainty: false"
    if recipe.trains_head_with_backbone:
        return "the head was trained with its backbone (head.finetune.final_head), not by ridge"
    return None


def held_out_fits(store: FeatureStore, head: RewardHead) -> list[RegressionFit]:
    """How well each objective is predicted on the rows that no training has seen."""
    ratings, held_out = store.ratings()
    return regression_fits(rewards_of_responses(store, head)[held_out], ratings[held_out])


def rewards_of_responses(
    store: FeatureStore, head: RewardHead
) -> Float[np.ndarray, "responses objectives"]:
    """Predicted rewards of all responses: the features are read once and forgotten."""
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
    """Write the regression layer in float64, how well it predicts held-out ratings, and how well
    it knows how well."""
    write_atomically(
        folder / "head.safetensors", save({"regression_layer.weight": np.asarray(head.weight)})
    )
    report = {
        "objectives": {
            name: {
                **asdict(fit),
                "rows": head.rows[i],
                "held_out_rows": fit.rows,
                "alpha": head.alphas[i],
            }
            for i, (name, fit) in enumerate(zip(objectives.names, fits, strict=True))
        },
        "alphas": list(alphas),
        "selection_errors": [
            [None if np.isnan(error) else error for error in errors]
            for errors in head.selection_errors
        ],
        "uncertainty": uncertainty,
        "seconds": seconds,
    }
    write_json(folder / "head.json", report)


def load_head(folder: Path) -> tuple[RewardHead, dict[str, Any]]:
    """Read what :func:`save_head` wrote.

    Raises:
        StoreError: it is not there, or damaged.
    """
    try:
        weight = load_file(folder / "head.safetensors")["regression_layer.weight"]
        report = read_json(folder / "head.json")
        if lacking := sorted(REPORTED - report.keys()):
            raise ValueError(f"head.json lacks {', '.join(lacking)}")
        objectives = report["objectives"].values()
        head = RewardHead(
            weight,
            tuple(float(objective["alpha"]) for objective in objectives),
            tuple(int(objective["rows"]) for objective in objectives),
            [[np.nan if e is None else e for e in errors] for errors in report["selection_errors"]],
        )
        if weight.ndim != 2 or len(weight) != len(head.alphas) or not np.isfinite(weight).all():
            raise ValueError("head.json and head.safetensors do not fit together")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise StoreError(
            f"{folder / 'head.json'} or head.safetensors is missing or damaged ({error}). Run "
            "`armorm fit-head` first."
        ) from error
    return head, report
