"""Options of training the backbone, under the names of transformers, TRL and PEFT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from armorm.data import DataSource
from armorm.settings import Options


class LoraOptions(Options):
    """Low-rank adapters instead of all weights (Hu et al. 2021); merged when training ends."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32, gt=0)
    """Scale of the adapters' output, divided by r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapters' input."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter; all-linear is every linear layer."""


class TuningOptions(Options):
    """Options of training the backbone: AdamW, cosine decay, gradients clipped at norm 1."""

    LEARNING_RATE: ClassVar[float]
    LORA_LEARNING_RATE: ClassVar[float] = 1e-4

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak of the learning rate; the default depends on the stage and on lora."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(default=0.03, ge=0.0, lt=1.0)
    """Share of the steps in which the rate rises from zero."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; takes precedence over epochs."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""
    gradient_accumulation_steps: int = Field(default=8, ge=1)
    """Forward passes in one optimiser step."""
    gradient_checkpointing: bool = True
    """Compute activations twice to save memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products: float32, bfloat16 (the weights stay float32 where all are
    trained), or auto: float32 on a CPU, bfloat16 elsewhere."""
    lora: LoraOptions | None = None
    """Low-rank adapters to train; null trains all weights."""
    save_steps: int = Field(default=500, ge=1)
    """Optimiser steps between the checkpoints that an interrupted run resumes from."""

    def peak_learning_rate(self) -> float:
        """Return the peak of the learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.LEARNING_RATE if self.lora is None else self.LORA_LEARNING_RATE

    def uses_bfloat16(self, device: str) -> bool:
        """Return True if the matrix products run in bfloat16 on this device."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device != "cpu")


class PretrainingOptions(TuningOptions):
    """Bradley–Terry training of the backbone on preference pairs.

    Defaults are those of the model that the paper starts from (RLHF Workflow, Dong et al. 2024:
    one epoch, 512 pairs a step, 2e-6).
    """

    LEARNING_RATE: ClassVar[float] = 2e-6

    weight_decay: float = Field(default=0.001, ge=0)
    """Weight decay of AdamW."""
    gradient_accumulation_steps: int = Field(default=64, ge=1)
    """Forward passes in one optimiser step."""
    preferences: tuple[DataSource, ...] | None = None
    """Sources of the pairs; default those of data.preferences."""

    @model_validator(mode="after")
    def _check_catalog(self) -> PretrainingOptions:
        for source in self.preferences or ():
            source.check_catalog("preferences")
        return self


class PairwiseOptions(TuningOptions):
    """Training of a pairwise preference model, which answers A or B; both orders of each pair."""

    LEARNING_RATE: ClassVar[float] = 5e-6


class FinetuneOptions(TuningOptions):
    """Stage 1 through the backbone: the masked squared error of the rewards, from the probe on."""

    LEARNING_RATE: ClassVar[float] = 1e-5

    final_head: Literal["trained", "ridge"] = "trained"
    """Regression layer of the model: the one trained with the backbone, or a ridge fit on the
    features that the backbone has learned, whose penalty is chosen on rows that it has seen."""
