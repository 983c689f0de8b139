"""Scores of a benchmark's rows: their file, and scores that were made elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from armorm.data.sources import file_rows
from armorm.data.tables import RawRow
from armorm.errors import InputError
from armorm.evaluation.benchmarks.rows import BenchmarkData
from armorm.evaluation.scorers.base import Scored


def record_of(ident: str, found: Scored) -> dict[str, Any]:
    """Return the line of a file of scores, for :func:`read_scores`."""
    if found.error is not None:
        error = {"error": found.error.as_dict(), "too_long": found.too_long}
        return {"id": ident, "scores": None, **error}
    record: dict[str, Any] = {"id": ident, "scores": found.scores}
    if found.rewards:
        record |= {"rewards": found.rewards, "coefficients": found.coefficients}
    return record


def read_scores(file: Path, data: BenchmarkData) -> list[Scored]:
    """Read scores made elsewhere: rows ``{"id", "scores"}`` in the order of a benchmark.

    Args:
        file: JSON lines (also .gz), Parquet or Arrow; the scores of a row are in the order of its
            responses, the right ones first.
        data: The benchmark's rows.

    Raises:
        InputError: An id is not that of the benchmark's row in this place, a row is missing or
            there is one too many, or scores are not as many finite numbers as there are responses.
    """
    found = []
    rows: Iterator[RawRow] = file_rows(file)
    for place, expected in enumerate(data.rows):
        raw = next(rows, None)
        if raw is None:
            raise InputError(
                "id",
                expected.id,
                f"missing: the file ends after {place:,} of {len(data.rows):,} rows",
                "Score the rows that are missing.",
                str(file),
            )
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            found.append(_scored(raw.fields, expected.id, len(expected.responses)))
        except InputError as error:
            raise error.at(raw.file, raw.row) from None
    surplus = next(rows, None)
    if surplus is not None:
        raise InputError(
            "row",
            surplus.row,
            f"the benchmark has {len(data.rows):,} rows",
            "Remove the rows after them.",
            str(file),
        )
    return found


def _scored(row: Mapping[str, Any], ident: str, responses: int) -> Scored:
    found = row.get("id")
    if not isinstance(found, str | int) or isinstance(found, bool) or str(found) != ident:
        raise InputError(
            "id", found, f"the benchmark has {ident!r} in this place", "Keep its rows in order."
        )
    values = row.get("scores")
    if values is None and row.get("error") is not None:  # written by record_of
        return Scored.failed(_error(row["error"]), too_long=row.get("too_long") is True)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != responses:
        raise InputError(
            "scores", values, f"not {responses} numbers", "Give one score for each response."
        )
    scores = tuple(finite_number(value, f"scores[{i}]") for i, value in enumerate(values))
    return Scored(
        scores,
        rewards=tuple(
            _numbers(one, f"rewards[{i}]")
            for i, one in enumerate(_list(row.get("rewards"), "rewards"))
        ),
        coefficients=_numbers(row.get("coefficients"), "coefficients"),
    )


def _error(record: object) -> InputError:
    """Return the reason why a row has no scores, as :func:`record_of` writes it."""
    if isinstance(record, Mapping) and record.keys() == InputError("", "", "", "").as_dict().keys():
        texts = [record[name] for name in ("field", "reason", "remedy")]
        if all(isinstance(text, str) for text in texts):
            return InputError(**record)
    raise InputError("error", record, "not a reason as armorm writes it", "Score the row again.")


def _list(value: object, field: str) -> Sequence[object]:
    """Return a list; nothing is an empty one."""
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InputError(field, value, "not a list", "Leave it out, or score the row again.")
    return value


def _numbers(values: object, field: str) -> tuple[float, ...]:
    return tuple(finite_number(one, f"{field}[{i}]") for i, one in enumerate(_list(values, field)))


def finite_number(value: object, field: str) -> float:
    """Return a score; NaN, infinity, text and true are none."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(field, value, "not a finite number", "Score the row again.") from None
    return number
