"""Draw the rows that docs/results.md was measured on from a folder of ratings and preferences.

All rows of small sources and a random part of large ones, all held-out pairs and 5,000 others::

    python benchmarks/real_rows.py DATA runs/rows
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RATINGS = {
    "alpaca_eval": 4000,
    "gsm8k_solutions": 1800,
    "halueval_general": 1500,
    "truthfulqa": 1800,
    "dices": 1000,
}
"""Most ratings of a source; all of the others are taken."""

PAIRS = 5000
"""Training pairs."""


def main(data: Path, output: Path) -> None:
    """Write both files of rows."""
    draw = random.Random(0)
    output.mkdir(parents=True, exist_ok=True)
    ratings = shuffled(data / "ratings.jsonl.gz", draw)
    seen: Counter[str] = Counter()
    kept = []
    for row in ratings:
        seen[row["source"]] += 1
        if seen[row["source"]] <= RATINGS.get(row["source"], len(ratings)):
            kept.append(row)
    write(output / "ratings.jsonl.gz", kept)
    pairs = shuffled(data / "preferences.jsonl.gz", draw)
    training = [row["id"] for row in pairs if row["split"] != "val"][:PAIRS]
    chosen = set(training)
    taken = [row for row in pairs if row["split"] == "val" or row["id"] in chosen]
    write(output / "preferences.jsonl.gz", taken)
    print(f"{len(kept):,} ratings, {len(taken):,} pairs: {output}")


def shuffled(file: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Return the rows of a file in random order."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    draw.shuffle(rows)
    return rows


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as compressed JSON lines."""
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
