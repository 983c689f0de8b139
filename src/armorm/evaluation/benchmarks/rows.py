"""Rows of a benchmark, and where they are read from: the hub, a local copy of it, or files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from armorm.conversations.messages import (
    Message,
    located_in,
    prompt_key,
    validate_prompt,
    validate_response,
    validate_text,
)
from armorm.data.hub import HubPlace, hub_rows
from armorm.data.reading import row_name
from armorm.data.sources import InvalidPolicy, file_rows, matching_files
from armorm.data.tables import READ_FAILURES, RawRow, unreadable
from armorm.errors import ArmormError, InputError, SkippedRowError, did_you_mean
from armorm.files import parse_json
from armorm.progress import progressing

ENDINGS = ("parquet", "jsonl", "jsonl.gz", "json", "arrow")
"""Endings of files of rows, the preferred one first."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """A prompt with responses that are scored together.

    Attributes:
        prompt: Messages up to and including the last user turn.
        responses: Texts of the responses, the right ones first.
        id: Unique within the benchmark.
        subset: Group whose figure is reported on its own.
        right: Number of right responses.
        facts: Other things that the score rule needs.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    id: str
    subset: str = ""
    right: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A place that holds rows of a benchmark.

    Attributes:
        hub_id: Dataset of the hub, or repository that holds the files.
        split: Split of the dataset.
        files: Patterns of the files of a local copy, relative to ``DIR/<hub_id>``; the first one
            that matches is read.  Default: files named after the split.
        path: A file or glob pattern, instead of a dataset.
        on_hub: False for files that the hub does not have.
    """

    hub_id: str = ""
    split: str = "test"
    files: tuple[str, ...] = ()
    path: str | None = None
    on_hub: bool = True

    @property
    def name(self) -> str:
        """Name in reports and messages."""
        return self.path or f"{self.hub_id}[{self.split}]"

    @property
    def label(self) -> str:
        """Name of the subset of rows that name none."""
        return self.split if self.path is None else Path(self.path).name.split(".")[0]

    def rows(self, root: Path | None) -> Iterator[RawRow]:
        """Yield the raw rows.

        Args:
            root: A folder that holds the data as ``root/<hub_id>/…``, read instead of the hub.

        Raises:
            ArmormError: The data cannot be found or read; the message names the place.
        """
        if self.path is not None:
            for file in matching_files(self.path):
                yield from _rows_of_file(file)
            return
        if root is None and not self.on_hub:
            raise ArmormError(
                f"{self.hub_id} is no dataset of the hub. Clone or download it as "
                f"DIR/{self.hub_id}, and give --from DIR."
            )
        files = [] if root is None else self._local_files(root)
        for file in files:
            yield from _rows_of_file(file)
        if not files:
            place = HubPlace(self.hub_id, self.split, root=root)
            for number, row in enumerate(hub_rows(place), start=1):
                yield RawRow(place.label, number, row)

    def _local_files(self, root: Path) -> list[Path]:
        folder = root / self.hub_id
        if not folder.is_dir():
            raise ArmormError(
                f"There is no folder {str(folder)!r}. Lay the files out as on the hub: "
                f"{root}/{self.hub_id}/…"
            )
        patterns = self.files or tuple(
            pattern
            for ending in ENDINGS
            for pattern in (f"**/{self.split}-*.{ending}", f"**/{self.split}.{ending}")
        )
        for pattern in patterns:
            if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
                return found
        if self.files:
            raise ArmormError(
                f"{folder} has none of the files {', '.join(self.files)}. Lay them out as in "
                f"{self.hub_id}."
            )
        return []  # datasets finds them by the README of the folder


def _rows_of_file(file: Path) -> Iterator[RawRow]:
    """Yield the rows of a file of any kind; a ``.json`` file may hold one array of rows."""
    if file.suffix != ".json":
        yield from file_rows(file)
        return
    with file.open("rb") as opened:
        first = opened.read(64).lstrip()[:1]
    if first != b"[":
        yield from file_rows(file)
        return
    try:
        rows = parse_json(file.read_bytes())
    except READ_FAILURES as error:
        yield RawRow(str(file), 0, unreadable(error))
        return
    for number, row in enumerate(rows, start=1):
        bad = InputError("row", row, "not a JSON object", "Write a list of objects.")
        yield RawRow(str(file), number, row if isinstance(row, dict) else bad)


@dataclass(slots=True)
class BenchmarkData:
    """Rows of a benchmark, and an account of those that were skipped.

    Attributes:
        rows: The rows, in order.
        places: File and row number of each row, for messages.
        read: Raw rows read.
        skipped: Rows that a rule of the benchmark leaves out, such as ties, by reason.
        invalid: Errors of bad rows.
    """

    rows: list[BenchmarkRow] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    invalid: list[dict[str, Any]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """Return a hash of all that a scorer sees of the rows, and of their ids."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            parts = (row.id, prompt_key(row.prompt), *row.responses)
            encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
            digest.update(b"%d " * len(encoded) % tuple(map(len, encoded)))
            digest.update(b"".join(encoded))
        return digest.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        return {
            "read": self.read,
            "kept": len(self.rows),
            "skipped": dict(sorted(self.skipped.items())),
        }


