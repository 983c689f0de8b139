"""Small random models of the transformers families."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

VOCABULARY = 97

Shape = dict[str, Any]

PLAIN: Shape = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_model(family: str, changes: Shape) -> PreTrainedModel:
    """Return a random model of a transformers family."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**PLAIN, **changes})
    return AutoModel.from_config(config).eval().requires_grad_(False)
