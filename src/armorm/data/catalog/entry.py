"""What the catalogue says about one dataset, and what a converter needs to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from armorm.data.hub import HubPlace
from armorm.errors import InputError, LeftOutError, RecipeError, did_you_mean
from armorm.objectives import PAPER_OBJECTIVES

Record = Mapping[str, Any]
"""One row as it stands in the dataset."""

FormName = Literal["rated", "preferences"]
Checked = Literal["id", "columns", "splits", "rows", "licence", "scale"]

MISSING = frozenset({"", "n/a", "na", "none", "null", "nan"})
"""How datasets write a rating that the raters did not give, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One rating of a dataset: where it stands, what it rates, and its scale there.

    Attributes:
        column: Column, or path of the value inside a row.
        objective: The objective of the paper that it rates.
        minimum: The value that means the objective's minimum.
        maximum: The value that means the objective's maximum.
    """

    column: str
    objective: str
    minimum: float
    maximum: float
    _factor: float = field(init=False, repr=False, compare=False)
    _offset: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scale = PAPER_OBJECTIVES[PAPER_OBJECTIVES.column(self.objective)]
        factor = (scale.maximum - scale.minimum) / (self.maximum - self.minimum)
        object.__setattr__(self, "_factor", factor)  # frozen: the one way to set a derived value
        object.__setattr__(self, "_offset", scale.minimum - factor * self.minimum)

    def read(self, value: object, notes: Counter[str]) -> float | None:
        """The value on the objective's scale; ``None`` where it is missing.

        Text that holds a number is read as one, and N/A as missing; both are noted.

        Raises:
            InputError: not a number, or outside the scale.
        """
        number = _number(value, self.column, notes)
        if number is None:
            return None
        if not self.minimum - 1e-6 <= number <= self.maximum + 1e-6:
            raise InputError(
                self.column,
                value,
                f"outside the scale {self.minimum:g} to {self.maximum:g} of {self.objective}",
                "The layout may have changed, or the row is damaged.",
            )
        return self._factor * number + self._offset


def same_scale(column: str, objective: str) -> Rating:
    """A rating that stands on the objective's own scale."""
    scale = PAPER_OBJECTIVES[PAPER_OBJECTIVES.column(objective)]
    return Rating(column=column, objective=objective, minimum=scale.minimum, maximum=scale.maximum)


def _number(value: object, column: str, notes: Counter[str]) -> float | None:
    if isinstance(value, str):
        value = _number_in_text(value, column, notes)
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        raise InputError(column, value, "a rating is a number", "Is it the rating's column?")
    return None if math.isnan(value) else float(value)


def _number_in_text(text: str, column: str, notes: Counter[str]) -> float | None:
    if text.strip().lower() in MISSING:
        notes["rating N/A or empty: read as missing"] += 1
        return None
    try:
        number = float(text)
    except ValueError:
        raise InputError(
            column, text, "a rating that is not a number", "Is it the rating's column?"
        ) from None
    notes["rating stored as text: read as a number"] += 1
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A choice that a recipe can make about a dataset.

    Attributes:
        default: What holds when the recipe says nothing.
        meaning: One sentence.
        choices: Allowed values; ``None`` for any value of the default's type.
    """

    default: Any
    meaning: str
    choices: tuple[Any, ...] | None = None

    def check(self, name: str, value: object) -> object:
        """The value, if it is allowed.

        Raises:
            RecipeError: it is not; the message says what is.
        """
        if self.choices is not None and value not in self.choices:
            allowed = ", ".join(str(choice) for choice in self.choices)
            raise RecipeError(f"options.{name} = {value!r}: use one of {allowed}.")
        numeric = isinstance(self.default, int | float) and not isinstance(self.default, bool)
        expected = (int, float) if numeric else type(self.default)
        if not isinstance(value, expected):
            raise RecipeError(f"options.{name} = {value!r}: write a value like {self.default!r}.")
        return value


@dataclass(slots=True)
class Reading:
    """What a converter is given beside the record.

    Attributes:
        ratings: The entry's ratings.
        options: The recipe's choices, defaults filled in.
        notes: Counts of values mended by rule.
    """

    ratings: tuple[Rating, ...]
    options: Mapping[str, Any]
    notes: Counter[str]

    def ratings_of(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The ratings that exist, on the objectives' scales, by objective.

        Raises:
            LeftOutError: nothing is rated.
            InputError: a value is not a number on its scale.
        """
        read = {
            rating.objective: rating.read(values.get(rating.column), self.notes)
            for rating in self.ratings
        }
        rated = {objective: value for objective, value in read.items() if value is not None}
        if not rated:
            columns = ", ".join(rating.column for rating in self.ratings)
            raise LeftOutError(columns, None, "nothing is rated", "No objective can learn from it.")
        return rated


Records = Callable[[Mapping[str, Any]], Iterator[Record]]
"""Makes records from the options, where a dataset does not come from the hub."""

Converter = Callable[[Record, Reading], Iterator[dict[str, Any] | InputError]]
"""Turns one record into rows of the forms of docs/data.md, or into what is left out and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one kind of rows is made from a dataset.

    Attributes:
        convert: Makes the rows of one record.
        rule: One sentence: how, and what is left out.
        group: Adjacent records with the same value here are converted together, as
            ``{group: value, "records": [...]}``.
        options: What a recipe may choose.
        records: Where the records come from, if not from the hub.
    """

    convert: Converter
    rule: str
    group: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    records: Records | None = None

    def choose(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Every option's value, the recipe's choices checked.

        Raises:
            RecipeError: an unknown option or a value that is not allowed.
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
    """One public dataset.

    Attributes:
        name: Its name in recipes and on the command line.
        hub_id: Organisation and name on the hub.
        about: One sentence.
        licence: Its licence, or that none is stated.
        rows: Rows of the splits read by default, where known.
        splits: Splits that are read by default, in this order.
        other_splits: Further splits that a recipe may name.
        columns: Columns that conversion needs, and what each means.
        ratings: Ratings and their scales, where there are any.
        rated: How rated responses are made from it.
        preferences: How preference pairs are made from it.
        benchmark: It is for evaluation: training on it spoils the figure.
        verified: What was seen in documentation or published code; the rest is from memory.
        defects: Known defects and what is done about them.
        planted: Subset to the objective that decides its pairs, of data that was made so.
        config, data_dir, data_files: See :class:`~armorm.data.hub.HubPlace`.
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
    verified: frozenset[Checked] = frozenset()
    defects: tuple[str, ...] = ()
    planted: Mapping[str, str] = field(default_factory=dict)
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
    def objectives(self) -> tuple[str, ...]:
        """Objectives that it rates."""
        return tuple(dict.fromkeys(rating.objective for rating in self.ratings))

    @property
    def from_memory(self) -> tuple[str, ...]:
        """What could not be checked when the entry was written."""
        checkable = [part for part in get_args(Checked) if part != "scale" or self.ratings]
        return tuple(part for part in checkable if part not in self.verified)

    def form(self, kind: FormName) -> Form:
        """How rows of this kind are made.

        Raises:
            RecipeError: the dataset has none of them.
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
        """Where one of its splits is read from."""
        return HubPlace(
            dataset=self.hub_id,
            split=split,
            config=self.config,
            revision=revision,
            data_dir=self.data_dir,
            data_files=self.data_files,
            root=root,
        )
