"""How fast public data becomes training files: ours against plain ``datasets.map``.

Both read the same generated JSON lines in HelpSteer2's layout through ``datasets`` and write the
same columns.  Ours also validates every row, drops duplicates and splits by prompt.

    python benchmarks/conversion.py --rows 200000

Each contender runs in a process of its own, by turns, so that neither leaves the other a warm
cache, and peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
WORDS = [f"word{i}" for i in range(5000)]


def generate(file: Path, rows: int) -> None:
    """Rows of about 1.5 kB, every hundredth one a duplicate."""
    chance = random.Random(0)
    file.parent.mkdir(parents=True)
    previous = ""
    with file.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            if number % 100 == 99:
                lines.write(previous)
                continue
            row: dict[str, Any] = {
                "prompt": f"{number // 2} {' '.join(chance.choices(WORDS, k=60))}",
                "response": " ".join(chance.choices(WORDS, k=150)),
                **{name: chance.randrange(5) for name in RATINGS},
            }
            previous = json.dumps(row) + "\n"
            lines.write(previous)


def convert_with_armorm(root: Path, output: Path) -> int:
    """Prepare a recipe with one source, as ``armorm data prepare`` does."""
    from armorm import PAPER_OBJECTIVES
    from armorm.data import DataSource
    from armorm.data.preparing import Preparation, prepare

    source = DataSource(catalog="helpsteer2", root=str(root))
    preparation = Preparation(rated=(source,), preferences=(), objectives=PAPER_OBJECTIVES)
    totals = prepare(preparation, output).totals["rated"]
    return sum(totals.values())


def convert_with_map(root: Path, output: Path) -> int:
    """The usual script: load, map row by row, write Parquet. No checks, no split."""
    import datasets

    from armorm import PAPER_OBJECTIVES

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(root / "nvidia/HelpSteer2"), split="train")

    def to_row(record: dict[str, Any], number: int) -> dict[str, Any]:
        ratings = {f"helpsteer-{name}": float(record[name]) for name in RATINGS}
        return {
            "id": f"helpsteer2:{number}",
            "source": "helpsteer2",
            "messages": [
                {"role": "user", "content": record["prompt"]},
                {"role": "assistant", "content": record["response"]},
            ],
            **{name: ratings.get(name) for name in PAPER_OBJECTIVES.names},
            "split": "train",
        }

    converted = loaded.map(to_row, with_indices=True, remove_columns=loaded.column_names)
    output.mkdir()
    converted.to_parquet(str(output / "train.parquet"))
    return len(converted)


CONTENDERS: dict[str, Callable[[Path, Path], int]] = {
    "armorm": convert_with_armorm,
    "datasets.map": convert_with_map,
}


def run_here(name: str, root: Path, output: Path) -> None:
    """Run one contender in this process and print what it took."""
    import datasets  # noqa: F401  # imports are not timed; datasets takes torch where it is there
    import torch  # noqa: F401

    import armorm.data.preparing  # noqa: F401

    started, work = time.perf_counter(), time.process_time()
    rows = CONTENDERS[name](root, output)
    seconds, work = time.perf_counter() - started, time.process_time() - work
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu": work, "peak_mib": peak}))


def run_apart(name: str, root: Path, scratch: Path, turn: int) -> dict[str, float]:
    """Run one contender in a fresh process with a cache of its own."""
    output, cache = scratch / f"{turn}-{name}", scratch / f"cache-{turn}-{name}"
    command = [sys.executable, __file__, "--contender", name, "--root", str(root)]
    done = subprocess.run(
        [*command, "--output", str(output)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Generate the input, run the contenders by turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if chosen.contender:
        run_here(chosen.contender, chosen.root, chosen.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "hub"
        file = root / "nvidia/HelpSteer2/train.jsonl"
        generate(file, chosen.rows)
        size = file.stat().st_size / 2**20
        print(f"{chosen.rows:,} rows, {size:,.0f} MiB; {platform.platform()}, {platform.machine()}")
        for turn in range(chosen.turns):
            for name in CONTENDERS:
                took = run_apart(name, root, Path(folder), turn)
                rate = chosen.rows / took["seconds"]
                print(
                    f"{name:13} {took['seconds']:6.1f} s  {took['cpu']:6.1f} s of processor  "
                    f"{rate:8,.0f} rows/s  "
                    f"peak {took['peak_mib']:5,.0f} MiB  {int(took['rows']):,} rows written"
                )


if __name__ == "__main__":
    main()
