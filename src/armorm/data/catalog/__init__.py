"""Public datasets, each described in one file; a new dataset is one new file, here or elsewhere."""

from armorm.data.catalog.describing import describe, sample
from armorm.data.catalog.entry import (
    CatalogEntry,
    Converter,
    Form,
    Kind,
    Option,
    Rating,
    Reading,
    Record,
    paper_rating,
)
from armorm.data.catalog.reading import converted_rows
from armorm.data.catalog.registry import catalog, catalog_entry, objective_set, register_dataset

__all__ = [
    "CatalogEntry",
    "Converter",
    "Form",
    "Kind",
    "Option",
    "Rating",
    "Reading",
    "Record",
    "catalog",
    "catalog_entry",
    "converted_rows",
    "describe",
    "objective_set",
    "paper_rating",
    "register_dataset",
    "sample",
]
