"""Commands on the package's own files: recipes that come with it, and schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from armorm.cli.flags import add_command
from armorm.cli.terminal import print_json, print_line


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Files and formats"
    add_command(app, recipe, panel=panel, example="armorm recipe local-files > mine.yaml")
    add_command(app, schema, panel=panel, example="armorm schema recipe > recipe.schema.json")


def recipe(
    name: Annotated[
        str | None, typer.Argument(help="Recipe to print.", metavar="[NAME]", show_default=False)
    ] = None,
) -> None:
    """Print a recipe that comes with the package, to start from; without a name, list them."""
    from armorm.errors import RecipeError, did_you_mean
    from armorm.training.recipe_file import shipped_recipes

    files = shipped_recipes()
    if name is None:
        for known, file in files.items():
            print_line(f"{known:<18} {_first_sentence(file.read_text(encoding='utf-8'))}")
    elif name in files:
        typer.echo(files[name].read_text(encoding="utf-8"), nl=False)
    else:
        raise RecipeError(f"The package has no recipe {name!r}. {did_you_mean(name, files)}")


def _first_sentence(text: str) -> str:
    """Return the first sentence of the comment that describes a recipe."""
    comment = (line[2:] for line in text.splitlines() if line.startswith("# "))
    words = " ".join(line for line in comment if not line.startswith("yaml-language-server"))
    return words.partition(". ")[0].partition(": ")[0] + "."


def schema(
    of: Annotated[
        Literal["recipe", "model"],
        typer.Argument(help="recipe, or model for armorm.json of a model folder.", metavar="OF"),
    ],
) -> None:
    """Print the JSON Schema of recipes or of armorm.json, for editors and other programs."""
    print_json(SCHEMAS[of]())


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes."""
    from armorm.settings import json_schema
    from armorm.training import Recipe

    return json_schema(Recipe, "A recipe of armorm")


def model_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``armorm.json``."""
    from armorm.model.layout import Metadata
    from armorm.settings import json_schema

    return json_schema(Metadata, "armorm.json of a model folder")


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"recipe": recipe_schema, "model": model_schema}
