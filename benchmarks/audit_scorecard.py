"""Power and false alarms of the detectors of an audit, where the truth is planted.

python benchmarks/audit_scorecard.py [--corpora 100] [--pairs 200]
"""

from __future__ import annotations

import argparse
import itertools

from armorm.evaluation.audit.scorecard import scorecard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    print("| detector | planted | strength: alarms |\n|---|---|---|")
    rows = scorecard(options.corpora, options.pairs)
    for (detector, planted, unit), group in itertools.groupby(
        rows, key=lambda row: (row.detector, row.planted, row.unit)
    ):
        cells = [f"{row.strength:g}: {row.alarms.text(percent=True)}" for row in group]
        print(f"| {detector} | {planted}, {unit} | {', '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
