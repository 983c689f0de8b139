"""A fitted head that learns from more ratings, and forgets some, without its old rows.

The sums of stage 1 add and subtract, so the weights are those of a fit that has seen exactly the
remaining rows (to the rounding of float64).  The gate is trained on the head's rewards: train it
again (``armorm fit-gate``) after a change.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from armorm.conversations import RatedResponse, row_key
from armorm.conversations.messages import Tally
from armorm.data import DataSource, InvalidPolicy, Loaded, read_rated
from armorm.data.licences import under
from armorm.data.splitting import held_out_prompts, keep_apart
from armorm.errors import ArmormError, StoreError
from armorm.evaluation.data_account import DataAccount
from armorm.features import FeatureStore, extract_features
from armorm.features.extraction import hash_rows
from armorm.heads import RewardHead, held_out_errors
from armorm.training.head_stage import fit_head_of
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import feature_engine
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import HeadStatistics, refuse_missing

HELD_OUT = "held out by the recipe's rule"
KNOWN = "in the head already"


@dataclass(frozen=True, slots=True)
class HeadUpdate:
    """A head after a change of its rows.

    Attributes:
        head: The new head.
        tally: Rows read, rows that were added or removed, and rows skipped by reason.
    """

    head: RewardHead
    tally: Tally


def update_head(
    run: str | Path,
    data: Sequence[DataSource],
    change: Literal["add", "remove"],
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> HeadUpdate:
    """Add rated rows to the head of a run, or remove them, and fit it again.

    A row is known by its prompt, response and ratings.  Skipped, and counted, are rows that the
    recipe's rule holds out; and when adding, rows that the head knows already and rows of prompts
    that the run holds out elsewhere.

    Args:
        run: Run folder with ``recipe.yaml``, ``features/rated`` and ``head``.
        data: Rated rows.
        change: ``add`` or ``remove``. A row is removed from the source that it was recorded with,
            whatever file it comes from now.
        invalid: ``skip`` counts rows that cannot be read instead of stopping.
        show_progress: Draw a progress bar on standard error.

    Raises:
        ArmormError: a row to remove is not in the head, or the data hold no usable row; or rows
            are to be removed from a head whose backbone was fine-tuned on them; or the folder is
            in use by another process.
        InputError: a row is invalid.
    """
    with RunFolder.of(Path(run)).locked(f"changing the head ({change})"):
        return _update_head(Path(run), data, change, invalid, show_progress)


def _update_head(
    run: Path,
    data: Sequence[DataSource],
    change: Literal["add", "remove"],
    invalid: InvalidPolicy,
    show_progress: bool,
) -> HeadUpdate:
    started = time.perf_counter()
    recipe = Recipe.load(run / "recipe.yaml")
    if change == "remove":
        _check_can_forget(recipe, run)
    else:
        _check_is_ridge(recipe, run)
    known = HeadStatistics.load(run / "head" / "statistics")
    rated = read_rated(
        data,
        known.objectives,
        held_out=known.settings.held_out,
        invalid=invalid,
        scratch=run,
        show_progress=show_progress,
    )
    rows = _new_rows(rated, known, run) if change == "add" else _known_rows(rated, known)
    rated.tally.kept = len(rows)
    if not len(rows):
        raise ArmormError(f"The data hold no row to {change}: {rated.tally}.")
    settings = known.settings
    with feature_engine(recipe, run) as engine:
        store = extract_features(
            rows,
            engine,
            run / "features" / f"{change}-{hash_rows(rows)[:16]}",
            recipe.features,
            objectives=known.objectives,
            prefixes=settings.cuts,
            show_progress=show_progress,
        )
    given = HeadStatistics.of_store(
        store,
        folds=settings.folds,
        seed=settings.seed,
        held_out=settings.held_out,
        licences=rated.licences if change == "add" else {},
    )
    changed = known + given if change == "add" else known - given
    head = fit_head_of(changed, _judging_store(run), recipe, run, started)
    return HeadUpdate(head, rated.tally)


@dataclass(frozen=True, slots=True)
class LicenceRemoval:
    """Sources of a licence that a head has forgotten.

    Attributes:
        head: The new head.
        sources: Licence of each source that was removed.
        rows: Number of training rows that were removed.
        pairs: Licence of each source of preference pairs under it, which trained the gate.
    """

    head: RewardHead
    sources: dict[str, str]
    rows: int
    pairs: dict[str, str]


def remove_licence(run: str | Path, pattern: str) -> LicenceRemoval:
    """Take all rows of sources under a licence out of the head of a run, and fit it again.

    The sums of a source are dropped whole, and its held-out rows measure the head no more: the
    head, its uncertainty and its figures are those of a run that never read it.  Ranges of
    computed objectives, which were taken from all rows, remain.

    Args:
        run: Run folder with ``recipe.yaml``, ``features/rated`` and ``head``.
        pattern: Licence such as ``CC-BY-NC-4.0``, or a pattern such as ``CC-BY-NC*``.

    Raises:
        ArmormError: no source is under such a licence, or no other one is left; or the backbone
            was fine-tuned on them; or the folder is in use by another process.
    """
    folder = RunFolder.of(Path(run))
    with folder.locked("removing a licence"):
        started = time.perf_counter()
        recipe = Recipe.load(folder.recipe)
        _check_can_forget(recipe, folder.path)
        known = HeadStatistics.load(folder.statistics)
        removed = under(known.licences, pattern)
        if not removed:
            listed = ", ".join(f"{name} ({found})" for name, found in known.licences.items())
            raise ArmormError(
                f"No source of the head is under a licence like {pattern!r}. "
                f"Its sources: {listed or 'their licences are not recorded; fit the head again'}."
            )
        rest = known.without(removed)
        if not rest.sums:
            raise ArmormError(
                f"Every training row of {run} is under a licence like {pattern!r}: no head is left."
            )
        head = fit_head_of(rest, _judging_store(folder.path), recipe, folder, started)
        pairs = DataAccount.load(folder.data_report).preferences.licences
        rows = known.copies().total() - rest.copies().total()
        return LicenceRemoval(head, removed, rows, under(pairs, pattern))


def _new_rows(
    rated: Loaded[RatedResponse], known: HeadStatistics, run: Path
) -> Sequence[RatedResponse]:
    """Return the rows that the head may learn and does not know; count the others."""
    keep_apart(rated, held_out_prompts(rated) | _prompts_held_out(run))
    copies, tally = known.copies(), rated.tally
    numbers = []
    for number, row in enumerate(rated.rows):
        if row.held_out:
            tally.skip(HELD_OUT)
        elif copies[row_key(row)]:
            tally.skip(KNOWN)
        else:
            numbers.append(number)
    return rated.rows.select(numbers)


def _known_rows(rated: Loaded[RatedResponse], known: HeadStatistics) -> Sequence[RatedResponse]:
    """Return the training rows under the sources that the head recorded them with.

    Raises:
        ArmormError: one is not in the head.
    """
    left = defaultdict(Counter[str], {name: Counter(rows) for name, rows in known.rows.items()})
    found, missing = [], 0
    for row in rated.rows:
        if row.held_out:
            rated.tally.skip(HELD_OUT)
            continue
        key = row_key(row)
        sources = [name for name in (row.source, *sorted(left)) if left[name][key]]
        if sources:
            left[sources[0]][key] -= 1
            found.append(replace(row, source=sources[0]))
        missing += not sources
    refuse_missing(missing, len(found) + missing)
    return found


def _prompts_held_out(run: Path) -> set[str]:
    """Return the keys of the prompts that the run holds out, in ratings or in preferences."""
    stores = [run / "features" / kind for kind in ("rated", "preferences")]
    tables = [FeatureStore.open(store).index for store in stores if store.is_dir()]
    return {
        key
        for table in tables
        for key, held_out in zip(
            table["prompt_key"].to_pylist(), table["held_out"].to_pylist(), strict=True
        )
        if held_out
    }


def merge_heads(runs: Sequence[str | Path], output: str | Path) -> HeadStatistics:
    """Fit the head of one run on the statistics of several runs together.

    Args:
        runs: Run folders with the same backbone, objectives, folds and held-out rule, such as
            from several machines.
        output: One of the runs, whose held-out rows judge the new head; its head is replaced.

    Returns:
        The statistics of all runs.

    Raises:
        ArmormError: a row is in two of the runs, or one trains on a prompt that another holds out;
            or ``output`` is in use by another process.
        StoreError: their settings differ.
    """
    with RunFolder.of(Path(output)).locked("merging heads"):
        return _merge_heads(runs, Path(output))


def _merge_heads(runs: Sequence[str | Path], output: Path) -> HeadStatistics:
    started = time.perf_counter()
    recipe = Recipe.load(output / "recipe.yaml")
    _check_is_ridge(recipe, output)
    total = HeadStatistics.load(Path(runs[0]) / "head" / "statistics")
    for run in runs[1:]:
        more = HeadStatistics.load(Path(run) / "head" / "statistics")
        if twice := (total.copies() & more.copies()).total():
            raise ArmormError(
                f"{twice} rows are in {run} and in a run before it: they would count twice. Remove "
                "them from one of the two with `armorm head remove`."
            )
        total = total + more
    for run in {Path(run).resolve() for run in (*runs, output)}:
        if leaked := len(_prompts_held_out(run) & set(total.prompts.values())):
            raise StoreError(
                f"{leaked} prompts that {run} holds out are training prompts of another run. Use "
                "one rule for all runs (data.held_out), such as a fraction."
            )
    fit_head_of(total, _judging_store(output), recipe, output, started)
    return total


def head_errors(run: str | Path) -> dict[str, Any]:
    """Return held-out errors from the statistics alone: no row is read and no feature computed.

    Returns:
        ``alphas``; and per objective ``folds`` (mean squared error of each penalty, each fold
        predicted from the others) and ``sources`` (each data source predicted from all others;
        ``None`` where one source alone rates the objective).
    """
    run = Path(run)
    recipe = Recipe.load(run / "recipe.yaml")
    statistics = HeadStatistics.load(run / "head" / "statistics")
    alphas = recipe.head.alphas
    folds = held_out_errors(statistics.total().folds(), alphas)
    sources = held_out_errors(list(statistics.sums.values()), alphas)
    return {
        "alphas": list(alphas),
        "objectives": {
            name: {"folds": _or_none(folds[i]), "sources": _or_none(sources[i])}
            for i, name in enumerate(statistics.objectives.names)
        },
    }


def _judging_store(run: Path) -> FeatureStore:
    """Return the store whose held-out rows every head of the run is judged on."""
    return FeatureStore.open(run / "features" / "rated")


def _check_is_ridge(recipe: Recipe, run: Path) -> None:
    if recipe.trains_head_with_backbone:
        raise ArmormError(
            f"The head of {run} was trained with its backbone, so it is not determined by the "
            "statistics and cannot be changed through them. Set head.finetune.final_head: ridge in "
            f"{run / 'recipe.yaml'} and run `armorm fit-head` first."
        )


def _check_can_forget(recipe: Recipe, run: Path) -> None:
    _check_is_ridge(recipe, run)
    if recipe.head.method == "finetune":
        raise ArmormError(
            f"The backbone of {run} was fine-tuned on its ratings (head.method: finetune): taking "
            "rows out of the head would leave their trace in the backbone. Train again without."
        )


def _or_none(errors: npt.NDArray[np.float64]) -> list[float] | None:
    return None if np.isnan(errors).any() else [float(error) for error in errors]
