"""Several processes that make one store: who makes which shard, and when it is whole.

``accelerate launch`` and ``torchrun`` tell each process its number by environment variables.  No
message passes between the processes: what is done stands in the folder, so a process that dies
loses no more than the shard it was making.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from armorm.features.store import FeatureStore, StoreWriter, read_manifest

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Process:
    """One of the processes that were launched together.

    Attributes:
        rank: Its number.
        count: How many there are.
        local_rank: Its number on this machine, and that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def current(cls) -> Process:
        """This process, as its launcher described it; the only one where nothing did."""
        rank, count, local_rank = (
            os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        )
        if rank is None or count is None:
            return cls()
        return cls(int(rank), int(count), int(local_rank or 0))

    def finish_together(self, writer: StoreWriter) -> FeatureStore:
        """The finished store: the first process waits for all shards, the others for it."""
        if self.rank == 0:
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
