"""Sources of raw rows: files, hub datasets and the catalogue, each row with its place."""

from __future__ import annotations

import glob
import gzip
import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from armorm.conversations.messages import validate_text
from armorm.data.catalog import CatalogEntry, Kind, catalog_entry, converted_rows
from armorm.data.catalog.entry import NOT_STATED
from armorm.data.hub import HubPlace, hub_rows
from armorm.data.tables import (
    READ_FAILURES,
    RawRow,
    count_table_rows,
    table_failures,
    table_rows,
    unreadable,
)
from armorm.errors import InputError, RecipeError
from armorm.files import parse_json
from armorm.objectives import ObjectiveSet
from armorm.settings import Options

InvalidPolicy = Literal["error", "skip"]
"""Answer to a row that cannot be used: stop with an error, or skip and count it."""

JSON_LINES = (".jsonl", ".ndjson", ".json")
ARROW = (".arrow", ".feather")


LARGEST_WEIGHT = 100.0
MOST_ROWS = 10**12


class HeldOut(Options):
    """Rows that are kept out of training and used for the reported figures."""

    fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of prompts held out, drawn by the hash of the prompt, so that all rows of a prompt,
    rated or preferred, fall on the same side in every run."""
    column: str | None = None
    """Column to take the split from instead."""
    values: tuple[str, ...] = ("val", "validation", "test")
    """Values of ``column`` that mean held out."""


class DataSource(Options):
    """One source of rows: exactly one of ``catalog``, ``path``, ``dataset``."""

    catalog: str | None = None
    """A dataset of the catalogue (``armorm data list``), converted as it is read."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Choices that the dataset of the catalogue offers (``armorm data show NAME``)."""
    path: str | None = None
    """A file or glob pattern: JSON lines (also .gz), Parquet or Arrow."""
    dataset: str | None = None
    """A name for ``datasets.load_dataset``, with ``config``, ``split``, ``revision``."""
    config: str | None = None
    """Configuration of the dataset."""
    split: str | None = None
    """Split of the dataset."""
    revision: str | None = None
    """Branch, tag or commit of the dataset on the hub."""
    root: str | None = None
    """A folder that holds hub datasets as ``root/<org>/<name>``, read instead of the hub."""
    source: str | None = None
    """Name of the source in reports.  Default: each row's ``source`` field, else the file or
    dataset name."""
    licence: str | None = None
    """Licence of the rows, such as CC-BY-4.0, for the model card. Default: the catalogue's."""
    limit: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Largest number of rows to read, the first ones."""
    sample: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Largest number of rows to draw from those: spread evenly over the values of the field
    ``source``, and the same ones each time. The source is read twice."""
    weight: float = Field(default=1.0, gt=0.0, le=LARGEST_WEIGHT)
    """Weight of a training row. Below 1 it is the share of rows kept, drawn by a hash of
    the row; above 1 rows are repeated.  Held-out rows are not affected."""
    unit_ratings: bool = False
    """Read ratings as already mapped to [0, 1], as in the paper's merged training set."""
    nan_is_missing: bool = False
    """Read a NaN rating as missing instead of refusing it."""

    @model_validator(mode="after")
    def _one_place(self) -> DataSource:
        places = [self.catalog, self.path, self.dataset]
        if sum(place is not None for place in places) != 1:
            raise ValueError("name exactly one of catalog, path and dataset")
        if self.catalog is None and self.options:
            raise ValueError("options belong to a dataset of the catalogue: name it as catalog")
        if self.catalog is not None:
            catalog_entry(self.catalog)
        return self

    @field_validator(
        *("catalog", "path", "dataset", "config", "split", "revision", "root", "source", "licence")
    )
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        if value is not None and "\0" in validate_text(value):
            raise ValueError("a name holds no zero byte")
        return value

    @property
    def entry(self) -> CatalogEntry | None:
        """Entry of the catalogue, where the source is named there."""
        return None if self.catalog is None else catalog_entry(self.catalog)

    @property
    def name(self) -> str:
        """Name of the source as a whole."""
        place = self.catalog or self.path or self.dataset
        assert place is not None
        return self.source or place

    @property
    def stated_licence(self) -> str:
        """Licence of the rows, as far as it is stated."""
        return self.licence or (NOT_STATED if self.entry is None else self.entry.licence)

    @property
    def planted(self) -> Mapping[str, str]:
        """Subset to the objective that decides its pairs, of data that was made so."""
        return {} if self.entry is None else self.entry.planted

    @property
    def mislabelled(self) -> frozenset[str] | None:
        """Ids of the preference pairs whose label is wrong, where the truth is known."""
        if self.entry is None or self.entry.mislabelled is None:
            return None
        return self.entry.mislabelled(self.entry.form("preferences").choose(self.options))

    def check_catalog(self, kind: Kind) -> None:
        """Check that the catalogue gives training rows of this kind, with these options.

        Raises:
            RecipeError: It does not; the message says why.
        """
        entry = self.entry
        if entry is None:
            return
        if entry.benchmark:
            raise RecipeError(
                f"catalog: {entry.name} is a benchmark: training on it spoils its figure. Use it "
                "with armorm benchmark or armorm data check --against."
            )
        entry.form(kind).choose(self.options)

    def check_scales(self, objectives: ObjectiveSet) -> None:
        """Check that a dataset of the catalogue rates on the scales of these objectives.

        Raises:
            RecipeError: An objective of the same name has another scale.
        """
        for rated in () if self.entry is None else self.entry.objectives:
            if rated.name not in objectives.names:
                continue
            asked = objectives[objectives.column(rated.name)]
            if (asked.minimum, asked.maximum) != (rated.minimum, rated.maximum):
                raise RecipeError(
                    f"catalog: {self.catalog} rates {rated.name} from {rated.minimum:g} to "
                    f"{rated.maximum:g}, the recipe's objective has {asked.minimum:g} to "
                    f"{asked.maximum:g}. Give it the same scale, or list the dataset's name under "
                    "objectives."
                )

    def local_files(self, base: Path | None = None) -> list[Path]:
        """Return the files on this machine that it is read from, as far as they are known."""
        if self.path is not None:
            return [file for file in _matches(self.path, base) if file.is_file()]
        entry = self.entry
        root, place = self._root(base), self.dataset if entry is None else entry.hub_id
        if root is None or place is None:
            return []
        return sorted(file for file in (root / place).rglob("*") if file.is_file())

    def rows(
        self, kind: Kind, base: Path | None = None, notes: Counter[str] | None = None
    ) -> Iterator[RawRow]:
        """Yield the raw rows in order, at most ``limit`` or ``sample`` of them.

        Args:
            kind: Kind of rows, for a dataset that has both.
            base: Folder that relative paths start from; default the working directory.
            notes: Collects counts of values that were repaired by the catalogue's rules.
        """
        rows = itertools.islice(self._rows(kind, base, notes), self.limit)
        if self.sample is None:
            return rows
        drawn = _draw(itertools.islice(self._rows(kind, base, None), self.limit), self.sample)
        return itertools.compress(rows, drawn)

    def _rows(self, kind: Kind, base: Path | None, notes: Counter[str] | None) -> Iterator[RawRow]:
        if self.catalog is not None:
            yield from converted_rows(
                catalog_entry(self.catalog),
                kind,
                split=self.split,
                revision=self.revision,
                root=self._root(base),
                options=self.options,
                notes=notes,
            )
        elif self.dataset is not None:
            split, root = self.split or "train", self._root(base)
            place = HubPlace(self.dataset, split, self.config, self.revision, root=root)
            for number, row in enumerate(hub_rows(place), start=1):
                yield RawRow(place.label, number, row)
        else:
            assert self.path is not None
            for file in matching_files(self.path, base):
                yield from file_rows(file)

    def _root(self, base: Path | None) -> Path | None:
        return None if self.root is None else _resolved(self.root, base)


