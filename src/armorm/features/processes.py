"""Several processes that make one store: who makes which shard, and when it is whole.

``accelerate launch`` and ``torchrun`` tell each process its number by environment variables.  No
message passes between the processes: what is done stands in the folder, so a process that dies
loses no more than the shard it was making.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from armorm.errors import ArmormError
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

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: it finishes stores, and reports."""
        return self.rank == 0

    def require_alone(self) -> None:
        """Raise ArmormError where there are several: training is for one process."""
        if self.count > 1:
            raise ArmormError(
                "Training is for one process: start it without torchrun or accelerate launch. "
                "`armorm features` may be launched in several; what follows uses what they made."
            )

    def finish_together(self, writer: StoreWriter) -> FeatureStore:
        """The finished store: the first process waits for all shards, the others for it."""
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
