"""How much memory the rows of a training take before a model sees them: on disk, as `armorm
features` keeps them, and in a list.

Preference pairs of about 3.5 kB in JSON lines are read, checked, split, cut into shards and
fingerprinted.  Each contender runs in a process of its own; peak memory is above what the imports
take.

    python benchmarks/rows.py --rows 100000 400000
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = [f"word{i}" for i in range(5000)]


def generate(file: Path, rows: int) -> None:
    """Two pairs to each prompt."""
    chance = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            row = {
                "prompt": f"{number // 2} {' '.join(chance.choices(WORDS, k=100))}",
                "chosen": " ".join(chance.choices(WORDS, k=150)),
                "rejected": " ".join(chance.choices(WORDS, k=150)),
            }
            lines.write(json.dumps(row) + "\n")


def plan_here(file: Path, scratch: Path, in_memory: bool) -> None:
    """Read and plan in this process, and print what that took."""
    from armorm.conversations.messages import Tally
    from armorm.data import (
        DataSource,
        HeldOut,
        read_preferences,
    )
    from armorm.data.reading import preference_rows
    from armorm.features import StoreOptions
    from armorm.features.extraction import BackboneSettings, plan_work

    before = _peak_mib()
    started = time.perf_counter()
    source = DataSource(path=str(file))
    rows: Any
    if in_memory:
        rows = list(preference_rows(source, Tally(), held_out=HeldOut()))
    else:
        loaded = read_preferences([source], held_out=HeldOut(), scratch=scratch)
        rows = loaded.rows
    read = time.perf_counter()
    store = tempfile.mkdtemp(dir=scratch)
    work = plan_work(rows, BackboneSettings({}, None, "skip"), store, StoreOptions())
    planned = time.perf_counter()
    took = {"reading": read - started, "planning": planned - read, "mib": _peak_mib() - before}
    print(json.dumps({**took, "digest": work.writer.manifest.data_sha256}))


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Generate the input, run the contenders, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--in-memory", action="store_true")
    chosen = parser.parse_args()
    if chosen.file:
        plan_here(chosen.file, chosen.file.parent, chosen.in_memory)
        return
    print(f"{platform.platform()}, {platform.machine()}")
    for rows in chosen.rows:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            generate(file, rows)
            print(f"{rows:,} pairs, {file.stat().st_size / 2**20:,.0f} MiB")
            digests = set()
            for name, more in (("on disk", []), ("in a list", ["--in-memory"])):
                command = [sys.executable, __file__, "--file", str(file), *more]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                took = json.loads(done.stdout)
                digests.add(took["digest"])
                print(
                    f"  {name:10} reading {took['reading']:6.1f} s, {rows / took['reading']:7,.0f} "
                    f"rows/s; planning {took['planning']:5.1f} s; peak {took['mib']:6,.0f} MiB"
                )
            assert len(digests) == 1, "both must see the same rows"


if __name__ == "__main__":
    main()
