"""Every known dataset: those of this package, of installed packages, and registered ones."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from armorm.data.catalog.entry import CatalogEntry
from armorm.errors import ArmormError, RecipeError, did_you_mean
from armorm.objectives import PAPER_OBJECTIVES, Objective, ObjectiveSet

ENTRY_POINTS = "armorm.datasets"
"""Group of entry points through which an installed package adds datasets."""

_registered: dict[str, CatalogEntry] = {}


def catalog() -> Mapping[str, CatalogEntry]:
    """Return every dataset by its name.

    Raises:
        ArmormError: An installed package offers datasets that cannot be loaded.
    """
    return {**_shipped(), **_installed(), **_registered}


def catalog_entry(name: str) -> CatalogEntry:
    """Return the dataset of this name, or of this hub id.

    Raises:
        RecipeError: There is none; the message names its neighbours.
    """
    entries = catalog()
    by_id = {entry.hub_id: entry for entry in reversed(list(entries.values()))}
    found = entries.get(name) or by_id.get(name)
    if found is None:
        raise RecipeError(f"The catalogue has no {name!r}. {did_you_mean(name, entries)}")
    return found


def register_dataset(entry: CatalogEntry) -> None:
    """Add a dataset to the catalogue of this process.

    Recipes then name it as ``catalog: NAME``, and its objectives as ``objectives: NAME``.  An
    entry point of the group ``armorm.datasets`` does the same for every process, the command
    line included.

    Raises:
        RecipeError: The name is taken by a dataset of this package or of an installed one.
    """
    if entry.name in _shipped() or entry.name in _installed():
        raise RecipeError(f"The catalogue has a dataset {entry.name!r} already: use another name.")
    _registered[entry.name] = entry


def objective_set(*parts: str | Objective) -> ObjectiveSet:
    """Return the union of sets of objectives, in the order given.

    Args:
        parts: ``paper`` for the paper's nineteen, the name of a dataset of the catalogue for
            those that it rates, or single objectives.

    Raises:
        RecipeError: A name is unknown, a dataset rates nothing, or two objectives of one name
            differ.
    """
    objectives: list[Objective] = []
    for part in parts:
        found = [part] if isinstance(part, Objective) else _objectives_named(part)
        # Two sets may share an objective; one objective listed twice is a mistake to be named.
        shared = () if isinstance(part, Objective) else objectives
        objectives += [objective for objective in found if objective not in shared]
    return ObjectiveSet(objectives)


def _objectives_named(name: str) -> Iterable[Objective]:
    if name == "paper":
        return PAPER_OBJECTIVES
    objectives = catalog_entry(name).objectives
    if not objectives:
        raise RecipeError(f"objectives: {name} rates nothing, so it has no objectives.")
    return objectives


@functools.cache
def _shipped() -> Mapping[str, CatalogEntry]:
    """Return the ``ENTRIES`` of the modules beside this one, in the order of their names."""
    package = __name__.rpartition(".")[0]
    modules = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    entries = [
        entry
        for module in modules
        for entry in getattr(importlib.import_module(f"{package}.{module}"), "ENTRIES", ())
    ]
    return {entry.name: entry for entry in entries}


@functools.cache
def _installed() -> Mapping[str, CatalogEntry]:
    entries: dict[str, CatalogEntry] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
        except Exception as error:  # code of another package, run for the first time
            raise ArmormError(
                f"The entry point {point.name} = {point.value} of the group {ENTRY_POINTS} cannot "
                f"be loaded: {error!r}. Repair or uninstall its package."
            ) from error
        for entry in [loaded] if isinstance(loaded, CatalogEntry) else loaded:
            if entry.name in _shipped() or entry.name in entries:
                raise ArmormError(
                    f"The entry point {point.name} = {point.value} adds a dataset {entry.name!r}, "
                    "which exists already. Rename it there, or uninstall its package."
                )
            entries[entry.name] = entry
    return entries
