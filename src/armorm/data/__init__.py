"""Sources of text: reading, validation and splitting."""

from armorm.data.catalog import CatalogEntry, catalog, objective_set, register_dataset
from armorm.data.reading import Loaded, read_preferences, read_rated
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy
from armorm.data.splitting import held_out_prompts, keep_apart, separate_prompts

__all__ = [
    "CatalogEntry",
    "DataSource",
    "HeldOut",
    "InvalidPolicy",
    "Loaded",
    "catalog",
    "held_out_prompts",
    "keep_apart",
    "objective_set",
    "read_preferences",
    "read_rated",
    "register_dataset",
    "separate_prompts",
]