Parse = Callable[[Mapping[str, Any], Part], BenchmarkRow]


def read_rows(
    parts: Sequence[Part],
    parse: Parse,
    root: Path | None = None,
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> BenchmarkData:
    """Read and validate the rows of all parts.

    Args:
        parts: Where they are.
        parse: Turns a raw row into a row; raises SkippedRowError for a row that a rule leaves out.
        root: A folder that holds local copies.
        invalid: ``error`` stops at a bad row; ``skip`` counts and lists it.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row is bad; file, row and field are named.
        ArmormError: The data cannot be read, or holds no row.
    """
    data = BenchmarkData()
    for part in parts:
        rows = part.rows(root)
        for raw in progressing(rows, f"reading {part.name}", None, "rows", show_progress):
            data.read += 1
            try:
                if isinstance(raw.fields, InputError):
                    raise raw.fields
                row = parse(raw.fields, part)
            except SkippedRowError as error:
                data.skipped[error.reason] += 1
                continue
            except InputError as error:
                located = error.at(raw.file, raw.row)
                if invalid == "error":
                    raise located from None
                data.invalid.append(located.as_dict())
                continue
            data.rows.append(row if row.id else replace(row, id=row_name(raw)))
            data.places.append((raw.file, raw.row))
    if not data.rows:
        raise ArmormError(f"{', '.join(part.name for part in parts)}: there is no row to score.")
    return data


def prompt_of(record: Mapping[str, Any], name: str = "prompt") -> tuple[Message, ...]:
    """Return the prompt in a field: text of a user's turn, or messages; other keys are ignored."""
    return located_in(name, validate_prompt, record.get(name))


def response_of(record: Mapping[str, Any], name: str) -> str:
    """Return the response in a field."""
    return located_in(name, validate_response, record.get(name))


def responses_of(record: Mapping[str, Any], name: str, count: int | None = None) -> list[str]:
    """Return the responses in a field that is a list, of a given length if there is one."""
    values = record.get(name)
    if not isinstance(values, list) or not values or (count and len(values) != count):
        wanted = "a list of responses" if count is None else f"a list of {count} responses"
        raise InputError(name, values, f"not {wanted}", "Is this the benchmark's own layout?")
    return [
        located_in(f"{name}[{place}]", validate_response, value)
        for place, value in enumerate(values)
    ]


def text_in(record: Mapping[str, Any], name: str) -> str:
    """Return the text, or the whole number as text, of a field that must be there."""
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        there = f"; the row has {', '.join(record)}" if value is None else ""
        raise InputError(name, value, f"missing or no text{there}", "Write it into the row.")
    return validate_text(value, name)


def one_of(record: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """Return the text of a field that must be one of the known ones."""
    value = text_in(record, name)
    if value not in known:
        raise InputError(name, value, f"unknown {name}", did_you_mean(value, known))
    return value
