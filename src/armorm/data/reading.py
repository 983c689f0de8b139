"""Validation of raw rows: rated responses, preference pairs, and an account of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from armorm.conversations import (
    PreferencePair,
    RatedResponse,
    located_in,
    prompt_key,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.conversations.messages import Conversation, Message, Tally, row_key, validate_text
from armorm.data.catalog import Kind
from armorm.data.licences import combined
from armorm.data.rows_on_disk import DiskList
from armorm.data.sources import DataSource, HeldOut, InvalidPolicy
from armorm.data.tables import RawRow
from armorm.errors import InputError, SkippedRowError, shorten
from armorm.files import json_line
from armorm.objectives import Objective, ObjectiveSet
from armorm.progress import progressing

Row = TypeVar("Row", bound=RatedResponse | PreferencePair)


@dataclass(slots=True)
class Loaded(Generic[Row]):
    """Rows that were read, and an account of those that were skipped; both are on disk.

    Attributes:
        rows: The valid rows, in input order.
        invalid: The errors of skipped rows, in input order, each as
            :meth:`InputError.as_dict` gives it.
        tally: Rows read, kept, and skipped by reason.
        licences: Licence of the rows of each source.
    """

    rows: DiskList[Row]
    invalid: DiskList[dict[str, Any]]
    tally: Tally = field(default_factory=Tally)
    licences: dict[str, str] = field(default_factory=dict)

    def write_invalid(self, file: Path) -> None:
        """Write the skipped rows' errors as JSON lines."""
        with file.open("wb") as lines:
            lines.writelines(map(json_line, self.invalid))


def read_rated(
    sources: Sequence[DataSource],
    objectives: ObjectiveSet,
    *,
    held_out: HeldOut | None = None,
    invalid: InvalidPolicy = "error",
    base: Path | None = None,
    scratch: Path | None = None,
    show_progress: bool = False,
) -> Loaded[RatedResponse]:
    """Read rated responses.

    A row is ``{"messages": [… last one assistant], "ratings": {objective: number or null}}``;
    a row without ``ratings`` may carry one column per objective instead, as the paper's merged
    training set does.

    Args:
        sources: Sources of the rows, in order.
        objectives: Objectives that may be rated.
        held_out: Rows to keep out of training; default none.
        invalid: ``error`` stops at the first bad row; ``skip`` counts and lists them.  Rows
            that a rule of the catalogue skips never stop.
        base: Folder that relative paths start from.
        scratch: Folder where the rows are kept while the result lives, in a file without a name
            that is about as large as their text; default the system's temporary folder.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A row is bad, and ``invalid`` is ``error``.
        ArmormError: A source cannot be read, or the disk is full.
    """
    rows = DiskList(RatedResponse.as_record, RatedResponse.from_record, scratch)
    loaded = Loaded(rows, DiskList(dict, dict, scratch))
    for source in sources:
        found = rated_rows(source, objectives, loaded.tally, held_out=held_out, base=base)
        _load(loaded, found, source, invalid, show_progress)
    return loaded


def read_preferences(
    sources: Sequence[DataSource],
    *,
    held_out: HeldOut | None = None,
    invalid: InvalidPolicy = "error",
    base: Path | None = None,
    scratch: Path | None = None,
    show_progress: bool = False,
) -> Loaded[PreferencePair]:
    """Read preference pairs.

    Accepted: ``prompt`` (text or messages) with ``chosen`` and ``rejected`` (text or one
    assistant message), and ``chosen``/``rejected`` as whole conversations that share their
    prompt.  Arguments and errors are those of :func:`read_rated`.
    """
    rows = DiskList(PreferencePair.as_record, PreferencePair.from_record, scratch)
    loaded = Loaded(rows, DiskList(dict, dict, scratch))
    for source in sources:
        found = preference_rows(source, loaded.tally, held_out=held_out, base=base)
        _load(loaded, found, source, invalid, show_progress)
    return loaded


