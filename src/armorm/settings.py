"""Base class of every set of options, and readable errors for wrong ones.

An option is declared once: a field of an :class:`Options` class next to the code that uses it,
with its type, bounds, default and help text. The recipe section is that class, the Python function
takes it, the command line derives its flags from it, and ``docs/options.md`` is generated from it.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from armorm.errors import did_you_mean, shorten


class Options(BaseModel):
    """Base class of options: immutable and finite; an unknown name is an error.

    The string literal under a field is its help text.

    Example:
        >>> from pydantic import Field
        >>> class BakingOptions(Options):
        ...     minutes: int = Field(default=30, ge=1)
        ...     "Time in the oven."
        >>> BakingOptions().minutes
        30
        >>> BakingOptions.model_fields["minutes"].description
        'Time in the oven.'
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one sentence per problem, with the field's path, its value and the nearest names.

    Args:
        error: Error that validating the model raised.
        model: Model that was validated; its fields are what an unknown name is compared with.
    """
    return [_describe(problem, model) for problem in error.errors(include_url=False)]


def _describe(problem: Any, model: type[BaseModel]) -> str:
    location = problem["loc"]
    where = ".".join(str(part) for part in location) or model.__name__
    if problem["type"] == "extra_forbidden":
        section = _model_at(location[:-1], model)
        hint = did_you_mean(str(location[-1]), section.model_fields) if section else ""
        return f"{where}: unknown key. {hint}".rstrip()
    if problem["type"] == "missing":
        return f"{where}: required."
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where} = {shorten(problem['input'])}: {message}"


def _model_at(location: Sequence[int | str], model: type[BaseModel]) -> type[BaseModel] | None:
    """Return the model class that a location of a validation error points into."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = current.model_fields.get(part)
        models = [] if field is None else _models_in(field.annotation)
        current = models[0] if models else None
    return current


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