def _draw(rows: Iterable[RawRow], most: int) -> list[bool]:
    """Return for each row whether it is drawn: equally many of each value of ``source``.

    Values with fewer rows leave their share to the others.
    """
    import numpy as np

    numbers: dict[str, int] = {}
    sources = np.array(
        [numbers.setdefault(_source_field(row), len(numbers)) for row in rows], np.int64
    )
    drawn = np.zeros(len(sources), np.bool_)
    generator = np.random.default_rng(0)
    counts = np.bincount(sources, minlength=len(numbers))
    left = most
    for place, number in enumerate(np.argsort(counts, kind="stable")):
        share = min(int(counts[number]), left // (len(counts) - place))
        drawn[generator.choice(np.flatnonzero(sources == number), share, replace=False)] = True
        left -= share
    return drawn.tolist()


def _source_field(row: RawRow) -> str:
    return "" if isinstance(row.fields, InputError) else str(row.fields.get("source", ""))


def check_space(sources: Iterable[DataSource], folder: Path, base: Path | None = None) -> None:
    """Check that rows repeated by the weights of their sources cannot fill the disk.

    Raises:
        RecipeError: They would, even if they were compressed to a tenth.
    """
    sizes = {
        source.name: source.weight * sum(file.stat().st_size for file in source.local_files(base))
        for source in sources
        if source.weight > 1 and source.limit is None
    }
    free = shutil.disk_usage(folder).free
    if sum(sizes.values()) / 10 > free:
        largest = max(sizes, key=lambda name: sizes[name])
        raise RecipeError(
            f"weight: repeating the rows of {', '.join(sizes)} writes about "
            f"{sum(sizes.values()) / 1e9:,.0f} GB, and {folder} has {free / 1e9:,.0f} GB free. "
            f"Lower the weight of {largest}, or those of the other sources instead."
        )


def file_rows(file: Path, before: int = 0, offset: int = 0) -> Iterator[RawRow]:
    """Yield the rows of one JSON-lines, Parquet or Arrow file.

    A row, or the rest of the file, that cannot be read is an error in its place.

    Args:
        file: The file.
        before: Rows, of JSON lines lines, to pass over; see :mod:`armorm.data.ranges`.
        offset: Bytes of these lines.

    Raises:
        RecipeError: The file is of none of these formats.
    """
    suffixes = file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:]
    if suffixes and suffixes[0] in JSON_LINES:
        yield from _json_lines(file, before, offset)
    elif len(suffixes) == 1 and suffixes[0] in (".parquet", *ARROW):
        yield from table_rows(file, before)
    else:
        raise RecipeError(
            f"{file}: unknown format. Use JSON lines ({', '.join(JSON_LINES)}, also with .gz), "
            f".parquet, or Arrow ({', '.join(ARROW)})."
        )


