"""Write docs/options.md from the options classes: keys of a recipe, flags of `armorm serve`.

Run it after a change of an option: python scripts/build_options_page.py
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from armorm import Recipe
from armorm.evaluation.monitoring import MonitorOptions, ReportingOptions
from armorm.serving.options import BatchingOptions, ReplicaOptions, ServerOptions
from armorm.settings import Options, Setting, settings_of

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

INTRODUCTION = """\
<!-- Made by scripts/build_options_page.py: change the options classes, not this file. -->
# Options

Every key of a [recipe](recipes.md), with its default and its bounds. `--set gate.steps=500` sets a
key on the command line; an element of a list is named by its position: `data.rated.0.limit=1000`.
Python functions take the same classes: `fit_gate(pairs, GateOptions(steps=500))`.
"""

SERVER = """\
## The reward server

Flags of [`armorm serve`](serving.md): `max_body_mb` is `--max-body-mb`. In Python they are
`ServerOptions(…)` and `BatchingOptions(…)` of `armorm.serving`. `ReplicaOptions` are the keys
`replicas` on [Ray Serve](deployment.md#ray-serve).
"""

MONITOR = """\
## The drift monitor

Flags of [`armorm monitor`](monitoring.md); those of `armorm serve` begin with `--monitor-`.
"""

NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Path: "path",
}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
"""In the order in which a reader expects them."""


def page() -> str:
    """Return the page."""
    sections: dict[type[Options], list[str]] = {}
    for place, options in _sections(Recipe, ""):
        places = sections.setdefault(options, [])
        if place not in places:
            places.append(place)
    parts = [INTRODUCTION]
    for options, places in sections.items():
        title = ", ".join(f"`{place}`" for place in places if place) or "The recipe"
        parts.append(f"## {title}\n\n{_introduction(options)}\n\n{_table(options)}\n")
    parts.append(SERVER)
    for options in (ServerOptions, BatchingOptions, ReplicaOptions):
        title = f"`{options.__name__}`"
        parts.append(f"### {title}\n\n{_introduction(options)}\n\n{_table(options)}\n")
    parts.append(MONITOR)
    for options in (MonitorOptions, ReportingOptions):
        parts.append(f"### `{options.__name__}`\n\n{_introduction(options)}\n\n{_table(options)}\n")
    return "\n".join(parts)


def _sections(options: type[Options], place: str) -> Iterator[tuple[str, type[Options]]]:
    """Yield the class of each section with its key, in the order of their declaration."""
    yield place, options
    for setting in settings_of(options):
        if setting.section is not None:
            key = f"{place}.{setting.name}" if place else setting.name
            yield from _sections(setting.section, key)


def _introduction(options: type[Options]) -> str:
    """Return the docstring of a class up to its first heading."""
    lines = []
    for line in inspect.getdoc(options).splitlines():  # type: ignore[union-attr]
        if line in ("Example:", "Attributes:"):
            break
        lines.append(line)
    return "\n".join(lines).strip().replace("``", "`")


def _table(options: type[Options]) -> str:
    rows = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for setting in settings_of(options):
        cells = (f"`{setting.name}`", _values(setting), _default(setting), setting.help)
        rows.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in cells) + " |"
        )
    return "\n".join(rows)


def _values(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    bounds = ", ".join(
        f"{sign} {setting.bounds[name]:,}" for name, sign in SIGNS.items() if name in setting.bounds
    )
    return f"{_kind(setting.type)}{f', {bounds}' if bounds else ''}"


def _kind(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if arguments:  # a union
        return " or ".join(_kind(argument) for argument in arguments)
    return NAMES.get(kind, "section" if issubclass(kind, Options) else kind.__name__)


def _default(setting: Setting) -> str:
    default = setting.default
    if default is ...:
        return "required"
    if isinstance(default, Options) or default in (None, "", {}):
        return ""
    if isinstance(default, float) and math.isnan(default):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return ", ".join(f"`{_number(value)}`" for value in default)
    return f"`{_number(default)}`"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
