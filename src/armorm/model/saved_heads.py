"""The part of a model folder that steering needs, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from armorm.errors import ArmormError, CheckpointError, RecipeError
from armorm.hub import METADATA_FILE, UNCERTAINTY_FILE
from armorm.hub.weights import StoredTensor, read_object, stored_tensors
from armorm.model.profiles import FOLDER, SteeringProfile, read_profiles
from armorm.objectives import PAPER_OBJECTIVES, Objective, ObjectiveSet


@dataclass(frozen=True, slots=True)
class SavedHeads:
    """Objectives and debiasing of a model folder, as they are without steering.

    Attributes:
        folder: The folder.
        objectives: Names and scales.
        transform: T of the debiasing. Shape (k, k).
        total: Sum of the gate's coefficients.
        saved_under: Name and hash of the profile that the folder was saved under, if any.

    Example:
        >>> from pathlib import Path
        >>> from armorm.model.saved_heads import SavedHeads
        >>> saved = SavedHeads.in_folder(Path("runs/quickstart/model"))
        >>> saved.objectives.names[0], saved.transform.shape
        ('helpdesk-correctness', (7, 7))
    """

    folder: Path
    objectives: ObjectiveSet
    transform: Float[np.ndarray, "k k"]
    total: float
    saved_under: Mapping[str, str] | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> SavedHeads:
        """Read a model folder.

        Raises:
            CheckpointError: It is not a complete gated reward model.
        """
        tensors = stored_tensors(folder) if folder.is_dir() else {}
        if not {"reward_transform_matrix", "gating.logit_scale"} <= tensors.keys():
            raise CheckpointError(f"{folder} is not the folder of a gated reward model.")
        transform = _numbers(tensors["reward_transform_matrix"])
        file = folder / METADATA_FILE
        metadata: dict[str, Any] = read_object(file) if file.exists() else {}
        try:
            if metadata.get("unsteered_transform") is not None:
                transform = np.array(metadata["unsteered_transform"], np.float64)
            listed = metadata.get("objectives")
            objectives = (
                PAPER_OBJECTIVES
                if listed is None
                else ObjectiveSet([Objective.model_validate(one) for one in listed])
            )
        except (ArmormError, ValidationError, ValueError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be used: {error}") from error
        if transform.shape != (len(objectives), len(objectives)):
            raise CheckpointError(
                f"{folder}: reward_transform_matrix has the shape {transform.shape}, which does "
                f"not fit {len(objectives)} objectives."
            )
        total = float(_numbers(tensors["gating.logit_scale"]).sum())
        return cls(folder, objectives, transform, total, metadata.get("profile"))

    @property
    def profiles(self) -> dict[str, SteeringProfile]:
        """Profiles that are saved with the model, by name.

        Raises:
            RecipeError: A file is no profile.
        """
        return read_profiles(self.folder / FOLDER)

    def save(self, profile: SteeringProfile) -> Path:
        """Save a profile with the model, in the place of one of its name; return its file.

        Raises:
            RecipeError: The profile is not for this model.
            OutputError: The folder cannot be written.
        """
        profile.check(self.objectives)
        if profile.risk is not None and not (self.folder / UNCERTAINTY_FILE).is_file():
            raise RecipeError(
                f"profile {profile.name}: risk: the model has no {UNCERTAINTY_FILE}, so it cannot "
                "say how sure it is. Leave out the risk."
            )
        under = self.saved_under or {}
        if profile.name == under.get("name") and profile.hash != under.get("hash"):
            raise RecipeError(
                f"The model was saved under another profile {profile.name}, which is part of its "
                "weights. Give this one another name."
            )
        file = self.folder / FOLDER / f"{profile.name}.yaml"
        profile.write(file)
        return file


def _numbers(stored: StoredTensor) -> Float[np.ndarray, ...]:
    """Read a tensor of floating-point numbers as float64."""
    with stored.file.open("rb") as file:
        file.seek(stored.start)
        content = file.read(stored.size)
    if stored.dtype == "BF16":  # the upper half of a float32
        numbers = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif stored.dtype in ("F16", "F32", "F64"):
        numbers = np.frombuffer(content, f"<f{int(stored.dtype[1:]) // 8}")
    else:
        raise CheckpointError(f"{stored.file}: {stored.dtype} is no floating-point format.")
    if not np.isfinite(numbers).all():
        raise CheckpointError(f"{stored.file} holds numbers that are not finite.")
    return numbers.astype(np.float64).reshape(stored.shape)
