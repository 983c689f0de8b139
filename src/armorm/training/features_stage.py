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
from armorm.errors import ArmormError
from armorm.features import (
    ExtractionSummary,
    FeatureBackbone,
    FeatureStore,
    Process,
    extract_features,
)
from armorm.features.extraction import Rows
from armorm.files import json_line, open_atomically, write_atomically, write_json
from armorm.objectives import ObjectiveSet
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import feature_engine

RecipeData = tuple[Loaded[RatedResponse], Loaded[PreferencePair]]


def read_data(recipe: Recipe, output: Path, *, show_progress: bool = False) -> RecipeData:
    """Both kinds of data; skipped rows are listed in ``invalid-*.jsonl`` in the run folder."""
    data = recipe.data
    reading: dict[str, Any] = {
        "held_out": data.held_out,
        "invalid": data.invalid,
        "scratch": output,
        "show_progress": show_progress,
    }
    rated = read_rated(data.rated, recipe.objective_set(), **reading)
    pairs = read_preferences(data.preferences, **reading)
    if data.held_out.column is not None:  # by its hash, a prompt falls on one side everywhere
        separate_prompts(rated, pairs)
    if rated.invalid:
        rated.write_invalid(output / "invalid-rated.jsonl")
    if pairs.invalid:
        pairs.write_invalid(output / "invalid-preferences.jsonl")
    for kind, loaded in (("rated responses", rated), ("preference pairs", pairs)):
        if not loaded.rows:
            raise ArmormError(f"The recipe's sources hold no valid {kind}: {loaded.tally}.")
    return rated, pairs


@runtime_checkable
class MakeStore(Protocol):
    """Makes a feature store of rows. See :func:`armorm.extract_features`."""

    def __call__(
        self, rows: Rows, *, path: Path, objectives: ObjectiveSet | None = None, **options: Any
    ) -> FeatureStore: ...


def features_stage(
    recipe: Recipe,
    output: str | Path,
    *,
    backbone: FeatureBackbone | None = None,
    data: RecipeData | None = None,
    make_store: MakeStore | None = None,
    show_progress: bool = False,
) -> None:
    """Read the data, extract the features of both stages, and account for every row.

    Args:
        recipe: What to do.
        output: The run folder.
        backbone: The recipe's backbone, where it is loaded already.
        data: The recipe's data, where it is read already.
        make_store: What extracts, if not this process; see :mod:`armorm.scaling`.
        show_progress: Draw progress bars on standard error.
    """
    output = Path(output)
    started = time.perf_counter()
    rated, pairs = data or read_data(recipe, output, show_progress=show_progress)
    write_atomically(output / "recipe.yaml", recipe.dump().encode())
    _write_held_out_pairs(output / "held_out_pairs.jsonl", pairs.rows)
    options: dict[str, Any] = {
        "options": recipe.features,
        "show_progress": show_progress,
    }
    summaries: list[ExtractionSummary] = []
    options["on_summary"] = summaries.append
    folder = output / "features"
    here = _extraction_here(recipe, output, backbone)
    with nullcontext(make_store) if make_store else here as make:
        stores = {
            "rated": make(
                rated.rows, path=folder / "rated", objectives=recipe.objective_set(), **options
            ),
            "preferences": make(pairs.rows, path=folder / "preferences", **options),
        }
    tallies = {"rated": rated.tally, "preferences": pairs.tally}
    account = {
        kind: {
            **tallies[kind].as_dict(),
            "too_long": store.manifest.skipped_rows,
            "prompts": store.manifest.prompts,
            "sha256": store.manifest.data_sha256,
            "extraction": summary.as_dict(),
        }
        for (kind, store), summary in zip(stores.items(), summaries, strict=True)
    }
    if Process.current().is_first:
        write_json(output / "data.json", {**account, "seconds": time.perf_counter() - started})


@contextmanager
def _extraction_here(
    recipe: Recipe, output: Path, backbone: FeatureBackbone | None
) -> Iterator[MakeStore]:
    with feature_engine(recipe, output, backbone) as engine:
        yield partial(extract_features, backbone=engine)


def _write_held_out_pairs(file: Path, pairs: Iterable[PreferencePair]) -> None:
    """The held-out pairs as preference rows, ready for `armorm evaluate`."""
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
