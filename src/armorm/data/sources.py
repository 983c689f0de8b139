"""Raw rows from files, hub datasets and the catalogue, each with the place it came from."""

from __future__ import annotations

import glob
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from armorm.data.catalog import CatalogEntry, catalog_entry, converted_rows
from armorm.data.hub import HubPlace, hub_rows
from armorm.data.tables import (
    READ_FAILURES,
    arrow_rows,
    count_table_rows,
    parquet_rows,
    table_failures,
    unreadable,
)
from armorm.errors import InputError, RecipeError
from armorm.objectives import ObjectiveSet

Kind = Literal["rated", "preferences"]
InvalidPolicy = Literal["error", "skip"]

JSON_LINES = (".jsonl", ".ndjson", ".json")
ARROW = (".arrow", ".feather")


class RawRow(NamedTuple):
    """One undecoded row: where it stands, and its fields (or the error that reading it gave)."""

    file: str
    row: int
    fields: Mapping[str, Any] | InputError


class Start(NamedTuple):
    """Where in a file to begin: rows (lines, of JSON lines) and bytes before it."""

    before: int = 0
    offset: int = 0


TOP = Start()


class HeldOut(BaseModel):
    """Which rows are kept out of training and used for the reported figures.

    Attributes:
        fraction: Share of prompts held out, drawn by the hash of the prompt, so that all rows of
            a prompt, rated or preferred, fall on the same side in every run.
        column: Take the split from this column instead.
        values: Values of ``column`` that mean held out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    column: str | None = None
    values: tuple[str, ...] = ("val", "validation", "test")


class DataSource(BaseModel):
    """One place rows come from: exactly one of ``catalog``, ``path``, ``dataset``.

    Attributes:
        catalog: A dataset of the catalogue (``armorm data list``), converted on the way, with
            the ``options`` that it offers.
        path: A file or glob pattern: JSON lines (also .gz), Parquet or Arrow.
        dataset: A name for ``datasets.load_dataset``, with ``config``, ``split``, ``revision``.
        root: A folder that holds hub datasets as ``root/<org>/<name>``, read instead of the hub.
        source: Name of the source in reports.  Default: each row's ``source`` field, else the
            file or dataset name.
        limit: Read at most this many rows, the first ones.
        weight: How much a training row counts.  Below 1 it is the share of rows kept, drawn by
            a hash of the row; above 1 rows are repeated.  Held-out rows are left as they are.
        unit_ratings: Ratings are already mapped to [0, 1], as in the paper's merged training set.
        nan_is_missing: Read a NaN rating as missing instead of refusing it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    catalog: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    path: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    root: str | None = None
    source: str | None = None
    limit: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    unit_ratings: bool = False
    nan_is_missing: bool = False

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

    @property
    def entry(self) -> CatalogEntry | None:
        """What the catalogue says about it, where it is named there."""
        return None if self.catalog is None else catalog_entry(self.catalog)

    @property
    def name(self) -> str:
        """What to call the source as a whole."""
        place = self.catalog or self.path or self.dataset
        assert place is not None
        return self.source or place

    @property
    def planted(self) -> Mapping[str, str]:
        """Subset to the objective that decides its pairs, where the data was made so."""
        return {} if self.entry is None else self.entry.planted

    def check_catalog(self, kind: Kind) -> None:
        """Whether the catalogue can give training rows of this kind, with these options.

        Raises:
            RecipeError: it cannot; the message says why.
        """
        entry = self.entry
        if entry is None:
            return
        if entry.benchmark:
            raise RecipeError(
                f"catalog: {entry.name} is a benchmark: training on it spoils its figure. Use it "
                "with armorm evaluate or armorm data check --against."
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

    def rows(
        self, kind: Kind, base: Path | None = None, notes: Counter[str] | None = None
    ) -> Iterator[RawRow]:
        """The raw rows in order, at most ``limit`` of them.

        Args:
            kind: Which rows of a dataset that has both.
            base: Folder that relative paths start from; default the working directory.
            notes: Collects counts of values mended by the catalogue's rules.
        """
        return itertools.islice(self._rows(kind, base, notes), self.limit)

    def _rows(self, kind: Kind, base: Path | None, notes: Counter[str] | None) -> Iterator[RawRow]:
        if self.catalog is not None:
            yield from self._catalog_rows(catalog_entry(self.catalog), kind, base, notes)
        elif self.dataset is not None:
            yield from self._hub_rows(self.dataset, base)
        else:
            assert self.path is not None
            for file in matching_files(self.path, base):
                yield from file_rows(file)

    def _catalog_rows(
        self, entry: CatalogEntry, kind: Kind, base: Path | None, notes: Counter[str] | None
    ) -> Iterator[RawRow]:
        converted = converted_rows(
            entry,
            kind,
            split=self.split,
            revision=self.revision,
            root=self._root(base),
            options=self.options,
            notes=notes,
        )
        for place, record, row in converted:
            yield RawRow(place, record, row)

    def _hub_rows(self, dataset: str, base: Path | None) -> Iterator[RawRow]:
        place = HubPlace(
            dataset=dataset,
            split=self.split or "train",
            config=self.config,
            revision=self.revision,
            root=self._root(base),
        )
        for number, row in enumerate(hub_rows(place), start=1):
            yield RawRow(place.label, number, row)

    def _root(self, base: Path | None) -> Path | None:
        return None if self.root is None else _resolved(self.root, base)


def file_rows(file: Path, start: Start = TOP) -> Iterator[RawRow]:
    """The rows of one JSON-lines, Parquet or Arrow file.

    Args:
        file: The file.
        start: The first row; see :mod:`armorm.data.ranges`.  ``offset`` is for JSON lines.

    Raises:
        RecipeError: the file is of none of these formats.
        InputError: the file as a whole cannot be read.
    """
    suffixes = file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:]
    if suffixes and suffixes[0] in JSON_LINES:
        yield from _json_lines(file, start)
    elif suffixes == [".parquet"]:
        for row, fields in parquet_rows(file, start.before):
            yield RawRow(str(file), row, fields)
    elif suffixes and suffixes[0] in ARROW and len(suffixes) == 1:
        for row, fields in arrow_rows(file, start.before):
            yield RawRow(str(file), row, fields)
    else:
        raise RecipeError(
            f"{file}: unknown format. Use JSON lines ({', '.join(JSON_LINES)}, also with .gz), "
            f".parquet, or Arrow ({', '.join(ARROW)})."
        )


