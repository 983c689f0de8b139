"""Sections of a recipe for training the backbone, under the names of transformers, TRL and PEFT."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from armorm.data import DataSource
from armorm.settings import Options


class LoraSection(Options):
    """Low-rank adapters instead of all weights (Hu et al. 2021); merged when training ends.

    Attributes:
        r: Rank.
        alpha: The adapters' output is scaled by ``alpha / r``.
        dropout: On the adapters' input.
        target_modules: Names of the layers that get one; ``all-linear`` is every linear layer.
    """

    r: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TuningSection(Options):
    """How the backbone is trained: AdamW, cosine decay to zero, gradients clipped at norm 1.

    Attributes:
        learning_rate: The peak; the default depends on ``lora``.
        weight_decay: AdamW's.
        warmup: Share of the steps in which the rate rises from zero.
        epochs: Passes over the training rows.
        max_steps: Optimiser steps; takes precedence over ``epochs``.
        batch_size: Rows in one forward pass.
        gradient_accumulation_steps: Forward passes in one optimiser step.
        gradient_checkpointing: Compute activations twice to save memory.
        precision: ``bfloat16`` runs the products in it (all-weight training keeps float32
            weights); ``auto`` is float32 on a CPU, bfloat16 elsewhere.
        lora: Train adapters; ``null`` trains all weights.
        save_steps: Optimiser steps between the checkpoints that a killed run goes on from.
    """

    LEARNING_RATE: ClassVar[float]
    LORA_LEARNING_RATE: ClassVar[float] = 1e-4

    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.03, ge=0.0, lt=1.0)
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    gradient_accumulation_steps: int = Field(default=8, ge=1)
    gradient_checkpointing: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    lora: LoraSection | None = None
    save_steps: int = Field(default=500, ge=1)

    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return self.LEARNING_RATE if self.lora is None else self.LORA_LEARNING_RATE

    def uses_bfloat16(self, device: str) -> bool:
        return self.precision == "bfloat16" or (self.precision == "auto" and device != "cpu")


class PretrainingSection(TuningSection):
    """Bradley–Terry training of the backbone on preference pairs.

    Defaults are those of the model that the paper starts from (RLHF Workflow, Dong et al. 2024:
    one epoch, 512 pairs a step, 2e-6).

    Attributes:
        preferences: Sources of the pairs; default the recipe's.
    """

    LEARNING_RATE: ClassVar[float] = 2e-6

    weight_decay: float = Field(default=0.001, ge=0)
    gradient_accumulation_steps: int = Field(default=64, ge=1)
    preferences: tuple[DataSource, ...] | None = None

    @model_validator(mode="after")
    def _catalogue_has_pairs(self) -> PretrainingSection:
        for source in self.preferences or ():
            source.check_catalog("preferences")
        return self


class FinetuneSection(TuningSection):
    """Stage 1 through the backbone: the masked squared error of the rewards, from the probe on.

    Attributes:
        final_head: Which W the model gets: the one ``trained`` with the backbone, or a ``ridge``
            fit on the features the backbone has learned, whose penalty is then chosen on rows
            that the backbone has seen.
    """

    LEARNING_RATE: ClassVar[float] = 1e-5

    final_head: Literal["trained", "ridge"] = "trained"
