"""Extraction by a pool of workers; the store is the same, byte for byte, as by one process.

The driver reads the rows and cuts them into shards; a worker loads the backbone and computes one
shard per task.  Store and rows are on a disk that all of them see.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armorm.conversations import PreferencePair, RatedResponse
from armorm.errors import StoreError
from armorm.features.engines import load_engine
from armorm.features.extraction import (
    BackboneSettings,
    ExtractionWork,
    Rows,
    run_extraction,
)
from armorm.features.options import BackboneOptions, StoreOptions
from armorm.features.processes import Process
from armorm.features.shards import InvalidRows, Row, encode_shard, extract_shard
from armorm.features.store import FeatureStore
from armorm.features.store_writing import StoreWriter
from armorm.files import json_line, open_atomically
from armorm.jobs.pools import Pool, Task
from armorm.progress import Advance, no_advance

ROWS = ".rows-for-workers-"
"""Prefix of a file in the store's folder.  A driver that is killed leaves it behind; finishing the
store deletes it."""


class PooledExtraction:
    """A backbone that workers load, with the pool they belong to.

    Args:
        pool: Pool of workers.
        name: Folder or hub id of the backbone.
        options: Options of loading it.
    """

    def __init__(self, pool: Pool, name: str, options: BackboneOptions) -> None:
        own = options.model_dump(include=set(BackboneOptions.model_fields))
        self._pool = pool
        self._loading = {"name": name, "options": own}
        self._backbone = BackboneSettings(**pool.describe(FeatureJob, {"backbone": self._loading}))

    def __call__(
        self,
        rows: Rows,
        path: Path,
        options: StoreOptions | None = None,
        **arguments: Any,
    ) -> FeatureStore:
        """Compute and store the features of rows, as :func:`armorm.extract_features` does.

        Args:
            rows: Rows of one kind.
            path: Folder of the store, on a disk that all workers see under the same name.
            options: Number format and size of the shards.
            **arguments: ``objectives``, ``invalid``, ``show_progress`` and ``on_summary``.
        """

        def make_shards(
            work: ExtractionWork, shards: Sequence[int], advance: Advance
        ) -> Iterator[Counter[str]]:
            settings = {
                "backbone": self._loading,
                "store": str(path.absolute()),
                "invalid": work.invalid,
            }
            with _rows_for_workers(work, shards) as tasks:
                for made in self._pool.work(FeatureJob, settings, tasks):
                    advance(work.responses([made.pop("shard")]), made["tokens"])
                    yield Counter(made)

        options = options or StoreOptions()
        return run_extraction(
            make_shards, rows, self._backbone, path, options, Process(), **arguments
        )


class FeatureJob:
    """A job of workers: shards of a store that the driver started.

    Args:
        settings: Plain data: ``backbone``, and ``store`` and ``invalid`` unless the job only
            describes the backbone.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        loading = settings["backbone"]
        self._backbone = load_engine(loading["name"], BackboneOptions(**loading["options"]))
        self._store = settings.get("store")
        self._invalid: InvalidRows = settings.get("invalid", "error")

    def describe(self) -> dict[str, Any]:
        """Return the fields of :class:`BackboneSettings`."""
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
        counts = extract_shard(shard, encoded, self._backbone, writer, no_advance)
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
    """Yield a task for each missing shard, while a file in the store holds the rows of the shards.

    Through Ray's object store they would all be in memory at once.

    Raises:
        OutputError: The disk is full.
    """
    # A name of this driver alone: workers of a killed driver must not read what this one writes.
    file = work.writer.path / f"{ROWS}{uuid.uuid4().hex}.tmp"
    tasks: list[Task] = []
    with open_atomically(file) as lines:
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
    """Return the rows of a shard with their numbers, as the driver wrote them."""
    kind = PreferencePair if writer.manifest.kind == "preferences" else RatedResponse
    with (writer.path / task["file"]).open("rb") as lines:
        lines.seek(task["start"])
        records = map(json.loads, lines.read(task["bytes"]).split(b"\n")[:-1])
        return [(number, kind.from_record(record)) for number, record in records]
