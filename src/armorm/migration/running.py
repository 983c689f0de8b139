"""Migration of a folder: inspected first, then converted as a copy that is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from armorm.errors import ArmormError, OutputError, StoreError
from armorm.files import replace_folder, writing
from armorm.migration.formats import FORMATS, Format


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a folder that has a format with a version.

    Attributes:
        format: Name of the format.
        file: File that carries the version, relative to the folder.
        version: Version it is written in.
        current: Version that this program reads and writes.
        written_by: Program that wrote it, ``unknown`` if it does not say.
        obstacle: Why it cannot be converted; ``None`` if it can, or is current.
        notes: What each step of the conversion means for it.
    """

    format: str
    file: str
    version: int
    current: int
    written_by: str
    obstacle: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """True if there is nothing to convert."""
        return self.version == self.current


@dataclass(frozen=True, slots=True)
class Migration:
    """A folder that was inspected, and where it was written in the present formats.

    Attributes:
        parts: Its parts as they were.
        output: The folder in the present formats; ``None`` if nothing was written.
    """

    parts: tuple[Part, ...]
    output: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        output = None if self.output is None else str(self.output)
        return {"parts": [asdict(part) for part in self.parts], "output": output}


def inspect(path: str | Path) -> tuple[Part, ...]:
    """Return the parts of a model folder, run folder or feature store, with their versions.

    Raises:
        ArmormError: It is not such a folder, or a part of it is damaged.
    """
    path = Path(path)
    parts = tuple(_part(form, file, path) for form, file in _versioned_files(path))
    if not parts:
        raise ArmormError(f"{path} is not a model folder, a run folder or a feature store.")
    return parts


def migrate(
    path: str | Path, output: str | Path | None = None, *, in_place: bool = False
) -> Migration:
    """Write a folder in the present formats.

    Nothing is written where all parts are current, or one of them cannot be converted.

    Args:
        path: Model folder, run folder or feature store.
        output: New folder; default ``PATH.migrated``.
        in_place: Replace ``path`` instead, when all of it is converted.

    Raises:
        ArmormError: A part cannot be converted; the message says which program wrote it and why.
        OutputError: ``output`` holds files, or cannot be written.
    """
    path = Path(path)
    if in_place and output is not None:
        raise ArmormError("A migration in place has no other output: give one of the two.")
    parts = inspect(path)
    if all(part.is_current for part in parts):
        return Migration(parts)
    if stuck := [part for part in parts if part.obstacle is not None]:
        lines = "\n  ".join(f"{path / part.file}: {part.obstacle}" for part in stuck)
        raise ArmormError(f"Nothing was written, because a part cannot be converted:\n  {lines}")
    place = path if in_place else Path(output or path.absolute().with_name(f"{path.name}.migrated"))
    if not in_place and place.resolve().is_relative_to(path.resolve()):
        raise OutputError(f"{place} is inside the folder that is migrated. Choose another.")
    with replace_folder(place, recognise=lambda _: in_place) as folder, writing(place):
        # In place the old files are deleted afterwards: links to them are as good as copies.
        copy = os.link if in_place else shutil.copy2
        shutil.copytree(path, folder, copy_function=copy, dirs_exist_ok=True)
        for form, file in list(_versioned_files(folder)):
            _convert(form, file)
    return Migration(parts, place)


def _versioned_files(path: Path) -> Iterator[tuple[Format, Path]]:
    """Yield each file that carries a version, in the order in which they are converted."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for form in FORMATS:
        yield from ((form, file) for file in files if form.recognise(file))


def _part(form: Format, file: Path, path: Path) -> Part:
    version, written_by = form.read(file)
    if type(version) is not int or version < 1:
        raise StoreError(f"{file}: format_version = {version!r} is not a version.")
    obstacle, notes = None, []
    if version > form.current:
        obstacle = (
            f"format {version} of a {form.name} is newer than this program, which reads "
            f"{form.current}. Update armorm; it was written by: {written_by}."
        )
    for older in range(version, form.current):
        step = form.steps[older]
        if step.convert is None:
            obstacle = f"format {version} of a {form.name} cannot be converted: {step.meaning}"
            break
        notes.append(step.meaning)
    name = file.relative_to(path).as_posix()
    return Part(form.name, name, version, form.current, written_by, obstacle, tuple(notes))


def _convert(form: Format, file: Path) -> None:
    version, _ = form.read(file)
    for older in range(version, form.current):
        convert = form.steps[older].convert
        assert convert is not None  # refused before anything is written
        try:
            convert(file)
        except (KeyError, TypeError, ValidationError) as error:
            raise StoreError(
                f"{file.name} is not a {form.name} of format {older}: {error}. Nothing was written."
            ) from error