def rated_rows(
    source: DataSource,
    objectives: ObjectiveSet,
    tally: Tally,
    *,
    held_out: HeldOut | None = None,
    base: Path | None = None,
) -> Iterator[RatedResponse | InputError]:
    """Yield the rated responses of one source as they are read, bad rows as located errors.

    Arguments are those of :func:`read_rated`; ``tally`` counts the rows.
    """

    def parse(row: Mapping[str, Any], name: str, ident: str) -> RatedResponse:
        prompt, response = located_in("messages", validate_conversation, row.get("messages"))
        ratings = objectives.validate_ratings(_ratings_of(row, source, objectives))
        return RatedResponse(
            prompt, response, ratings, ident, name, _is_held_out(row, prompt, held_out)
        )

    source.check_scales(objectives)
    yield from _parsed("rated", source, parse, tally, base)


def preference_rows(
    source: DataSource,
    tally: Tally,
    *,
    held_out: HeldOut | None = None,
    base: Path | None = None,
) -> Iterator[PreferencePair | InputError]:
    """Yield the preference pairs of one source as they are read; see :func:`rated_rows`."""

    def parse(row: Mapping[str, Any], name: str, ident: str) -> PreferencePair:
        prompt, chosen, rejected = parse_pair(row)
        subset = name_in(row, "subset") or name_in(row, "domain") or name
        return PreferencePair(
            prompt, chosen, rejected, ident, name, subset, _is_held_out(row, prompt, held_out)
        )

    yield from _parsed("preferences", source, parse, tally, base)


def stops(error: InputError, invalid: InvalidPolicy) -> bool:
    """Return whether this error ends the reading; a row that a rule skips never does."""
    return invalid == "error" and not isinstance(error, SkippedRowError)


def weighted(row: Row, source: DataSource, tally: Tally) -> Iterator[Row]:
    """Yield the row as often as the weight of its source says, and correct ``tally``."""
    copies = 1 if row.held_out else _copies(row, source.weight)
    tally.kept += copies - 1
    if not copies:
        tally.skip("left out by the weight of its source")
    for copy in range(copies):
        yield row if copy == 0 else replace(row, id=f"{row.id}#{copy + 1}")


def _copies(row: Row, weight: float) -> int:
    whole = int(weight)
    return whole if whole == weight else whole + (hash_fraction(row_key(row)) < weight - whole)


def _load(
    loaded: Loaded[Row],
    rows: Iterator[Row | InputError],
    source: DataSource,
    invalid: InvalidPolicy,
    show_progress: bool,
) -> None:
    names: set[str] = set()
    for row in progressing(rows, f"reading {source.name}", source.limit, "rows", show_progress):
        if not isinstance(row, InputError):
            names.add(row.source)
            loaded.rows.extend(weighted(row, source, loaded.tally))
        elif stops(row, invalid):
            raise row
        else:
            loaded.invalid.append(row.as_dict())
    loaded.licences = combined(loaded.licences, dict.fromkeys(names, source.stated_licence))


def _parsed(
    kind: Kind,
    source: DataSource,
    parse: Callable[[Mapping[str, Any], str, str], Row],
    tally: Tally,
    base: Path | None,
) -> Iterator[Row | InputError]:
    for raw in source.rows(kind, base, tally.notes):
        tally.read += 1
        try:
            row = _parse_row(raw, source, parse)
        except InputError as error:
            tally.skip(error.reason)
            yield error.at(raw.file, raw.row)
            continue
        tally.kept += 1
        yield row


def _parse_row(
    raw: RawRow,
    source: DataSource,
    parse: Callable[[Mapping[str, Any], str, str], Row],
) -> Row:
    if isinstance(raw.fields, InputError):
        raise raw.fields
    name = source.source or name_in(raw.fields, "source") or _short_name(raw.file)
    ident = name_in(raw.fields, "id") or row_name(raw)
    return parse(raw.fields, name, ident)


