"""A fitted head that learns from more ratings, and forgets some, without its old rows.

The sums of stage 1 add and subtract, so the weights are those of a fit that has seen exactly the
remaining rows (to the rounding of float64).  The gate is trained on the head's rewards: train it
again (``armorm fit-gate``) after a change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from armorm.data import DataSource, InvalidPolicy, read_rated
from armorm.errors import ArmormError
from armorm.features import FeatureStore, extract_features
from armorm.features.extraction import hash_rows
from armorm.heads import RewardHead, held_out_errors
from armorm.training.head_stage import fit_head_of
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import feature_engine
from armorm.training.statistics import SELECTION, TRAIN, HeadStatistics


def update_head(
    run: str | Path,
    data: Sequence[DataSource],
    change: Literal["add", "remove"],
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> RewardHead:
    """Add rated rows to the head of a run, or take them out, and fit it again.

    Args:
        run: Run folder with ``recipe.yaml``, ``features/rated`` and ``head``.
        data: Rated rows. Those that the recipe's rule holds out are left out, as in training.
        change: ``add`` or ``remove``; what is removed must have been added as it is, source,
            text and ratings.
        invalid: ``skip`` leaves out rows that cannot be read.
        show_progress: Draw a progress bar on standard error.

    Raises:
        ArmormError: a row to remove is not in the head, or the data hold no usable row; or rows
            are to be removed from a head whose backbone was fine-tuned on them.
        InputError: a row is invalid.
    """
    run, started = Path(run), time.perf_counter()
    recipe = Recipe.load(run / "recipe.yaml")
    _check_is_ridge(recipe, run)
    if change == "remove" and recipe.head.method == "finetune":
        raise ArmormError(
            f"The backbone of {run} was fine-tuned on its ratings (head.method: finetune): taking "
            "rows out of the head would leave their trace in the backbone. Train again without."
        )
    known = HeadStatistics.load(run / "head" / "statistics")
    rated = read_rated(
        data,
        recipe.objective_set(),
        held_out=recipe.data.held_out,
        invalid=invalid,
        scratch=run,
        show_progress=show_progress,
    )
    training = rated.rows.select(i for i, row in enumerate(rated.rows) if not row.held_out)
    if not training:
        raise ArmormError(f"The data hold no row to {change}: {rated.tally}.")
    with feature_engine(recipe, run) as engine:
        store = extract_features(
            training,
            engine,
            run / "features" / f"{change}-{hash_rows(training)[:16]}",
            recipe.features,
            objectives=recipe.objective_set(),
            show_progress=show_progress,
        )
    rows = HeadStatistics.of_store(store, recipe.head.selection_fraction, recipe.seed)
    changed = known + rows if change == "add" else known - rows
    return fit_head_of(changed, _judging_store(run), recipe, run, started)


def merge_heads(runs: Sequence[str | Path], output: str | Path) -> HeadStatistics:
    """The statistics of several runs together, for a run whose head sees all their rows.

    Args:
        runs: Run folders with the same backbone and objectives, such as from several machines.
        output: One of the runs, whose held-out rows judge the new head; its head is replaced.

    Raises:
        ArmormError: a row is in two of the runs.
        StoreError: they have different backbones or objectives.
    """
    started = time.perf_counter()
    total = HeadStatistics.load(Path(runs[0]) / "head" / "statistics")
    for run in runs[1:]:
        more = HeadStatistics.load(Path(run) / "head" / "statistics")
        if twice := total.shared_rows(more):
            raise ArmormError(
                f"{twice} rows are in {run} and in a run before it: they would count twice. Take "
                "them out of one of the two with `armorm head remove`."
            )
        total = total + more
    output = Path(output)
    recipe = Recipe.load(output / "recipe.yaml")
    _check_is_ridge(recipe, output)
    fit_head_of(total, _judging_store(output), recipe, output, started)
    return total


def head_errors(run: str | Path) -> dict[str, Any]:
    """Held-out errors from the statistics alone: no row is read and no feature computed.

    Returns:
        ``alphas``; and per objective ``parts`` (mean squared error of each penalty, each of the
        training and selection parts predicted from the other) and ``sources`` (each data source
        predicted from all others; ``None`` where one source alone rates the objective).
    """
    run = Path(run)
    recipe = Recipe.load(run / "recipe.yaml")
    statistics = HeadStatistics.load(run / "head" / "statistics")
    alphas = recipe.head.alphas
    parts = held_out_errors([statistics.of_part(TRAIN), statistics.of_part(SELECTION)], alphas)
    sources = held_out_errors(list(statistics.by_source().values()), alphas)
    return {
        "alphas": list(alphas),
        "objectives": {
            name: {"parts": _or_none(parts[i]), "sources": _or_none(sources[i])}
            for i, name in enumerate(statistics.objectives)
        },
    }


def _judging_store(run: Path) -> FeatureStore:
    """The store whose held-out rows every head of the run is judged on."""
    return FeatureStore.open(run / "features" / "rated")


def _check_is_ridge(recipe: Recipe, run: Path) -> None:
    if recipe.trains_head_with_backbone:
        raise ArmormError(
            f"The head of {run} was trained with its backbone, so it is not determined by the "
            "statistics and cannot be changed through them. Set head.finetune.final_head: ridge in "
            f"{run / 'recipe.yaml'} and run `armorm fit-head` first."
        )


def _or_none(errors: npt.NDArray[np.float64]) -> list[float] | None:
    return None if np.isnan(errors).any() else [float(error) for error in errors]