def matching_files(pattern: str, base: Path | None = None) -> list[Path]:
    """The files of a name or glob pattern, sorted.

    Raises:
        RecipeError: there is none.
    """
    full = _resolved(pattern, base)
    files = [Path(name) for name in sorted(glob.glob(str(full)))]  # noqa: PTH207
    if not files:
        raise RecipeError(f"No file matches {str(full)!r}.")
    return files


def _resolved(path: str, base: Path | None) -> Path:
    full = Path(path).expanduser()
    return full if base is None or full.is_absolute() else base / full


def _json_lines(file: Path, start: Start) -> Iterator[RawRow]:
    number = start.before
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            if start.offset:
                lines.seek(start.offset)
            for line in lines:
                number += 1
                if not line.isspace():
                    yield RawRow(str(file), number, _parse_json(line))
    except READ_FAILURES as error:
        yield RawRow(str(file), number + 1, unreadable(error))


def _parse_json(line: bytes) -> Mapping[str, Any] | InputError:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        text = line.decode("utf-8", "replace").strip()
        return InputError("line", text, f"not valid JSON: {error}", "Write one object a line.")
    if not isinstance(fields, dict):
        return InputError("line", fields, "not a JSON object", "Write one object a line.")
    return fields


def count_rows(file: Path) -> int | None:
    """How many rows a file holds, for progress bars; ``None`` where that takes reading it."""
    try:
        if file.suffix == ".parquet":
            return count_table_rows(file)
        if file.suffix in JSON_LINES:
            with file.open("rb") as lines:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: lines.read(1 << 20), b""))
    except table_failures():  # the reader that follows says what is wrong
        return None
    return None
