"""Conversion of a dataset into rows, streamed, with every record accounted for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from armorm.data.catalog.entry import CatalogEntry, Converted, Form, Kind, Reading, Record
from armorm.data.hub import hub_rows
from armorm.data.tables import RawRow
from armorm.errors import ArmormError, InputError, RecipeError, did_you_mean


def converted_rows(
    entry: CatalogEntry,
    kind: Kind,
    *,
    split: str | None = None,
    revision: str | None = None,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
    notes: Counter[str] | None = None,
) -> Iterator[RawRow]:
    """Yield the rows of one kind that a dataset gives, in order.

    Each has the number of the record that it was converted from.

    Args:
        entry: The dataset.
        kind: ``rated`` or ``preferences``.
        split: Read this split instead of the entry's own.
        revision: Hub revision.
        root: Read from this folder, laid out as on the hub.
        options: Choices that the entry offers.
        notes: Collects counts of values that were repaired by rule.

    Raises:
        RecipeError: An option or a split that the dataset does not have.
        ArmormError: The dataset cannot be read, or its columns are not those the entry expects.
    """
    form = entry.form(kind)
    counted = Counter[str]() if notes is None else notes
    reading = Reading(entry.ratings, form.choose(options or {}), counted)
    for name in _splits(entry, split):
        place = entry.place(name, revision=revision, root=root)
        records = hub_rows(place) if form.records is None else form.records(reading.options)
        for number, record in _grouped(form, _checked_layout(entry, place.label, records)):
            if isinstance(record, InputError):
                yield RawRow(place.label, number, record)
                continue
            for row in _convert(form, reading, record, entry, name, number):
                yield RawRow(place.label, number, row)


def _splits(entry: CatalogEntry, split: str | None) -> tuple[str, ...]:
    if split is None:
        return entry.splits
    known = (*entry.splits, *entry.other_splits)
    if split not in known:
        raise RecipeError(f"{entry.name} has no split {split!r}. {did_you_mean(split, known)}")
    return (split,)


def _checked_layout(
    entry: CatalogEntry, place: str, records: Iterator[Record | InputError]
) -> Iterator[tuple[int, Record | InputError]]:
    """Yield numbered records; refuse a dataset whose first one lacks columns."""
    checked = False
    for number, record in enumerate(records, start=1):
        if not checked and not isinstance(record, InputError):
            checked = True
            missing = [column for column in entry.columns if column not in record]
            if missing:
                raise ArmormError(
                    f"{place}: the layout is not the expected one: no column "
                    f"{', '.join(missing)}. Found: {', '.join(record)}. Name the revision that "
                    f"has them, or correct the entry {entry.name!r} of the catalogue."
                )
        yield number, record


def _grouped(
    form: Form, records: Iterator[tuple[int, Record | InputError]]
) -> Iterator[tuple[int, Record | InputError]]:
    """Join adjacent records of one group; an unreadable record stays by itself."""
    column = form.group
    if column is None:
        yield from records
        return

    def group_of(numbered: tuple[int, Record | InputError]) -> object:
        number, record = numbered
        return number if isinstance(record, InputError) else [record.get(column)]

    for _, members in itertools.groupby(records, key=group_of):
        numbered = list(members)
        first, record = numbered[0]
        if isinstance(record, InputError):
            yield first, record
        else:
            yield first, {column: record.get(column), "records": [one for _, one in numbered]}


LAYOUT_FAILURES = (TypeError, AttributeError, LookupError, ValueError, ArithmeticError)
"""Errors of a converter that meets a record of another shape than the entry describes."""


def _convert(
    form: Form, reading: Reading, record: Record, entry: CatalogEntry, split: str, number: int
) -> Converted:
    """Convert one record; whatever goes wrong with it becomes one more row that is skipped.

    Rows get the id, source and subset that the dataset itself does not give.
    """
    made = 0
    several = len(entry.splits) > 1
    name = f"{entry.name}:{split}:{number}" if several else f"{entry.name}:{number}"
    try:
        for row in form.convert(record, reading):
            if isinstance(row, dict):
                row.setdefault("id", f"{name}.{made}" if made else name)
                row.setdefault("source", entry.name)
                if several:
                    row.setdefault("subset", split)
                made += 1
            yield row
    except InputError as error:
        yield error
    except LAYOUT_FAILURES as error:
        yield InputError(
            "record",
            dict(record),
            f"not in the layout that the entry {entry.name!r} describes ({error!r})",
            "Is the row damaged, or the dataset of another revision?",
        )
