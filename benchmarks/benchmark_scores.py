"""Time `armorm benchmark --scores` on 3,000 rows in RewardBench 2's layout, start-up included.

python benchmarks/benchmark_scores.py
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
WORDS = "lorem ipsum dolor sit amet **bold** consectetur\n- item adipiscing elit " * 12
COMMAND = [sys.executable, "-m", "armorm", "benchmark", "--scores"]


def main() -> None:
    """Write the files and print the seconds of a wrong file name and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [row(f"{i}", SUBSETS[i % 5], 1, 3) for i in range(2800)]
        rows += [row(f"ref:{i}", "Ties", 1, 5) for i in range(100)]
        rows += [row(f"tied:{i}", "Ties", 6, 10) for i in range(100)]
        file = root / "allenai/reward-bench-2/data/test-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
        scores = root / "scores.jsonl"
        scores.write_text("".join(json.dumps(scored(one)) + "\n" for one in rows), "utf-8")
        missing = str(root / "missing.jsonl")
        print(f"start-up: {seconds([*COMMAND, missing, 'reward-bench-2'], fails=True):.2f} s")
        whole = [*COMMAND, str(scores), "reward-bench-2", "--from", str(root)]
        print(f"whole command, {len(rows):,} rows: {seconds(whole):.2f} s")


def row(name: str, subset: str, right: int, wrong: int) -> dict[str, object]:
    """Return a row of about 1.4 kB a response."""
    return {
        "id": name,
        "prompt": f"Question {name}",
        "chosen": [f"right {i} {WORDS}" for i in range(right)],
        "rejected": [f"wrong {i} {WORDS}{WORDS}" for i in range(wrong)],
        "num_correct": right,
        "num_rejected": wrong,
        "total_completions": right + wrong,
        "models": ["m"] * (right + wrong),
        "subset": subset,
        "additional_metadata": {"category": "none"},
    }


def scored(one: dict[str, object]) -> dict[str, object]:
    """Return random scores of a row's responses."""
    draw = random.Random(str(one["id"]))
    count = int(str(one["total_completions"]))
    return {"id": one["id"], "scores": [draw.gauss(0, 1) for _ in range(count)]}


def seconds(command: list[str], *, fails: bool = False) -> float:
    """Return the least wall time of three runs."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - started)
        if bool(found.returncode) != fails:
            raise SystemExit(found.stderr or found.stdout)
    return min(times)


if __name__ == "__main__":
    main()
