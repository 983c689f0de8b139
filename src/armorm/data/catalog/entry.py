"""Descriptions of datasets: what an entry of the catalogue says, and what its converter gets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from armorm.data.hub import HubPlace
from armorm.errors import InputError, RecipeError, SkippedRowError, did_you_mean
from armorm.objectives import PAPER_OBJECTIVES, Objective, as_number

Record = Mapping[str, Any]
"""One row as it stands in the dataset."""

Row = dict[str, Any]
"""One row in a form of docs/data.md."""

Kind = Literal["rated", "preferences"]
Checked = Literal["id", "columns", "splits", "rows", "licence", "scale"]

NOT_STATED = "not stated"
"""Licence of a dataset whose card names none."""

MISSING = frozenset({"", "n/a", "na", "none", "null", "nan"})
"""Spellings, in lower case, of a rating that the raters did not give."""

LARGEST_OPTION = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A rating of a dataset: the column it stands in, what it rates, and its scale there.

    Attributes:
        column: Column, or path of the value inside a row.
        objective: Objective that it rates.  Rows carry it on this objective's scale.
        minimum: Value in the dataset that means the objective's minimum; default the same.
        maximum: Value in the dataset that means the objective's maximum; default the same.
    """

    column: str
    objective: Objective
    minimum: float = math.nan
    maximum: float = math.nan

    def __post_init__(self) -> None:
        for end in ("minimum", "maximum"):
            if math.isnan(getattr(self, end)):
                object.__setattr__(self, end, getattr(self.objective, end))

    def read(self, value: object, notes: Counter[str]) -> float | None:
        """Return the value on the objective's scale, or ``None`` where it is missing.

        Text that holds a number is read as one, and N/A as missing; both are noted.

        Raises:
            InputError: The value is not a number, or outside the scale.
        """
        number = _number(value, self.column, notes)
        if number is None:
            return None
        low, high = sorted((self.minimum, self.maximum))
        if not low - 1e-6 <= number <= high + 1e-6:
            raise InputError(
                self.column,
                value,
                f"outside the scale {self.minimum:g} to {self.maximum:g} of {self.objective.name}",
                "The layout may have changed, or the row is damaged.",
            )
        scale = self.objective
        factor = (scale.maximum - scale.minimum) / (self.maximum - self.minimum)
        return factor * number + (scale.minimum - factor * self.minimum)


def paper_rating(column: str, objective: str) -> Rating:
    """Return a rating for one of the paper's objectives, on that objective's own scale."""
    return Rating(column=column, objective=PAPER_OBJECTIVES[PAPER_OBJECTIVES.column(objective)])


def _number(value: object, column: str, notes: Counter[str]) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING:
            notes["rating N/A or empty: read as missing"] += 1
            return None
        try:
            value = float(text)
        except ValueError:
            raise InputError(
                column, text, "a rating that is not a number", "Is it the rating's column?"
            ) from None
        notes["rating stored as text: read as a number"] += 1
    if value is None:
        return None
    number = as_number(value)
    if number is None:
        raise InputError(column, value, "a rating is a number", "Is it the rating's column?")
    return None if math.isnan(number) else number


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A choice that a recipe can make about a dataset.

    Attributes:
        default: Value where the recipe names none.
        meaning: One sentence.
        choices: Allowed values; ``None`` for any value of the default's type.
        minimum: Smallest allowed number.
    """

    default: Any
    meaning: str
    choices: tuple[Any, ...] | None = None
    minimum: float = 0

    def check(self, name: str, value: object) -> object:
        """Return the value if it is allowed.

        Raises:
            RecipeError: The value is not allowed; the message says what is.
        """
        if self.choices is not None and value not in self.choices:
            allowed = ", ".join(str(choice) for choice in self.choices)
            raise RecipeError(f"options.{name} = {value!r}: use one of {allowed}.")
        wanted = type(self.default)
        if type(value) is not wanted and (wanted is not float or type(value) is not int):
            raise RecipeError(f"options.{name} = {value!r}: write a value like {self.default!r}.")
        if type(value) in (int, float) and not self.minimum <= value <= LARGEST_OPTION:  # type: ignore[operator]
            raise RecipeError(
                f"options.{name} = {value!r}: use {self.minimum:g} to {LARGEST_OPTION:,}."
            )
        return value


@dataclass(slots=True)
class Reading:
    """Context of a conversion, given to a converter beside each record.

    Attributes:
        ratings: The entry's ratings.
        options: The recipe's choices, defaults filled in.
        notes: Counts of values that were repaired by rule.
    """

    ratings: tuple[Rating, ...]
    options: Mapping[str, Any]
    notes: Counter[str]

    def ratings_of(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return the ratings that exist, on the objectives' scales, by objective.

        Raises:
            SkippedRowError: Nothing is rated.
            InputError: A value is not a number on its scale.
        """
        read = {
            rating.objective.name: rating.read(values.get(rating.column), self.notes)
            for rating in self.ratings
        }
        rated = {objective: value for objective, value in read.items() if value is not None}
        if not rated:
            columns = ", ".join(rating.column for rating in self.ratings)
            raise SkippedRowError(
                columns, None, "nothing is rated", "No objective can learn from it."
            )
        return rated


