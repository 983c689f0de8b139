"""The modelling file that a model folder carries for transformers, and its registration."""

from __future__ import annotations

from pathlib import Path

MODELING_FILE = "modeling_armorm.py"
METADATA_FILE = "armorm.json"
UNCERTAINTY_FILE = "uncertainty/head.safetensors"
"""Not beside the weights: engines that serve a model take every safetensors file there for them."""

# Parts of a gated reward model that are not part of its backbone.
HEAD_PREFIXES = ("regression_layer.", "gating.", "reward_transform_matrix")

# Heads that a language model or a Bradley–Terry model puts on the same body.
OTHER_HEADS = ("lm_head.", "score.", "value_head.", "v_head.")


def modeling_source() -> bytes:
    """Return the modelling file, as it is written into model folders."""
    return (Path(__file__).parent / MODELING_FILE).read_bytes()
