"""Ranges of rows of a file that can be read apart, each from its place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from armorm.data.sources import JSON_LINES, file_rows
from armorm.data.tables import RawRow, count_table_rows
from armorm.errors import RecipeError


class FileRange(NamedTuple):
    """Adjacent rows of a file.

    Attributes:
        file: The file.
        rows: Number of rows.
        before: Rows before it; of JSON lines, lines, empty ones too.
        offset: Bytes before it; 0 for other formats.
    """

    file: str
    rows: int
    before: int = 0
    offset: int = 0


def cut_file(file: Path, rows: int) -> Iterator[FileRange]:
    """Yield ranges of ``rows`` rows, the last one shorter.

    JSON lines are read once for the places of the lines; of Parquet and Arrow only the layout is
    read.  A file that cannot be read becomes a range of one row, which is the error.

    Raises:
        RecipeError: The format is unknown, or cannot be entered in the middle (.gz).
    """
    if file.suffix == ".gz":
        raise RecipeError(
            f"{file}: a compressed file can only be read from its start, so it cannot be shared "
            f"among workers. Unpack it first: gunzip --keep {file}"
        )
    if file.suffix in JSON_LINES:
        yield from _cut_json_lines(file, rows)
        return
    first = next(file_rows(file), None)
    if first is not None and first.row == 0:
        yield FileRange(str(file), rows=1)
        return
    total = count_table_rows(file)
    for before in range(0, total, rows):
        yield FileRange(str(file), min(rows, total - before), before)


def range_rows(part: FileRange) -> Iterator[RawRow]:
    """Yield the rows of a range, with the numbers that they have in their file."""
    return itertools.islice(file_rows(Path(part.file), part.before, part.offset), part.rows)


def _cut_json_lines(file: Path, rows: int) -> Iterator[FileRange]:
    start, number, offset, kept = (0, 0), 0, 0, 0
    with file.open("rb") as lines:
        for line in lines:
            number += 1
            offset += len(line)
            kept += not line.isspace()
            if kept == rows:
                yield FileRange(str(file), kept, *start)
                start, kept = (number, offset), 0
    if kept:
        yield FileRange(str(file), kept, *start)