def matching_files(pattern: str, base: Path | None = None) -> list[Path]:
    """Return the files of a name or glob pattern, sorted.

    Raises:
        RecipeError: There is none.
    """
    files = _matches(pattern, base)
    if not files:
        raise RecipeError(f"No file matches {str(_resolved(pattern, base))!r}.")
    return files


def _matches(pattern: str, base: Path | None) -> list[Path]:
    found = sorted(glob.glob(str(_resolved(pattern, base))))  # noqa: PTH207  # absolute patterns, too
    return [Path(name) for name in found]


def _resolved(path: str, base: Path | None) -> Path:
    try:
        full = Path(path).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return full if base is None or full.is_absolute() else base / full


def _json_lines(file: Path, number: int, offset: int) -> Iterator[RawRow]:
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            if offset:
                lines.seek(offset)
            for line in lines:
                number += 1
                if not line.isspace():
                    yield RawRow(str(file), number, _parse_json(line))
    except READ_FAILURES as error:
        yield RawRow(str(file), number + 1, unreadable(error))


def _parse_json(line: bytes) -> Mapping[str, Any] | InputError:
    try:
        fields = parse_json(line)
    except ValueError as error:
        text = line.decode("utf-8", "replace").strip()
        return InputError("line", text, f"not valid JSON: {error}", "Write one object a line.")
    if not isinstance(fields, dict):
        return InputError("line", fields, "not a JSON object", "Write one object a line.")
    return fields


def count_rows(file: Path) -> int | None:
    """Return how many rows a file holds, or ``None`` if only reading it shows."""
    try:
        if file.suffix == ".parquet":
            return count_table_rows(file)
        if file.suffix in JSON_LINES:
            with file.open("rb") as lines:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b""))
    except table_failures():  # the reader that follows says what is wrong
        return None
    return None
