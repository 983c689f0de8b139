"""Uncertainty of the head of a run, checked on the rated rows that were held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.features import FeatureStore
from armorm.files import write_atomically
from armorm.heads import HeadUncertainty, RewardHead, RidgeStatistics, fit_uncertainty
from armorm.heads.metrics import coverage
from armorm.model import ModelUncertainty
from armorm.objectives import ObjectiveSet

FILE = "uncertainty.safetensors"
MOST_ROWS = 4096
"""Held-out rows that novelty and coverage are measured on: enough for both, and soon done."""


def save_uncertainty(
    folder: Path,
    statistics: RidgeStatistics,
    head: RewardHead,
    objectives: ObjectiveSet,
    store: FeatureStore,
    judges: npt.NDArray[np.bool_],
    *,
    withheld: str | None = None,
) -> dict[str, Any]:
    """Write the head's uncertainty into its folder, measured on the held-out rows of a store.

    Args:
        folder: Of the head.
        statistics: The sums it was fitted on.
        head: The fitted head.
        objectives: Its objectives.
        store: Features of the rated rows.
        judges: Mask of those that are held out, and used.
        withheld: Why there is to be none.

    Returns:
        ``unavailable`` (why there is none, else ``None``); ``missing`` (reason of each objective
        without a deviation); ``held_out_rows``; ``usual_novelty``;
        ``coverage`` of each objective: ``{nominal: measured}`` shares of held-out ratings within
        the interval.
    """
    (folder / FILE).unlink(missing_ok=True)
    if withheld is not None:
        return {"unavailable": withheld}
    try:
        uncertainty = fit_uncertainty(statistics, head, objectives.names)
    except ArmormError as error:
        return {"unavailable": str(error)}
    features, ratings = _held_out_rows(store, judges)
    predicted, deviations = head.rewards(features), uncertainty.deviations(features)
    uncertainty = uncertainty.with_usual_novelty(uncertainty.novelty(features))
    uncertainty = uncertainty.with_conformal(predicted, deviations, ratings)
    write_atomically(folder / FILE, uncertainty.to_bytes())
    covered = coverage(predicted, deviations, ratings)
    return {
        "unavailable": None,
        "missing": dict(uncertainty.missing),
        "held_out_rows": len(features),
        "usual_novelty": uncertainty.usual_novelty,
        "coverage": dict(zip(objectives.names, covered, strict=True)),
    }


def load_uncertainty(folder: Path) -> ModelUncertainty | None:
    """Return the uncertainty that :func:`save_uncertainty` wrote; ``None`` if there is none."""
    file = folder / FILE
    return (
        ModelUncertainty(HeadUncertainty.from_bytes(file.read_bytes())) if file.exists() else None
    )


def _held_out_rows(
    store: FeatureStore, judges: npt.NDArray[np.bool_]
) -> tuple[Float[np.ndarray, "rows features"], Float[np.ndarray, "rows objectives"]]:
    """Return features and unit rewards of held-out rows, evenly spaced where there are too many."""
    ratings, _ = store.ratings()
    numbers = np.flatnonzero(judges)
    if len(numbers) > MOST_ROWS:
        numbers = numbers[np.linspace(0, len(numbers) - 1, MOST_ROWS).astype(np.int64)]
    start, found = 0, [np.empty((0, store.manifest.backbone["hidden_size"]), np.float32)]
    for shard in store.response_features():
        mine: npt.NDArray[np.int64] = numbers[(numbers >= start) & (numbers < start + len(shard))]
        found.append(shard[mine - start].float().numpy())
        start += len(shard)
    return np.concatenate(found), ratings[numbers]
