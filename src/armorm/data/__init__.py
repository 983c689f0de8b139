"""Where text comes from: sources, validation, splitting, and the built-in corpus."""

from armorm.data.corpus import Corpus, generate_corpus
from armorm.data.reading import Loaded, read_preferences, read_rated
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy
from armorm.data.splitting import held_out_prompts, keep_apart, separate_prompts

__all__ = [
    "Corpus",
    "DataSource",
    "HeldOut",
    "InvalidPolicy",
    "Loaded",
    "generate_corpus",
    "held_out_prompts",
    "keep_apart",
    "read_preferences",
    "read_rated",
    "separate_prompts",
]