Records = Callable[[Mapping[str, Any]], Iterator[Record]]
"""Maker of records from the options, for a dataset that does not come from the hub."""

Converted = Iterator[Row | InputError]
"""Rows made of one record, and what is skipped with the reason."""

Converter = Callable[[Record, Reading], Converted]
"""Turns one record into rows of the forms of docs/data.md, or into errors that say why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Conversion of a dataset into one kind of rows.

    Attributes:
        convert: Makes the rows of one record.
        rule: One sentence: how rows are made, and which records are skipped.
        group: Adjacent records with the same value here are converted together, as
            ``{group: value, "records": [...]}``.
        options: Choices that a recipe may make.
        records: Source of the records, if not the hub.
    """

    convert: Converter
    rule: str
    group: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    records: Records | None = None

    def choose(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option's value, the recipe's choices checked.

        Raises:
            RecipeError: An option is unknown, or a value not allowed.
        """
        for name in chosen:
            if name not in self.options:
                known = did_you_mean(name, self.options) if self.options else "It has none."
                raise RecipeError(f"options.{name}: there is no such option. {known}")
        return {
            name: option.check(name, chosen.get(name, option.default))
            for name, option in self.options.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One dataset: where it is, what it rates, and how it becomes rows.

    Attributes:
        name: Name in recipes and on the command line.
        hub_id: Organisation and name on the hub.
        about: One sentence.
        licence: Licence, or :data:`NOT_STATED`.
        columns: Columns that conversion needs, and what each means.
        rows: Rows of the splits read by default, where known.
        splits: Splits that are read by default, in this order.
        other_splits: Further splits that a recipe may name.
        ratings: Ratings with their objectives and scales, where there are any.
        rated: Conversion into rated responses.
        preferences: Conversion into preference pairs.
        benchmark: Whether it is for evaluation, so that training on it spoils the figure.
        planted: Subset to the objective that decides its pairs, of data that was made so.
        mislabelled: Takes the options of the preferences and returns the ids of the pairs whose
            label was made to be wrong.
        verified: Statements seen in documentation or published code; the rest is from memory.
        defects: Known defects and what is done about them.
        config: See :class:`~armorm.data.hub.HubPlace`.
        data_dir: See :class:`~armorm.data.hub.HubPlace`.
        data_files: See :class:`~armorm.data.hub.HubPlace`.
    """

    name: str
    hub_id: str
    about: str
    licence: str
    columns: Mapping[str, str]
    rows: int | None = None
    splits: tuple[str, ...] = ("train",)
    other_splits: tuple[str, ...] = ()
    ratings: tuple[Rating, ...] = ()
    rated: Form | None = None
    preferences: Form | None = None
    benchmark: bool = False
    planted: Mapping[str, str] = field(default_factory=dict)
    mislabelled: Callable[[Mapping[str, Any]], frozenset[str]] | None = None
    verified: frozenset[Checked] = frozenset()
    defects: tuple[str, ...] = ()
    config: str | None = None
    data_dir: str | None = None
    data_files: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """``rated``, ``preferences``, or ``benchmark`` alone."""
        if self.benchmark:
            return ("benchmark",)
        forms = {"rated": self.rated, "preferences": self.preferences}
        return tuple(name for name, form in forms.items() if form is not None)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Objectives that it rates, each once."""
        return tuple(dict.fromkeys(rating.objective for rating in self.ratings))

    @property
    def from_memory(self) -> tuple[str, ...]:
        """Statements that could not be checked when the entry was written."""
        checkable = [part for part in get_args(Checked) if part != "scale" or self.ratings]
        return tuple(part for part in checkable if part not in self.verified)

    def form(self, kind: Kind) -> Form:
        """Return the conversion into rows of this kind.

        Raises:
            RecipeError: The dataset has none of them.
        """
        form = self.rated if kind == "rated" else self.preferences
        if form is None:
            has = "rated" if kind == "preferences" else "preferences"
            raise RecipeError(
                f"catalog: {self.name} has no {kind} rows. List it under data.{has} instead."
            )
        return form

    def place(
        self, split: str, *, revision: str | None = None, root: Path | None = None
    ) -> HubPlace:
        """Return the place that one of its splits is read from."""
        return HubPlace(
            self.hub_id, split, self.config, revision, self.data_dir, self.data_files, root
        )
