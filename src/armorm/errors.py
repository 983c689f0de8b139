"""Errors that say what was wrong, where, and what to do about it.

Every error this package raises on purpose derives from :class:`ArmormError`, so a caller can
catch one type, and the command line can turn it into a message and an exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


class ArmormError(Exception):
    """Base class of all deliberate errors of this package.

    Example:
        >>> from armorm import ArmormError, Backbone
        >>> try:
        ...     Backbone.from_pretrained("no/such-folder", dtype="float31")
        ... except ArmormError as error:
        ...     print(str(error)[:34])
        dtype = 'float31': Input should be
    """


class RecipeError(ArmormError, ValueError):
    """A recipe or an override that cannot be used as written."""


class TemplateError(ArmormError, ValueError):
    """A chat template that cannot be rendered, or not be split at the end of the prompt."""


class StoreError(ArmormError, RuntimeError):
    """A feature store that is damaged, incomplete, or made by something else."""


class CheckpointError(ArmormError, RuntimeError):
    """A model folder that is not a complete gated reward model."""


class OutputError(ArmormError, OSError):
    """An output that cannot be written: a full disk, a name that is taken, no permission."""


class DamagedFileError(ArmormError, ValueError):
    """A file of this package that cannot be read, or does not hold what it should."""


class MissingExtraError(ArmormError, ImportError):
    """An optional dependency that the requested feature needs is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'armorm[{extra}]'")


@dataclass(eq=False)
class InputError(ArmormError, ValueError):
    """One invalid value in the input, named by file, row, field and value.

    Example:
        >>> from armorm import InputError
        >>> error = InputError("ratings.tone", 9, "outside the scale 0 to 4", "Correct the rating.")
        >>> print(error.at("rated.jsonl", 3))
        rated.jsonl, row 3: ratings.tone = 9: outside the scale 0 to 4. Correct the rating.

    Attributes:
        field: Path of the field inside the row, such as ``messages[2].content``.
        value: The offending value (shortened when shown).
        reason: What is wrong with it.
        remedy: What the user can do.
        file: The file or dataset the row came from, if any.
        row: One-based line or row number in that file.
    """

    field: str
    value: Any
    reason: str
    remedy: str
    file: str | None = None
    row: int | None = None

    def at(self, file: str | None, row: int | None) -> InputError:
        """Return the same error, located in a file; row 0 is the file as a whole."""
        return replace(self, file=file, row=row or None)

    def within(self, prefix: str) -> InputError:
        """Return the same error, with the field path seen from an enclosing field."""
        separator = "" if self.field.startswith("[") or not self.field else "."
        return replace(self, field=f"{prefix}{separator}{self.field}")

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record, one line of an ``invalid.jsonl`` file."""
        return {
            "file": None if self.file is None else _printable(self.file),
            "row": self.row,
            "field": _printable(self.field),
            "value": shorten(self.value),
            "reason": _printable(self.reason),
            "remedy": _printable(self.remedy),
        }

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}"
        if self.row is not None:
            where += f"{', ' if where else ''}row {self.row}"
        prefix = f"{where}: " if where else ""
        text = f"{prefix}{self.field} = {shorten(self.value)}: {self.reason}. {self.remedy}"
        return _printable(text).rstrip()


@dataclass(eq=False)
class NonFiniteError(InputError):
    """Conversations whose score is NaN or infinite.

    Attributes:
        positions: Their zero-based positions among all that were scored together.
    """

    positions: tuple[int, ...] = ()


class SkippedRowError(InputError):
    """Row that a rule of its dataset skips, such as a tie.

    It is counted and listed like an invalid row, but is never a reason to stop.
    """


def _printable(text: str) -> str:
    """Return text that any terminal and file can take: names of fields come from the data."""
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(value: Any, limit: int = 80) -> str:
    """Return ``repr(value)``, cut in the middle to at most ``limit`` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or nested too deeply
        text = f"<{type(value).__name__}>"
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest known names, or all of them when none is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"Known: {', '.join(names)}."
