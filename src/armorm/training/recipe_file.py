"""Recipe files: strict YAML, recipes that come with the package, and overrides of single keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from armorm.errors import RecipeError, shorten

MOST_VALUES = 100_000
"""Values in a recipe; aliases of aliases could stand for billions."""

SHIPPED = Path(__file__).parents[1] / "recipes"
"""Recipes of the package, a link to ``recipes/`` in a checkout."""


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name.

    Example:
        >>> from armorm.training import shipped_recipes
        >>> list(shipped_recipes())
        ['armorm-llama3-8b', 'chain', 'local-files', 'quickstart', 'smollm2']
    """
    return {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, of which PyYAML would keep the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in seen:
                        raise yaml.constructor.ConstructorError(
                            "while reading a mapping",
                            node.start_mark,
                            f"the key {key.value!r} stands twice",
                            key.start_mark,
                        )
                    seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        path: A file, or the name of a recipe that comes with the package.

    Raises:
        RecipeError: The file cannot be read, is not UTF-8 or YAML, has a key twice, is nested too
            deeply, or is no mapping.
    """
    shipped = shipped_recipes()
    try:
        text = (path if path.is_file() else shipped.get(str(path), path)).read_bytes().decode()
    except (OSError, ValueError) as error:
        names = f" Recipes of the package: {', '.join(shipped)}."
        is_name = path.suffix == "" and len(path.parts) == 1
        raise RecipeError(f"{path} cannot be read: {error}.{names if is_name else ''}") from error
    content = _parse(text, str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe: it must be a mapping of sections.")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise RecipeError(f"{path}: the key {odd[0]!r} is no text. Put it in quotation marks.")
    return content


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one key of a recipe's content.

    Args:
        content: Content of a recipe; it is changed.
        override: ``section.key=value`` with a YAML value; positions in lists are numbers.

    Raises:
        RecipeError: The override is malformed, or leads through a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}: write it as section.key=value.")
    value = _parse(text, f"--set {override}")
    *path, last = key.split(".")
    place: Any = content
    for step in path:
        if isinstance(place, list):
            place = place[_list_position(place, step, override)]
        else:
            if place.get(step) is None:  # also a section written as null, or left empty
                place[step] = {}
            place = place[step]
        if not isinstance(place, dict | list):
            raise RecipeError(f"--set {override}: {step!r} holds a value, not a section.")
    place[_list_position(place, last, override) if isinstance(place, list) else last] = value


def _parse(text: str, what: str) -> Any:
    try:
        content = yaml.load(text, Loader=_StrictLoader)
        _check_size(content, what)
    except RecursionError:
        raise RecipeError(f"{what} is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{what} is not valid YAML: {error}") from error
    return content


def _check_size(content: Any, what: str) -> None:
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > MOST_VALUES:
            raise RecipeError(f"{what} holds more than {MOST_VALUES:,} values.")
        if isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            pending += value
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise RecipeError(f"{what}: {shorten(value)} holds half a character.") from None


def _list_position(items: list[Any], step: str, override: str) -> int:
    if not (step.isascii() and step.isdigit()) or len(step) > 9 or int(step) >= len(items):
        raise RecipeError(f"--set {override}: {step!r} is not a position in 0 to {len(items) - 1}.")
    return int(step)
