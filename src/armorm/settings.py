"""Base class of the option classes, and their fields as data.

An option is declared once, as a field of an :class:`Options` class beside the code that uses it.
A section of a recipe is such a class, Python functions take it, the command line derives its flags
from :func:`settings_of`, and ``docs/options.md`` is generated from the same.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from armorm.errors import RecipeError, did_you_mean, shorten

_Model = TypeVar("_Model", bound=BaseModel)


class Options(BaseModel):
    """Base class of options: immutable, finite, and an unknown name is an error.

    The help of a field is the string literal under it.

    Example:
        >>> from pydantic import Field
        >>> class BakingOptions(Options):
        ...     minutes: int = Field(default=30, ge=1)
        ...     "Time in the oven."
        >>> BakingOptions(minutes=45).minutes
        45
        >>> BakingOptions.validated({"minuets": 45})
        Traceback (most recent call last):
        armorm.errors.RecipeError: minuets: unknown key. Did you mean 'minutes'?
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: Any) -> Any:
        """Refuse true and false where a number is asked for, which pydantic takes as 1 and 0."""
        members = _members(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in members and {int, float} & set(members):
            raise ValueError("not a number")
        return value

    @classmethod
    def validated(cls: type[_Model], values: Mapping[str, Any], place: str = "") -> _Model:
        """Return the options that a mapping describes.

        Args:
            values: The fields by name.
            place: File or command the values come from, for messages.

        Raises:
            RecipeError: a name is unknown or a value is wrong; the message has a line for each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "\n  ".join(describe_problems(error, cls))
            raise RecipeError(f"{place}:\n  {problems}" if place else problems) from None


@dataclass(frozen=True)
class Setting:
    """A field of an options class.

    Attributes:
        name: Name of the field.
        type: Its type, ``None`` taken out of a union.
        optional: ``None`` is allowed.
        default: Its default; ``...`` where it has none.
        help: Its docstring, on one line.
        choices: The allowed values of a literal type, else empty.
        bounds: Bounds by the names of ``annotated_types``: ``ge``, ``gt``, ``le``, ``lt``.
    """

    name: str
    type: Any
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    bounds: Mapping[str, float]

    @property
    def section(self) -> type[Options] | None:
        """The options class, where the field is a section."""
        return next(iter(_models_in(self.type, Options)), None)


def settings_of(options: type[Options]) -> Iterator[Setting]:
    """Yield the fields of an options class, in the order of their declaration."""
    for name, field in options.model_fields.items():
        yield _setting(name, field)


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the type alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _setting(name: str, field: FieldInfo) -> Setting:
    members = _members(field.annotation)
    shown = [member for member in members if member is not type(None)]
    kind = shown[0] if len(shown) == 1 else typing.Union[tuple(shown)]  # noqa: UP007
    bounds = {
        bound: getattr(constraint, bound)
        for constraint in field.metadata
        for bound in ("ge", "gt", "le", "lt")
        if hasattr(constraint, bound)
    }
    return Setting(
        name=name,
        type=kind,
        optional=len(shown) < len(members),
        default=... if field.is_required() else field.get_default(call_default_factory=True),
        help=" ".join((field.description or "").split()),
        choices=typing.get_args(kind) if typing.get_origin(kind) is Literal else (),
        bounds=bounds,
    )


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line for each problem, with the nearest known names of an unknown one."""
    problems = error.errors(include_url=False)
    return [_describe(one, model) for one in problems if not _is_of_other_kind(one, problems)]


def _is_of_other_kind(problem: Any, problems: Sequence[Any]) -> bool:
    """Return true for a list or mapping that is no text, where its content is what is wrong.

    Where a field takes a text or a structure, pydantic reports why it is neither.
    """
    *parent, kind = problem["loc"] or ("",)
    return (
        kind == "str"
        and isinstance(problem["input"], (list, tuple, Mapping))
        and any(
            one is not problem and list(one["loc"][: len(parent)]) == parent for one in problems
        )
    )


def _describe(problem: Any, model: type[BaseModel]) -> str:
    location = problem["loc"]
    # The members of a union, such as tuple[…] and function-after[…], are no part of the recipe.
    place = ".".join(str(part) for part in location if "[" not in str(part) and part != "str")
    if problem["type"] == "extra_forbidden":
        section = _model_at(location[:-1], model)
        hint = did_you_mean(str(location[-1]), section.model_fields) if section else ""
        return f"{place}: unknown key. {hint}"
    if problem["type"] == "missing":
        return f"{place}: required."
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place or model.__name__} = {shorten(problem['input'])}: {message}"


def _model_at(location: Sequence[int | str], model: type[BaseModel]) -> type[BaseModel] | None:
    """Return the class that a location of a validation error points into."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is not None and part in current.model_fields:
            annotation = current.model_fields[str(part)].annotation
            current = next(iter(_models_in(annotation, BaseModel)), None)
    return current


class _ReadableSchema(GenerateJsonSchema):
    """JSON Schema for editors: descriptions in plain text, no generated titles, strict JSON."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave out titles that repeat the name of a key."""
        del schema
        return False

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Leave out a default that JSON cannot express, of a key that follows from others."""
        default = schema.get("default")
        if isinstance(default, float) and not math.isfinite(default):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def json_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the mappings that a class validates.

    It says what a key may hold by itself; rules on several keys are the class's alone.

    Args:
        model: The class.
        title: Title of the schema.

    Example:
        >>> from pydantic import Field
        >>> class BakingOptions(Options):
        ...     minutes: int = Field(default=30, ge=1)
        ...     "Time in the oven."
        >>> json_schema(BakingOptions, "Baking")["properties"]["minutes"]["minimum"]
        1
    """
    schema = model.model_json_schema(schema_generator=_ReadableSchema)
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title", None)
        _clean_descriptions(part)
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": title, **schema}


def _clean_descriptions(part: dict[str, Any]) -> None:
    """Turn docstrings into plain text on one line, without their examples."""
    for described in (part, *part.get("properties", {}).values()):
        if "description" in described:
            text = inspect.cleandoc(described["description"]).partition("\n\nExample:")[0]
            described["description"] = " ".join(text.replace("``", "`").split())


def _models_in(annotation: Any, base: type[_Model]) -> list[type[_Model]]:
    if isinstance(annotation, type) and issubclass(annotation, base):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner, base)]
