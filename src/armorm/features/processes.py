"""Several processes that write one store: their shares of the shards, and its end.

``accelerate launch`` and ``torchrun`` give each process its number in environment variables.  No
message passes between the processes: the folder shows which shards are finished, so a process that
dies loses no more than the shard it was working on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from armorm.errors import ArmormError
from armorm.features.store import FeatureStore
from armorm.features.store_format import Manifest, read_manifest
from armorm.features.store_writing import StoreWriter
from armorm.files import exclusive

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Process:
    """One of several processes that were launched together.

    Attributes:
        rank: Its number.
        count: Number of processes.
        local_rank: Its number on this machine, which is also the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def current(cls) -> Process:
        """Return this process as its launcher describes it; the only one without a launcher."""
        rank, count, local_rank = (
            os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        )
        if rank is None or count is None:
            return cls()
        return cls(int(rank), int(count), int(local_rank or 0))

    @property
    def is_first(self) -> bool:
        """True for the process that finishes stores and reports."""
        return self.rank == 0

    def require_alone(self) -> None:
        """Raise ArmormError if there are several processes: training is for one."""
        if self.count > 1:
            raise ArmormError(
                "Training is for one process: start it without torchrun or accelerate launch. "
                "`armorm features` may be launched in several; training then uses their features."
            )

    @contextmanager
    def holding(self, store: Path) -> Iterator[None]:
        """Lock a store against other commands while the block runs.

        The first process holds the lock for all that were launched together.

        Raises:
            ArmormError: Another command is writing the store.
        """
        with exclusive(store, "extracting features") if self.is_first else nullcontext():
            yield

    def start_together(self, path: Path, manifest: Manifest) -> StoreWriter:
        """Start or resume a store; see :meth:`StoreWriter.start`."""
        while not self.is_first:
            # The first process deletes an unusable store; another one must not delete its work.
            existing = read_manifest(path)
            if existing is None or not existing.unusable or not existing.differences(manifest):
                break
            time.sleep(POLL_SECONDS)
        return StoreWriter.start(path, manifest)

    def finish_together(self, writer: StoreWriter) -> FeatureStore:
        """Return the finished store: the first process waits for all shards, the others for it."""
        if self.is_first:
            self._wait_for_shards(writer)
            return writer.finish()
        while True:
            manifest = read_manifest(writer.path)
            if manifest is not None and manifest.complete:
                return FeatureStore.open(writer.path)
            time.sleep(POLL_SECONDS)

    def _wait_for_shards(self, writer: StoreWriter) -> None:
        if writer.manifest.complete:
            return
        for shard in range(writer.manifest.shards):
            while shard % self.count != self.rank and not writer.is_done(shard):
                time.sleep(POLL_SECONDS)
