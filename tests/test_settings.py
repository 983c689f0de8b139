"""Options: errors name the field and its neighbours, and fields are data for flags and docs."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

import pytest
from pydantic import Field

from armorm.errors import RecipeError
from armorm.settings import Options, settings_of


class Inner(Options):
    """Options of a part."""

    rate: float = Field(default=0.5, gt=0, le=1)
    """Rate of the part,
    on two lines."""


class Outer(Options):
    """Options of the whole."""

    part: Inner = Inner()
    """The part."""
    steps: int | None = Field(default=None, ge=1)
    """Steps."""
    mode: Literal["fast", "slow"] = "fast"
    """Speed."""
    name: str
    """Name."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "part": {"rat": 1}}, "part.rat: unknown key. Did you mean 'rate'?"),
        ({"name": "x", "part": {"rate": 2}}, "part.rate = 2: Input should be less than or equal"),
        ({"name": "x", "part": {"rate": float("nan")}}, "part.rate = nan: "),
        ({"name": "x", "steps": True}, "steps = True: not a number"),
        ({}, "name: required."),
        ({"name": "x", "mode": "quick"}, "mode = 'quick': Input should be 'fast' or 'slow'"),
    ],
)
def test_errors_name_the_field_and_what_is_wrong(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Outer.validated(values, "a.yaml")
    assert str(caught.value).startswith("a.yaml:\n  ")
    assert message in str(caught.value)


def test_fields_as_data() -> None:
    part, steps, mode, name = settings_of(Outer)
    assert part.section is Inner
    assert (steps.type, steps.optional, steps.default, steps.bounds) == (int, True, None, {"ge": 1})
    assert mode.choices == ("fast", "slow")
    assert mode.section is None
    assert name.default is ...
    (rate,) = settings_of(Inner)
    assert rate.help == "Rate of the part, on two lines."
    assert rate.bounds == {"gt": 0, "le": 1}


def test_names_of_the_package_are_imported_when_used() -> None:
    script = "import sys, armorm; assert 'torch' not in sys.modules; armorm.Objective; dir(armorm)"
    subprocess.run([sys.executable, "-c", script], check=True)
