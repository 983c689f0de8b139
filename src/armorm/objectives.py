"""Objectives, their scales, and ordered sets of them.

A rating lives on the scale of its dataset (HelpSteer points, a boolean, an error count).  Every
scale is mapped linearly and invertibly to unit rewards, so that one ridge penalty fits all
objectives and a prediction can be read back in the raters' own units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from armorm.computed_labels import COMPUTED_LABELS, CountTokens
from armorm.errors import InputError, RecipeError, did_you_mean
from armorm.settings import Options

Direction = Literal["higher", "lower", "neutral"]

RANGE_QUANTILES = (0.005, 0.995)
"""Share of the training rows' labels below either end of a range that is taken from them."""

SCALE_SLACK = 1e-6
"""Share of its scale by which a rating may overshoot: rounding, where ratings were rescaled."""


def as_number(value: object) -> float | None:
    """Return a number as a float, infinite where it is too large for one; ``None`` for no number.

    Booleans count as 1 and 0.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Objective(Options):
    """One named, rated quality with its scale.

    A rating r on the scale is the unit reward (r - unit_zero) / (unit_one - unit_zero).

    Example:
        >>> from armorm import Objective
        >>> politeness = Objective(name="acme-politeness", minimum=1, maximum=7)
        >>> politeness.to_reward(4.0), politeness.to_rating(1.0)
        (0.5, 7.0)
        >>> errors = Objective(name="acme-errors", maximum=10, direction="lower")
        >>> errors.to_reward(0.0), errors.to_reward(5.0)
        (1.0, 0.5)
        >>> Objective(name="length", computed="log_tokens").direction
        'neutral'
    """

    name: str = Field(min_length=1)
    """Unique name, by custom dataset-quality."""
    minimum: float = 0.0
    """Smallest rating that can occur."""
    maximum: float = 1.0
    """Largest rating that can occur."""
    unit_zero: float = math.nan
    """Rating that maps to reward 0. Default: the worse end of the scale."""
    unit_one: float = math.nan
    """Rating that maps to reward 1. Default: the better end of the scale."""
    dataset: str | None = None
    """Dataset that its ratings come from."""
    direction: Direction = "higher"
    """Ratings that are better: higher, lower, or neutral for neither (verbosity)."""
    description: str = ""
    """One sentence for people who read explanations."""
    computed: str | None = None
    """Kind of label that is computed from the text of every response, such as log_tokens, in place
    of ratings (docs/recipes.md); null for a rated objective."""
    mirrors: str | None = None
    """Objective whose reward is the negative of this one's; only in a model whose debiasing keeps
    its confounder (docs/method.md)."""
    range_from_data: bool = False
    """Take minimum and maximum from the labels of the training rows, once they are known. Default:
    true for a computed objective without minimum and maximum."""

    @model_validator(mode="before")
    @classmethod
    def _default_units(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if values.get("computed") is not None:
            given = "minimum" in values
            if given != ("maximum" in values):
                raise ValueError("give a computed objective minimum and maximum, or neither")
            values = {"direction": "neutral", "range_from_data": not given, **values}
        minimum, maximum = values.get("minimum", 0.0), values.get("maximum", 1.0)
        worse, better = (
            (maximum, minimum)
            if values.get("direction") == "lower"
            else (
                minimum,
                maximum,
            )
        )
        return {"unit_zero": worse, "unit_one": better, **values}

    @model_validator(mode="after")
    def _check_scale(self) -> Objective:
        if not self.minimum < self.maximum:
            raise ValueError(f"minimum {self.minimum} must be below maximum {self.maximum}")
        if self.unit_zero == self.unit_one:
            raise ValueError("unit_zero and unit_one must differ, or the scale has no inverse")
        if self.computed is not None and self.computed not in COMPUTED_LABELS:
            raise ValueError(
                f"no label {self.computed!r} can be computed. "
                f"{did_you_mean(self.computed, COMPUTED_LABELS)}"
            )
        if self.range_from_data and self.computed is None:
            raise ValueError("range_from_data is for computed objectives: give the raters' scale")
        return self

    def with_range(self, labels: npt.ArrayLike) -> Objective:
        """Return the objective with the range of these labels, of which it leaves 1 % outside.

        Labels outside have rewards below 0 or above 1; the mapping stays linear.
        """
        found = np.asarray(labels, np.float64)
        low, high = np.quantile(found, RANGE_QUANTILES)
        if low == high:  # nearly all are alike, such as the refusals of a helpful assistant
            low, high = found.min(), found.max()
        scale = {"minimum", "maximum", "unit_zero", "unit_one", "range_from_data"}
        return Objective(
            **self.model_dump(exclude=scale),
            minimum=float(low),
            maximum=float(high if high > low else low + 1.0),
        )

    def mirrored(self) -> Objective:
        """Return the objective on the same scale whose unit rewards are the negatives of these.

        A gate's weights are not negative: with both it can prefer either end of the scale.

        Example:
            >>> from armorm import Objective
            >>> length = Objective(name="length", minimum=0, maximum=8)
            >>> brevity = length.mirrored()
            >>> brevity.name, brevity.to_reward(6.0), brevity.to_rating(-0.75)
            ('length-reversed', -0.75, 6.0)
        """
        unit_one = 2 * self.unit_zero - self.unit_one
        return Objective(
            name=f"{self.name}-reversed",
            minimum=self.minimum,
            maximum=self.maximum,
            unit_zero=self.unit_zero,
            unit_one=unit_one,
            dataset=self.dataset,
            direction="lower" if unit_one < self.unit_zero else "higher",
            description=f"Minus the reward of {self.name}.",
            mirrors=self.name,
        )

    def validate_rating(self, value: object) -> float:
        """Return the rating as a float on this objective's scale; booleans count as 1 and 0.

        Raises:
            InputError: The value is no number, not finite, or outside ``[minimum, maximum]``.
        """
        rating = as_number(value)
        if rating is None:
            raise self._refusal(value, "a rating is a number or null", "Convert it first.")
        minimum, maximum = self.minimum, self.maximum
        if minimum <= rating <= maximum:
            return rating
        if not math.isfinite(rating):
            raise self._refusal(
                value, "a rating is finite", "Use null where the rating is missing."
            )
        slack = SCALE_SLACK * (maximum - minimum)
        if not minimum - slack <= rating <= maximum + slack:
            raise self._refusal(
                value,
                f"outside the scale {minimum:g} to {maximum:g}",
                "Correct the rating, or the objective's minimum and maximum.",
            )
        return min(max(rating, minimum), maximum)

    def _refusal(self, value: object, reason: str, remedy: str) -> InputError:
        return InputError(f"ratings.{self.name}", value, reason, remedy)

    def to_reward(self, rating: float) -> float:
        """Return a rating in the raters' units as a unit reward."""
        return (rating - self.unit_zero) / (self.unit_one - self.unit_zero)

    def to_rating(self, reward: float) -> float:
        """Return a unit reward in the raters' units; the exact inverse of :meth:`to_reward`."""
        return reward * (self.unit_one - self.unit_zero) + self.unit_zero


