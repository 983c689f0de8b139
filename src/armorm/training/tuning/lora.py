"""Low-rank adapters by PEFT."""

from __future__ import annotations

from typing import Any, Literal

from armorm.errors import MissingExtraError
from armorm.training.tuning.options import LoraOptions


def lora_config(
    section: LoraOptions, task: Literal["CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_CLS"]
) -> Any:
    """Return PEFT's configuration; for ``SEQ_CLS`` it also trains all of the new score layer.

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("Training with lora", "train") from error
    targets = section.target_modules
    return LoraConfig(
        task_type=task,
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


def merged(model: Any) -> Any:
    """Return the model with its adapters, if it has any, added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
