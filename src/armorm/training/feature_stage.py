"""Features of both kinds of data: the first stage of a run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from armorm.conversations import PreferencePair, RatedResponse
from armorm.conversations.messages import with_response
from armorm.data import Loaded, read_preferences, read_rated, separate_prompts
from armorm.errors import NonFiniteError
from armorm.evaluation.data_account import DataAccount, RowAccount
from armorm.features import (
    ExtractionSummary,
    FeatureBackbone,
    FeatureStore,
    Process,
    extract_features,
)
from armorm.features.extraction import Rows
from armorm.features.store_writing import StoreWriter
from armorm.files import json_line, open_atomically, write_atomically, write_json
from armorm.objectives import ObjectiveSet
from armorm.training.checks import check_before_reading, check_rows
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import feature_engine
from armorm.training.run_folder import RunFolder

RecipeData = tuple[Loaded[RatedResponse], Loaded[PreferencePair]]


def read_data(
    recipe: Recipe, output: str | Path | RunFolder, *, show_progress: bool = False
) -> RecipeData:
    """Read both kinds of data, and check that a run on them can be finished and reported.

    Skipped rows are listed in ``invalid-*.jsonl`` in the run folder.

    Raises:
        ArmormError: The data do not suffice, an extra is missing, or ``output`` cannot be written.
    """
    run, data = RunFolder.of(output), recipe.data
    check_before_reading(recipe, run)
    reading: dict[str, Any] = {
        "held_out": data.held_out,
        "invalid": data.invalid,
        "scratch": run.path,
        "show_progress": show_progress,
    }
    rated = read_rated(data.rated, recipe.objective_set(), **reading)
    pairs = read_preferences(data.preferences, **reading)
    if data.held_out.column is not None:  # by its hash, a prompt falls on one side everywhere
        separate_prompts(rated, pairs)
    if rated.invalid:
        rated.write_invalid(run.invalid("rated"))
    if pairs.invalid:
        pairs.write_invalid(run.invalid("preferences"))
    check_rows(recipe, rated, pairs)
    return rated, pairs


@runtime_checkable
class MakeStore(Protocol):
    """A function that makes a feature store of rows, as :func:`armorm.extract_features` does."""

    def __call__(
        self, rows: Rows, *, path: Path, objectives: ObjectiveSet | None = None, **options: Any
    ) -> FeatureStore:
        """Make the store."""


def features_stage(
    recipe: Recipe,
    output: str | Path | RunFolder,
    *,
    backbone: FeatureBackbone | None = None,
    data: RecipeData | None = None,
    make_store: MakeStore | None = None,
    show_progress: bool = False,
) -> None:
    """Read the data, extract the features of both stages, and account for every row.

    Args:
        recipe: Its sections ``data``, ``backbone`` and ``features`` are used.
        output: Run folder.
        backbone: The recipe's backbone, if it is loaded already.
        data: The recipe's data, if they are read already.
        make_store: Extracts in place of this process; see
            :func:`armorm.training.run_backbone.extraction_on_ray`.
        show_progress: Draw progress bars on standard error.

    Raises:
        StoreError: ``output`` holds features that were made with other settings.
        ArmormError: See :func:`read_data`; or the folder is in use by another process.
    """
    run = RunFolder.of(output)
    with run.locked("extracting features"):
        _extract(recipe, run, backbone, data, make_store, show_progress)


def _extract(
    recipe: Recipe,
    run: RunFolder,
    backbone: FeatureBackbone | None,
    data: RecipeData | None,
    make_store: MakeStore | None,
    show_progress: bool,
) -> None:
    started = time.perf_counter()
    rated, pairs = data or read_data(recipe, run, show_progress=show_progress)
    summaries: list[ExtractionSummary] = []
    options: dict[str, Any] = {
        "options": recipe.features,
        "invalid": recipe.data.invalid,
        "show_progress": show_progress,
        "on_summary": summaries.append,
    }
    objectives = recipe.objective_set()
    here = _extraction_in_process(recipe, run, backbone)
    with nullcontext(make_store) if make_store else here as make:
        stores = [
            make(
                rated.rows,
                path=run.rated_features,
                objectives=objectives,
                prefixes=recipe.prefix_cuts,
                **options,
            )
        ]
        try:
            stores.append(make(pairs.rows, path=run.preference_features, **options))
        except NonFiniteError:
            # Another number format is the remedy, and both stores must have the same.
            if Process.current().is_first:
                StoreWriter.join(run.rated_features).mark_unusable()
            raise
    if not Process.current().is_first:
        return
    accounts = [
        RowAccount(
            **tally.as_dict(),
            too_long=store.manifest.skipped_rows - store.manifest.refused_rows,
            refused_by_template=store.manifest.refused_rows,
            prompts=store.manifest.prompts,
            sha256=store.manifest.data_sha256,
            extraction=summary.as_dict(),
            licences=licences,
        )
        for tally, licences, store, summary in zip(
            (rated.tally, pairs.tally),
            (rated.licences, pairs.licences),
            stores,
            summaries,
            strict=True,
        )
    ]
    write_atomically(run.recipe, recipe.dump().encode())
    _write_held_out_pairs(run.held_out_pairs, pairs.rows)
    account = DataAccount(
        rated=accounts[0], preferences=accounts[1], seconds=time.perf_counter() - started
    )
    write_json(run.data_report, account.as_dict())


@contextmanager
def _extraction_in_process(
    recipe: Recipe, run: RunFolder, backbone: FeatureBackbone | None
) -> Iterator[MakeStore]:
    with feature_engine(recipe, run, backbone) as engine:
        yield partial(extract_features, backbone=engine)


def _write_held_out_pairs(file: Path, pairs: Iterable[PreferencePair]) -> None:
    with open_atomically(file) as lines:
        for pair in pairs:
            if pair.held_out:
                row = {
                    "chosen": with_response(pair.prompt, pair.chosen),
                    "rejected": with_response(pair.prompt, pair.rejected),
                    "id": pair.id,
                    "source": pair.source,
                    "subset": pair.subset,
                }
                lines.write(json_line(row))
