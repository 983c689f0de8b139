"""Layout of a model folder: the released ArmoRM files, and ``armorm.json`` beside them.

``config.json`` is the backbone's config plus ``num_objectives``, ``gating_temperature``,
``gating_hidden_dim`` and ``gating_n_hidden``; the safetensors hold the backbone under its own
prefix, ``regression_layer.weight``, ``gating.layers.<i>.{weight,bias}``, ``gating.logit_scale``
and ``reward_transform_matrix``.  ``armorm.json`` holds what the released layout has no key for:
objectives and scales, beta, steering, the debiasing report, the training record and a self-check.

A folder written here also carries ``modeling_armorm.py``, so that transformers alone can load it.
Its ``model_type`` is ``armorm``: a library that does not know the gate refuses it by that name,
while it would load ``llama`` with a freshly initialised head.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save as save_safetensors
from torch import Tensor

from armorm.errors import CheckpointError
from armorm.files import sha256_of_json
from armorm.heads import Gate, GateTraining, RewardHead, VerbosityDebiasing
from armorm.hub import METADATA_FILE, MODELING_FILE
from armorm.model.self_check import SelfCheck
from armorm.model.steering import CompiledSteering, Steering
from armorm.objectives import Objective, ObjectiveSet

FORMAT_VERSION = 2
FIXED_WEIGHTS = "fixed_weights"
"""Key of the training record: the gate's ablation, weights that do not depend on the prompt."""
SCORE_QUANTILES = "score_quantiles"
"""Key of the training record: the 0th to the 100th percentile of the scores of held-out pairs."""

LICENCES = "licences"
"""Key of the training record: licence of each source of ratings and of preferences."""

ARCHITECTURE_SUFFIX = "ForRewardModelWithGating"

# Values of the released checkpoint, whose config does not hold them.
RELEASED_TEMPERATURE = 10.0
RELEASED_HIDDEN_DIM = 1024
RELEASED_N_HIDDEN = 3

# Everything that saving a model writes; a folder with any other file is never replaced.
_OWN_FILES = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|config\.json|README\.md|"
    r"armorm\.json|profiles/[\w.-]+\.(yaml|yml|json)|uncertainty/head\.safetensors|reference/prompts\.safetensors|tokenizer\.(json|model)|tokenizer_config\.json|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r"(additional_chat_templates/)?[\w-]+\.jinja|[\w-]+\.tiktoken|" + re.escape(MODELING_FILE)
)


class Metadata(BaseModel):
    """The contents of ``armorm.json``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    format_version: Literal[2] = 2
    """Version of these keys."""
    written_by: str = ""
    """Name and version of the program."""
    objectives: list[Objective]
    """Names and scales."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """Learned scale of the Bradley–Terry model."""
    steering: dict[str, Any] | None = None
    """Steering that ``reward_transform_matrix`` contains."""
    unsteered_transform: list[list[float]] | None = None
    """The matrix without it."""
    profile: dict[str, str] | None = None
    """Name and hash of the profile that the folder was saved under."""
    debiasing: dict[str, Any] = {}
    """Report of the debiasing."""
    training: dict[str, Any] = {}
    """Record of the training."""
    self_check: SelfCheck | None = None
    """Answer to a fixed conversation, and hashes."""


@dataclass(frozen=True, slots=True)
class Heads:
    """All parts of a reward model except its backbone.

    Attributes:
        objectives: Names and scales of the k objectives.
        weight: Regression layer W, in float32. Shape (k, hidden).
        transform: T of the debiasing, in float32. Shape (k, k).
        gate: The gating network.
        beta: Learned scale of the Bradley–Terry model; ``None`` if unknown.
        debiasing: Report of the debiasing.
        training: Record of the training.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.model import Heads
        >>> heads = RewardModel.from_pretrained("runs/quickstart/model").heads
        >>> isinstance(heads, Heads), heads.weight.shape, heads.transform.shape
        (True, torch.Size([7, 192]), torch.Size([7, 7]))
    """

    objectives: ObjectiveSet
    weight: Float[Tensor, "k hidden"]
    transform: Float[Tensor, "k k"]
    gate: Gate
    beta: float | None = None
    debiasing: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        objectives: ObjectiveSet,
        head: RewardHead,
        debiasing: VerbosityDebiasing,
        gate: GateTraining,
        *,
        debiasing_report: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
    ) -> Heads:
        """Return the heads that the two stages fitted.

        Args:
            objectives: Names and scales of the columns.
            head: Regression layer of stage 1.
            debiasing: Its debiasing.
            gate: Gate of stage 2, with its scale beta.
            debiasing_report: Report of the debiasing.
            training: Record of the training.
        """
        return cls(
            objectives,
            torch.from_numpy(head.weight.astype(np.float32)),
            torch.from_numpy(debiasing.transform.astype(np.float32)),
            gate.gate,
            gate.beta,
            debiasing_report or {},
            training or {},
        )

    def compile(self, steering: Steering, *, warn: bool = True) -> CompiledSteering:
        """Return a steering as a matrix for these heads; see :meth:`Steering.compile`."""
        total = float(self.gate.logit_scale)
        return steering.compile(self.objectives, self.transform.numpy(), total, warn=warn)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the released checkpoint."""
        gate = {f"gating.{name}": tensor for name, tensor in self.gate.state_dict().items()}
        return {
            "regression_layer.weight": self.weight,
            "reward_transform_matrix": self.transform,
            **gate,
        }

    def fingerprint(self) -> str:
        """Return a hash of everything that turns hidden states into named, scaled scores."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        return sha256_of_json(
            [
                hashlib.sha256(save_safetensors(tensors)).hexdigest(),
                [objective.model_dump(mode="json") for objective in self.objectives],
                self.gate.temperature,
                self.beta,
            ]
        )

    def check_fits(self, hidden_size: int, name: str) -> None:
        """Raise CheckpointError unless the heads read features of this length."""
        if self.weight.shape[1] != hidden_size:
            raise CheckpointError(
                f"{name}: regression_layer.weight reads {self.weight.shape[1]} features, but the "
                f"backbone has {hidden_size}."
            )


def is_model_folder(folder: Path) -> bool:
    """Return True for a folder that holds a model written by this package and nothing else."""
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]
    return METADATA_FILE in files and all(map(_OWN_FILES.fullmatch, files))
