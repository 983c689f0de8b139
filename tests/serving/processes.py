"""`armorm serve` in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from armorm import Backbone, RewardModel
from tests.commands import heed_interrupts
from tests.tiny_models import make_heads


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def save_model(folder: Path, backbone: Backbone, seed: int = 0) -> RewardModel:
    """Write a tiny model folder and return its model."""
    RewardModel(backbone, make_heads(seed=seed)).save_pretrained(folder)
    return RewardModel.from_pretrained(folder, dtype="float32", device="cpu")


@contextmanager
def served(folder: Path, *flags: str, log: Path, **environment: str) -> Iterator[Served]:
    """Start a server and wait for its address; end it, if it still runs, at the end."""
    command = [sys.executable, "-m", "armorm", "serve", str(folder), "--port", "0", *flags]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            preexec_fn=heed_interrupts,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Serving"):
                yield Served(process, line.split(" at ")[1].split()[0], log)
                break
        else:
            raise AssertionError(log.read_text())
    finally:
        process.kill()
        process.wait()
