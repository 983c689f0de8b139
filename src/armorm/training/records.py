"""What each stage leaves on disk for the next one, and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from armorm.errors import StoreError
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import RewardHead
from armorm.heads.metrics import RegressionFit
from armorm.objectives import ObjectiveSet

REPORTED = {"objectives", "alphas", "selection_errors", "uncertainty"}
"""What later stages read in ``head.json``; builds before the release wrote less."""


def save_head(
    folder: Path,
    head: RewardHead,
    objectives: ObjectiveSet,
    fits: list[RegressionFit],
    uncertainty: dict[str, Any],
    alphas: Sequence[float],
    seconds: float,
) -> None:
    """Write the regression layer in float64, how well it predicts held-out ratings, and how well
    it knows how well."""
    write_atomically(
        folder / "head.safetensors", save({"regression_layer.weight": np.asarray(head.weight)})
    )
    report = {
        "objectives": {
            name: {
                **asdict(fit),
                "rows": head.rows[i],
                "held_out_rows": fit.rows,
                "alpha": head.alphas[i],
            }
            for i, (name, fit) in enumerate(zip(objectives.names, fits, strict=True))
        },
        "alphas": list(alphas),
        "selection_errors": head.selection_errors,
        "uncertainty": uncertainty,
        "seconds": seconds,
    }
    write_json(folder / "head.json", report)


def load_head(folder: Path) -> tuple[RewardHead, dict[str, Any]]:
    """Read what :func:`save_head` wrote.

    Raises:
        StoreError: it is not there, or damaged.
    """
    try:
        weight = load_file(folder / "head.safetensors")["regression_layer.weight"]
        report = read_json(folder / "head.json")
        if lacking := sorted(REPORTED - report.keys()):
            raise ValueError(f"head.json lacks {', '.join(lacking)}")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(
            f"{folder} holds no fitted head ({error}). Run `armorm fit-head` first."
        ) from error
    objectives = report["objectives"].values()
    head = RewardHead(
        weight,
        tuple(objective["alpha"] for objective in objectives),
        tuple(objective["rows"] for objective in objectives),
        report["selection_errors"],
    )
    return head, report