class ObjectiveSet(Sequence[Objective]):
    """Ordered set of objectives; the order is the order of reward columns.

    Example:
        >>> from armorm import Objective, ObjectiveSet
        >>> objectives = ObjectiveSet([Objective(name="tone", maximum=4), Objective(name="safe")])
        >>> objectives.column("safe")
        1
        >>> objectives.to_rewards({"tone": 3.0})
        array([0.75,  nan])
        >>> objectives.to_ratings([0.75, 1.0])
        array([3., 1.])

    Raises:
        RecipeError: It is empty or a name occurs twice.
    """

    def __init__(self, objectives: Iterable[Objective]) -> None:
        self._objectives = tuple(objectives)
        self._names = tuple(objective.name for objective in self._objectives)
        self._index = {name: i for i, name in enumerate(self._names)}
        if not self._objectives:
            raise RecipeError("An objective set needs at least one objective.")
        if len(self._index) != len(self._objectives):
            twice = sorted({name for name in self._names if self._names.count(name) > 1})
            raise RecipeError(f"Objective names must be unique; repeated: {', '.join(twice)}.")

    @overload
    def __getitem__(self, index: int) -> Objective: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Objective, ...]: ...
    def __getitem__(self, index: int | slice) -> Objective | tuple[Objective, ...]:
        return self._objectives[index]

    def __len__(self) -> int:
        return len(self._objectives)

    def __iter__(self) -> Iterator[Objective]:
        return iter(self._objectives)

    def __contains__(self, item: object) -> bool:
        return item in self._index or item in self._objectives

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectiveSet) and self._objectives == other._objectives

    def __hash__(self) -> int:
        return hash(self._objectives)

    def __repr__(self) -> str:
        return f"ObjectiveSet({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names in column order."""
        return self._names

    def column(self, name: str) -> int:
        """Return the column of the named objective.

        Raises:
            RecipeError: No objective has this name; the message names its neighbours.
        """
        try:
            return self._index[name]
        except KeyError:
            hint = did_you_mean(name, self.names)
            raise RecipeError(f"There is no objective {name!r}. {hint}") from None

    @property
    def computed(self) -> Mapping[str, str]:
        """Kind of label of each computed objective, by name."""
        return {
            objective.name: objective.computed
            for objective in self._objectives
            if objective.computed is not None
        }

    def computed_labels(self, response: str, count_tokens: CountTokens) -> dict[str, float]:
        """Return the labels of a response that are computed, by objective.

        Args:
            response: Text of the response.
            count_tokens: Function that counts the backbone's tokens of a text.

        Example:
            >>> from armorm import Objective, ObjectiveSet
            >>> objectives = ObjectiveSet([Objective(name="lists", computed="lists")])
            >>> objectives.computed_labels("- one", len)
            {'lists': 0.6931471805599453}
        """
        return {
            name: COMPUTED_LABELS[kind].of(response, count_tokens)
            for name, kind in self.computed.items()
        }

    def mirrored(self, name: str) -> ObjectiveSet:
        """Return the set with the reverse of one of its objectives at the end.

        Raises:
            RecipeError: No objective has this name, or one is named like the reverse.
        """
        return ObjectiveSet([*self._objectives, self[self.column(name)].mirrored()])

    def with_ranges(self, labels: Mapping[str, npt.ArrayLike]) -> ObjectiveSet:
        """Return the set in which no range is left to be taken from the data.

        Args:
            labels: Labels of the training rows, at least of the objectives that need a range.
        """
        return ObjectiveSet(
            objective.with_range(labels[objective.name]) if objective.range_from_data else objective
            for objective in self._objectives
        )

    def validate_ratings(self, ratings: object) -> dict[str, float]:
        """Return the ratings that exist, checked against their scales.

        Raises:
            InputError: There is no mapping, an unknown objective, a bad value, or nothing rated.
        """
        if not isinstance(ratings, Mapping):
            raise InputError(
                "ratings", ratings, "not an object of objective: number", "Write one per row."
            )
        rated: dict[str, float] = {}
        computed = self.computed
        for name, value in ratings.items():
            if name in computed:
                raise InputError(
                    f"ratings.{name}",
                    value,
                    f"{name} is computed from the response, not rated",
                    "Remove the rating, or rename the objective.",
                )
            if name not in self._index:
                raise InputError(
                    f"ratings.{name}",
                    value,
                    f"unknown objective {name!r}",
                    f"{did_you_mean(str(name), self.names)} Or add it to the recipe's objectives.",
                )
            if value is not None:
                rated[name] = self._objectives[self._index[name]].validate_rating(value)
        if not rated:
            raise InputError(
                "ratings", dict(ratings), "no objective is rated", "Remove the row, or rate it."
            )
        return rated

    def to_rewards(self, ratings: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return unit rewards, NaN where a rating is missing. Shape (objectives,)."""
        rewards = np.full(len(self), np.nan)
        for name, rating in ratings.items():
            column = self._index[name]
            rewards[column] = self._objectives[column].to_reward(rating)
        return rewards

    def to_ratings(self, rewards: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return unit rewards of shape (..., objectives) in the raters' units."""
        zeros = np.array([objective.unit_zero for objective in self._objectives])
        ones = np.array([objective.unit_one for objective in self._objectives])
        ratings: npt.NDArray[np.float64] = np.asarray(rewards, np.float64) * (ones - zeros) + zeros
        return ratings


def _scaled(
    dataset: str, qualities: str, minimum: float, maximum: float, **scale: Any
) -> list[Objective]:
    return [
        Objective(
            name=f"{dataset}-{quality}",
            minimum=minimum,
            maximum=maximum,
            dataset=dataset,
            direction="neutral" if quality in {"verbosity", "complexity"} else "higher",
            **scale,
        )
        for quality in qualities.split()
    ]


PAPER_OBJECTIVES = ObjectiveSet(
    [
        # The released model maps HelpSteer's points r by (r + 0.5) / 5 (authors' post, usage demo).
        *_scaled(
            "helpsteer",
            "helpfulness correctness coherence complexity verbosity",
            0,
            4,
            unit_zero=-0.5,
            unit_one=4.5,
        ),
        *_scaled("ultrafeedback", "overall_score", 1, 10),
        *_scaled("ultrafeedback", "instruction_following truthfulness honesty helpfulness", 1, 5),
        *_scaled("beavertails", "is_safe", 0, 1),
        *_scaled("prometheus", "score", 1, 5),
        *_scaled("argilla", "overall_quality", 1, 5),
        *_scaled("argilla", "judge_lm", 1, 10),
        *_scaled("code", "complexity style explanation instruction-following readability", 1, 5),
    ]
)
"""The nineteen objectives of the paper, in the released order (paper, appendix A).

Example:
    >>> from armorm import PAPER_OBJECTIVES
    >>> len(PAPER_OBJECTIVES), PAPER_OBJECTIVES.names[0]
    (19, 'helpsteer-helpfulness')
    >>> PAPER_OBJECTIVES[0].to_reward(3.0)  # the released mapping, (r + 0.5) / 5
    0.7
"""
