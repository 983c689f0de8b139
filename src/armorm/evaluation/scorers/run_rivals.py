"""Rivals of the gate from its own training run, as scorers of new text."""

from __future__ import annotations

from pathlib import Path

import torch

from armorm.errors import CheckpointError
from armorm.evaluation.scorers.linear_heads import LinearHeadScorer
from armorm.features import BackboneOptions, load_engine
from armorm.heads.bradley_terry import BRADLEY_TERRY_FILE, BradleyTerryHead


def open_bradley_terry_head(
    run: Path, name: str, loading: BackboneOptions | None = None
) -> LinearHeadScorer:
    """Return the Bradley–Terry linear head of a run, on the backbone of the run's model.

    Args:
        run: Run folder of ``armorm train``.
        name: Name in tables.
        loading: How the backbone is loaded and run.

    Raises:
        CheckpointError: The run holds no such head or no model.
    """
    file = run / BRADLEY_TERRY_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{run} holds no {BRADLEY_TERRY_FILE}: name the run folder of `armorm train` or "
            "`armorm fit-gate`, not the model folder in it."
        )
    weight = BradleyTerryHead.read_weight(file)
    backbone = load_engine(run / "model", loading)
    if len(weight) != backbone.hidden_size:
        raise CheckpointError(
            f"{file} reads {len(weight)} features, the model beside it has {backbone.hidden_size}. "
            "Run `armorm fit-gate` again."
        )
    return LinearHeadScorer(
        backbone, torch.from_numpy(weight)[None], name=name, kind="Bradley–Terry head"
    )