def name_in(row: Mapping[str, Any], field_name: str) -> str:
    """Return the text of an id, source or subset; empty where the row has none."""
    value = row.get(field_name)
    if not isinstance(value, str):
        return "" if value is None else shorten(value, 200)
    return validate_text(value, field_name)


def row_name(raw: RawRow) -> str:
    """Return the id of a row that has none of its own: its file and number."""
    return f"{_short_name(raw.file)}:{raw.row}"


def _short_name(file: str) -> str:
    return Path(file).name.split(".")[0] if Path(file).suffix else file


def _ratings_of(row: Mapping[str, Any], source: DataSource, objectives: ObjectiveSet) -> object:
    ratings = row.get("ratings")
    if ratings is None and "ratings" not in row:
        computed = objectives.computed
        columns = [name for name in objectives.names if name in row and name not in computed]
        if not columns:
            raise InputError(
                "ratings",
                None,
                f"missing; the row has {', '.join(row)}",
                "Add ratings, or one column per objective.",
            )
        ratings = {name: row[name] for name in columns}
    if not isinstance(ratings, Mapping):
        return ratings
    if source.catalog is not None:
        ratings = _of_the_recipe(ratings, objectives)
    return {name: _rating(value, name, source, objectives) for name, value in ratings.items()}


def _of_the_recipe(ratings: Mapping[str, Any], objectives: ObjectiveSet) -> Mapping[str, Any]:
    """Return the ratings that the recipe asks for; a dataset of the catalogue may have more."""
    names = objectives.names
    asked = {name: value for name, value in ratings.items() if name in names}
    if not asked:
        raise SkippedRowError(
            "ratings",
            list(ratings),
            "rates none of the recipe's objectives",
            "Add one of them to the recipe, or remove the source.",
        )
    return asked


def _rating(value: object, name: str, source: DataSource, objectives: ObjectiveSet) -> object:
    if isinstance(value, float) and math.isnan(value) and source.nan_is_missing:
        return None
    if not source.unit_ratings or value is None or name not in objectives.names:
        return value
    objective = objectives[objectives.column(name)]
    return objective.to_rating(Objective(name=name).validate_rating(value))


def parse_pair(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Return prompt, chosen and rejected response of a raw row; see :func:`read_preferences`.

    Raises:
        InputError: The first field that is wrong, by name.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if _is_conversation(chosen) and _is_conversation(rejected):
        prompt, chosen_text = located_in("chosen", validate_conversation, chosen)
        other, rejected_text = located_in("rejected", validate_conversation, rejected)
        if prompt != other:
            raise InputError(
                "rejected",
                list(other),
                "chosen and rejected differ before their last message",
                "Both must answer the same prompt.",
            )
    else:
        if row.get("prompt") is None:
            raise InputError(
                "prompt",
                None,
                "missing, and chosen and rejected are not whole conversations",
                "Add the prompt as text or messages.",
            )
        prompt = located_in("prompt", validate_prompt, row["prompt"])
        chosen_text = located_in("chosen", validate_response, chosen)
        rejected_text = located_in("rejected", validate_response, rejected)
    if chosen_text == rejected_text:
        raise InputError("rejected", rejected_text, "the same text as chosen", "Remove the tie.")
    return prompt, chosen_text, rejected_text


def _is_conversation(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1


def _is_held_out(row: Mapping[str, Any], prompt: Conversation, held_out: HeldOut | None) -> bool:
    if held_out is None:
        return False
    if held_out.column is None:
        return hash_fraction(prompt_key(prompt)) < held_out.fraction
    value = row.get(held_out.column)
    if value is None:
        raise InputError(
            held_out.column,
            None,
            "the split column is missing",
            "Add it, or set held_out.fraction.",
        )
    return str(value) in held_out.values


def hash_fraction(key: str) -> float:
    """Return a key's place in [0, 1): the same on every machine, uniform over keys."""
    return int(key[:13], 16) / 16**13
