"""Rows of Arrow tables and of Parquet and Arrow files, damaged ones included."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from armorm.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

READ_FAILURES = (
    OSError,
    EOFError,
    ValueError,  # pyarrow.ArrowInvalid and UnicodeDecodeError among them
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    SystemError,
    NotImplementedError,  # pyarrow.ArrowNotImplementedError
    zlib.error,
)
"""Errors of damaged files: each library that reads them raises its own.

:func:`table_failures` adds those of pyarrow that derive from none of these.
"""

ROWS_AT_ONCE = 1024

Fields = Mapping[str, Any]


class RawRow(NamedTuple):
    """One undecoded row: its place, and its fields or the error of reading it.

    ``row`` is 0 where the error concerns the file as a whole.
    """

    file: str
    row: int
    fields: Fields | InputError


def table_failures() -> tuple[type[Exception], ...]:
    """Return the errors that reading and decoding a table can raise."""
    import pyarrow as pa

    return (*READ_FAILURES, pa.ArrowException)


def decoded_rows(table: pa.Table | pa.RecordBatch) -> Iterator[Fields | InputError]:
    """Yield the rows of a table; a row that cannot be decoded is an error naming its column."""
    try:
        table.validate(full=True)  # offsets of a damaged file would read outside of its memory
        rows = table.to_pylist()
    except table_failures():
        for number in range(len(table)):
            yield _decoded_row(table.slice(number, 1))
    else:
        yield from rows


def _decoded_row(row: pa.Table | pa.RecordBatch) -> Fields | InputError:
    fields = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.validate(full=True)
            (fields[name],) = column.to_pylist()
        except table_failures() as error:
            return InputError(
                name,
                str(error),
                "the value cannot be decoded",
                "Write the row again, or remove it.",
            )
    return fields


def unreadable(error: Exception) -> InputError:
    """Return the error of a file that cannot be read from here on."""
    return InputError(
        "file",
        str(error) or type(error).__name__,
        "cannot be read to its end",
        "Is the file damaged, truncated or of another format? Write or download it again.",
    )


def table_rows(file: Path, before: int) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file, Arrow file or stream after the first ``before``."""
    number = before
    read = _parquet_rows if file.suffix == ".parquet" else _arrow_rows
    try:
        for number, fields in read(file, before):
            yield RawRow(str(file), number, fields)
    except InputError as error:
        yield RawRow(str(file), 0, error)
    except table_failures() as error:
        yield RawRow(str(file), number + 1 if number > before else 0, unreadable(error))


def _parquet_rows(file: Path, before: int) -> Iterator[tuple[int, Fields | InputError]]:
    import pyarrow.parquet as pq

    with closing(pq.ParquetFile(file)) as parquet:
        _check_names(parquet.schema_arrow.names)
        groups = range(parquet.num_row_groups)
        ends = list(itertools.accumulate(parquet.metadata.row_group(i).num_rows for i in groups))
        first = bisect.bisect_right(ends, before)
        passed = ends[first - 1] if first else 0
        batches = parquet.iter_batches(ROWS_AT_ONCE, row_groups=list(groups[first:]))
        yield from _numbered(batches, before, passed)


def _arrow_rows(file: Path, before: int) -> Iterator[tuple[int, Fields | InputError]]:
    import pyarrow as pa

    with pa.memory_map(str(file)) as mapped:
        schema, batches = _arrow_batches(mapped)
        _check_names(schema.names)
        yield from _numbered(batches, before)


def count_table_rows(file: Path) -> int:
    """Return how many rows a Parquet or Arrow file holds, from its layout alone.

    Raises:
        OSError: The file cannot be read; other errors of :data:`READ_FAILURES` likewise.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        rows: int = pq.read_metadata(file).num_rows
        return rows
    with pa.memory_map(str(file)) as mapped:
        return sum(len(batch) for batch in _arrow_batches(mapped)[1])


def _arrow_batches(mapped: Any) -> tuple[Any, Iterable[Any]]:
    """Return the schema and the batches of an Arrow file, or of the stream `datasets` writes."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        stream = pa.ipc.open_stream(mapped)
        return stream.schema, stream
    return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            "columns", twice, "several columns have the same name", "Rename or remove them."
        )


def _numbered(
    batches: Iterable[Any], before: int, passed: int = 0
) -> Iterator[tuple[int, Fields | InputError]]:
    """Yield numbered rows after the first ``before``; ``batches`` begin after ``passed`` rows."""
    for batch in batches:
        first = max(before - passed, 0)
        yield from enumerate(decoded_rows(batch[first:]), start=passed + first + 1)
        passed += len(batch)
