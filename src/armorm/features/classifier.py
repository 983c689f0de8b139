"""The sequence classifier that transformers has for a decoder, around a decoder that is loaded."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from armorm.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def classifier_around(decoder: PreTrainedModel, score: torch.nn.Linear) -> PreTrainedModel:
    """Return a sequence classifier of this decoder and this score layer, without a copy.

    Args:
        decoder: The decoder.
        score: The layer, from hidden states to outputs; cast to the decoder's format and device.

    Raises:
        CheckpointError: transformers has no such classifier for this architecture.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(decoder.config)
    config.num_labels = score.out_features
    try:
        with torch.device("meta"):  # its own decoder is replaced below, so it gets no memory
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"transformers has no sequence classifier for {config.model_type}."
        ) from error
    if not hasattr(model, "score"):
        raise CheckpointError(
            f"The sequence classifier of {config.model_type} in transformers has no score layer."
        )
    setattr(model, model.base_model_prefix, decoder)
    model.score = score.to(decoder.device, decoder.dtype)
    return model
