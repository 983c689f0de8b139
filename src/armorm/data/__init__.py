"""Sources of text: reading, validation and splitting."""

from armorm.data.reading import Loaded, read_preferences, read_rated
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy
from armorm.data.splitting import held_out_prompts, keep_apart, separate_prompts

__all__ = [
    "DataSource",
    "HeldOut",
    "InvalidPolicy",
    "Loaded",
    "held_out_prompts",
    "keep_apart",
    "read_preferences",
    "read_rated",
    "separate_prompts",
]
