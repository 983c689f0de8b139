"""Descriptions of a dataset as JSON: its entry, and a sample of its rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from armorm.data.catalog.entry import CatalogEntry, Form, Kind
from armorm.data.catalog.reading import converted_rows
from armorm.data.summary import RatingCounts
from armorm.errors import InputError

AS_THEY_ARE = (
    *("name", "hub_id", "kinds", "about", "licence", "rows", "splits", "other_splits"),
    *("config", "data_dir", "data_files", "columns"),
)
"""Attributes of an entry that a description repeats."""

SHOWN = 2
"""Number of converted rows that a sample shows."""


def describe(entry: CatalogEntry) -> dict[str, Any]:
    """Return the entry as JSON-ready values."""
    return {
        **{name: getattr(entry, name) for name in AS_THEY_ARE},
        "ratings": [
            {
                "column": rating.column,
                "objective": rating.objective.name,
                "minimum": rating.minimum,
                "maximum": rating.maximum,
            }
            for rating in entry.ratings
        ],
        "objectives": [objective.name for objective in entry.objectives],
        "rated": _form(entry.rated),
        "preferences": _form(entry.preferences),
        "verified": sorted(entry.verified),
        "from_memory": entry.from_memory,
        "defects": entry.defects,
    }


def _form(form: Form | None) -> dict[str, Any] | None:
    if form is None:
        return None
    options = {
        name: {part: getattr(option, part) for part in ("default", "meaning", "choices")}
        for name, option in form.options.items()
    }
    return {"rule": form.rule, "options": options}


def sample(
    entry: CatalogEntry,
    kind: Kind,
    *,
    rows: int = 1000,
    split: str | None = None,
    root: Path | None = None,
) -> dict[str, Any]:
    """Convert the first rows; return two of them, the ratings of all, and what was skipped.

    Arguments and errors are those of :func:`~armorm.data.catalog.converted_rows`.
    """
    notes, left_out, counts = Counter[str](), Counter[str](), RatingCounts()
    shown: list[Mapping[str, Any]] = []
    read = 0
    converted = converted_rows(entry, kind, split=split, root=root, notes=notes)
    for _, _, row in itertools.islice(converted, rows):
        read += 1
        if isinstance(row, InputError):
            left_out[row.reason] += 1
            continue
        if len(shown) < SHOWN:
            shown.append(row)
        for objective, rating in row.get("ratings", {}).items():
            counts.add(objective, (rating,))
    return {
        "read": read,
        "rows": shown,
        "left_out": dict(left_out.most_common()),
        "notes": dict(notes),
        "ratings": counts.as_dict(),
    }
