"""Objectives, debiasing and percentiles of a model folder, read without its weights or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError

from armorm.errors import CheckpointError
from armorm.hub.weights import StoredTensor, read_object, stored_tensors
from armorm.objectives import Objective
from armorm.workbench.scored import ModelFacts, ReferenceSample

DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
METADATA_FILE, TRANSFORM = "armorm.json", "reward_transform_matrix"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Part of a model folder that pages are made with.

    Attributes:
        folder: The folder.
        objectives: Names and scales of its objectives.
        facts: Debiasing, scale and percentiles.
    """

    folder: Path
    objectives: tuple[Objective, ...]
    facts: ModelFacts

    @classmethod
    def read(cls, folder: Path) -> ModelFolder:
        """Read the folder.

        Raises:
            CheckpointError: It is not a model folder that this package wrote.
        """
        metadata = read_object(folder / METADATA_FILE)
        try:
            objectives = TypeAdapter(tuple[Objective, ...]).validate_python(metadata["objectives"])
        except (KeyError, ValidationError) as error:
            raise CheckpointError(f"{folder / METADATA_FILE}: objectives: {error}") from None
        transform, sample = _transform(folder, metadata), _sample(folder / "reference")
        return cls(folder, objectives, facts_of(metadata, transform, objectives, sample))


def facts_of(
    metadata: Mapping[str, Any],
    transform: Float[np.ndarray, "k k"],
    objectives: tuple[Objective, ...],
    sample: ReferenceSample | None,
) -> ModelFacts:
    """Return the facts of a model.

    Args:
        metadata: Its ``beta``, ``training`` and ``debiasing``, as ``armorm.json`` holds them.
        transform: T of its debiasing. Shape (k, k).
        objectives: Its objectives.
        sample: Its reference, if it has one.
    """
    emptied = np.flatnonzero(np.abs(transform).max(axis=0) < 1e-3)
    quantiles = metadata.get("training", {}).get("score_quantiles")
    return ModelFacts(
        transform=transform.astype(np.float64),
        beta=metadata.get("beta"),
        quantiles=None if quantiles is None else tuple(quantiles),
        dropped=objectives[emptied[0]].name if len(emptied) == 1 else None,
        sample=sample,
    )


def _transform(folder: Path, metadata: Mapping[str, Any]) -> Float[np.ndarray, "k k"]:
    unsteered = metadata.get("unsteered_transform")
    if unsteered is not None:
        return np.array(unsteered, dtype=np.float64)
    tensors = stored_tensors(folder)
    if TRANSFORM not in tensors:
        raise CheckpointError(f"{folder} holds no {TRANSFORM}: it is not a gated reward model.")
    return _read(tensors[TRANSFORM])


def _sample(folder: Path) -> ReferenceSample | None:
    tensors = stored_tensors(folder)
    if not tensors:
        return None
    try:
        gating, rewards, owners = (_read(tensors[name]) for name in ("gating", "rewards", "owners"))
    except KeyError as error:
        raise CheckpointError(f"{folder} holds no {error}. Export the model again.") from None
    return ReferenceSample(gating, rewards, owners)


def _read(tensor: StoredTensor) -> np.ndarray:
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        data = file.read(tensor.size)
    if tensor.dtype == "BF16":  # the upper half of a float32, which numpy has no type for
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(tensor.shape)
    return np.frombuffer(data, DTYPES[tensor.dtype]).reshape(tensor.shape)
