"""Preparation of a recipe's data as files, with a recipe that trains on them."""

from __future__ import annotations

from pathlib import Path

from armorm.data import DataSource, HeldOut
from armorm.data.catalog import Kind
from armorm.data.preparing import Manifest, Preparation, prepare
from armorm.files import write_atomically
from armorm.training.recipe import DataSection, Recipe


def prepare_data(
    recipe: Recipe,
    output: str | Path,
    *,
    root: Path | None = None,
    show_progress: bool = False,
) -> Manifest:
    """Prepare the data of a recipe; ``output/recipe.yaml`` is the recipe that trains on it.

    Args:
        recipe: Recipe whose sections ``data`` and ``objectives`` are used.
        output: Folder to write; see :mod:`armorm.data.preparing`.
        root: Read hub datasets from this folder, laid out as on the hub.
        show_progress: Draw progress bars on standard error.

    Returns:
        The manifest.

    Raises:
        ArmormError: See :func:`~armorm.data.preparing.prepare`.
    """
    output = Path(output)
    data = recipe.data
    preparation = Preparation(
        rated=_read_from(root, data.rated),
        preferences=_read_from(root, data.preferences),
        objectives=recipe.objective_set(),
        held_out=data.held_out,
        invalid=data.invalid,
    )
    manifest = prepare(preparation, output, show_progress=show_progress)
    prepared = recipe.model_copy(update={"data": _prepared_section(manifest, output)})
    write_atomically(output / "recipe.yaml", prepared.dump().encode())
    return manifest


def _read_from(root: Path | None, sources: tuple[DataSource, ...]) -> tuple[DataSource, ...]:
    if root is None:
        return sources
    return tuple(
        source.model_copy(update={"root": str(root)})
        if source.root is None and (source.catalog or source.dataset)
        else source
        for source in sources
    )


def _prepared_section(manifest: Manifest, output: Path) -> DataSection:
    return DataSection(
        rated=_files(manifest, "rated", output),
        preferences=_files(manifest, "preferences", output),
        held_out=HeldOut(column="split", values=("held_out",)),
    )


def _files(manifest: Manifest, kind: Kind, output: Path) -> tuple[DataSource, ...]:
    """Return the files of one kind, each with the licence of its rows."""
    return tuple(
        DataSource(path=str(output / file), licence=source.licence)
        for source in manifest.sources
        if source.kind == kind
        for file, written in source.files.items()
        if written["rows"]
    )
