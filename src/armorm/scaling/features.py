"""Feature extraction by a pool of workers."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.errors import StoreError
from armorm.features import (
    BackboneSource,
    ExtractionSummary,
    FeatureStore,
    Process,
    StoreOptions,
    load_engine,
)
from armorm.features.extraction import (
    BackboneSettings,
    ExtractionWork,
    Rows,
    plan_work,
)
from armorm.features.shards import InvalidRows, Row, encode_shard, extract_shard
from armorm.features.store_writing import StoreWriter, storing
from armorm.files import json_line, open_atomically
from armorm.progress import Advance
from armorm.scaling.pool import Pool, Task, Workers, ray_pool
from armorm.training.features_stage import MakeStore
from armorm.training.recipe import Recipe
from armorm.training.tuning.folders import backbone_folder

ROWS = ".rows-for-workers-"
"""Begins the name of a file in the store's folder. A driver that is killed leaves it; finishing the
store removes it."""


@contextmanager
def ray_extraction(recipe: Recipe, run: Path, workers: Workers) -> Iterator[MakeStore]:
    """What extracts features on Ray while the block runs, for ``features_stage``.

    The recipe's engine runs in each worker.  The output folder must be on a disk that all workers
    see under the same name.

    Raises:
        MissingExtraError: Ray is not installed.
        ArmormError: the cluster cannot be reached, or the backbone not be loaded.
    """
    name = str(backbone_folder(recipe, run))
    loading = {"name": name, "options": recipe.backbone.model_dump()}
    with ray_pool(workers) as pool:
        backbone = BackboneSettings(**pool.describe(FeatureJob, {"backbone": loading}))

        def make_store(rows: Rows, *, path: Path, **options: Any) -> FeatureStore:
            return _extract(pool, loading, backbone, rows, path, **options)

        yield make_store


def _extract(
    pool: Pool,
    loading: Mapping[str, Any],
    backbone: BackboneSettings,
    rows: Rows,
    path: Path,
    options: StoreOptions | None = None,
    *,
    show_progress: bool = False,
    on_summary: Callable[[ExtractionSummary], None] | None = None,
    **planning: Any,
) -> FeatureStore:
    """:func:`armorm.extract_features`, by a pool; the store is the same, byte for byte.

    Args:
        **planning: See :func:`armorm.features.extraction.plan_work`.
    """
    started = time.perf_counter()
    work = plan_work(
        rows, backbone, path, options or StoreOptions(), show_progress=show_progress, **planning
    )
    settings = {"backbone": loading, "store": str(path.absolute()), "invalid": work.invalid}

    def make_shards(shards: Sequence[int], advance: Advance) -> Iterator[Counter[str]]:
        with _rows_for_workers(work, shards) as tasks:
            for made in pool.work(FeatureJob, settings, tasks):
                advance(work.responses([made.pop("shard")]), made["tokens"])
                yield Counter(made)

    return work.run(
        make_shards, Process(), started=started, show_progress=show_progress, on_summary=on_summary
    )


class FeatureJob:
    """Makes shards of a store that the driver started."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        loading = settings["backbone"]
        self._backbone = load_engine(loading["name"], BackboneSource(**loading["options"]))
        self._store = settings.get("store")
        self._invalid: InvalidRows = settings.get("invalid", "error")

    def describe(self) -> dict[str, Any]:
        """The fields of :class:`BackboneSettings`."""
        try:
            return asdict(BackboneSettings.of(self._backbone))
        finally:
            self._backbone.close()

    def make(self, task: Task) -> dict[str, Any]:
        """Compute and write one shard."""
        writer = self._join()
        shard = task["number"]
        members = _read_members(writer, task)
        encoded = encode_shard(members, self._backbone.encoder, self._invalid)
        counts = extract_shard(shard, encoded, self._backbone, writer, _no_bar)
        return {"shard": shard, **counts}

    def _join(self) -> StoreWriter:
        assert self._store is not None
        try:
            return StoreWriter.join(Path(self._store))
        except StoreError as error:
            raise StoreError(
                f"A worker does not see the store that was started: {error} All workers need the "
                "output folder under the same name, on a shared disk."
            ) from error


@contextmanager
def _rows_for_workers(work: ExtractionWork, missing: Sequence[int]) -> Iterator[list[Task]]:
    """One task for each missing shard, while the rows of the shards stand in a file in the store.

    Through Ray's object store they would all be in memory at once.

    Raises:
        StoreError: the disk is full.
    """
    # Of this driver alone: workers of one that was killed must not read what this one writes.
    file = work.writer.path / f"{ROWS}{uuid.uuid4().hex}.tmp"
    tasks: list[Task] = []
    with storing(file), open_atomically(file) as lines:
        for shard in missing:
            start = lines.tell()
            for number, row in work.members(shard):
                lines.write(json_line([number, row.as_record()]))
            place = {"file": file.name, "start": start, "bytes": lines.tell() - start}
            tasks.append({"number": shard, **place})
    try:
        yield tasks
    finally:
        file.unlink(missing_ok=True)


def _read_members(writer: StoreWriter, task: Task) -> list[tuple[int, Row]]:
    """The rows of a shard with their numbers, from what the driver wrote."""
    kind = PreferencePair if writer.manifest.kind == "preferences" else RatedResponse
    with (writer.path / task["file"]).open("rb") as lines:
        lines.seek(task["start"])
        records = map(json.loads, lines.read(task["bytes"]).split(b"\n")[:-1])
        return [(number, kind.from_record(record)) for number, record in records]


def _no_bar(amount: float, tokens: float = 0.0) -> None:
    """The driver's bar moves when the shard is done."""
