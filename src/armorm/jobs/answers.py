"""Answers of a worker: results and deliberate errors, as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from armorm import errors
from armorm.errors import ArmormError, InputError


def answer(make: Callable[[], dict[str, Any]]) -> str:
    """Return the result as JSON, or the error of this package that came instead of it."""
    try:
        return json.dumps({"result": make()})
    except InputError as error:
        return json.dumps({"error": {"type": "InputError", "fields": error.as_dict()}})
    except ArmormError as error:
        return json.dumps({"error": {"type": type(error).__name__, "message": str(error)}})
    except OSError as error:
        message = f"A worker could not read or write: {error}. What is done stays."
        return json.dumps({"error": {"type": "ArmormError", "message": message}})


def result_of(text: str) -> dict[str, Any]:
    """Return the result that was sent.

    Raises:
        ArmormError: the worker's, of the same type and with the same message.
    """
    content: dict[str, Any] = json.loads(text)
    if "error" not in content:
        result: dict[str, Any] = content["result"]
        return result
    error = content["error"]
    if error["type"] == "InputError":
        fields = error["fields"]
        raise InputError(**{**fields, "value": _Shown(fields["value"])})
    kind = getattr(errors, error["type"], ArmormError)
    raise (kind if kind in _MADE_OF_A_MESSAGE else ArmormError)(error["message"])


_MADE_OF_A_MESSAGE = {
    errors.RecipeError,
    errors.TemplateError,
    errors.StoreError,
    errors.CheckpointError,
}


class _Shown(str):
    """Value of which only the text is known."""

    def __repr__(self) -> str:
        return str(self)
