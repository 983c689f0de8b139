"""Commands on the package's own files: recipes that come with it, schemas, and migration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import Json, hide_library_progress
from armorm.cli.terminal import print_json, print_line


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Files and formats"
    add_command(app, recipe, panel=panel, example="armorm recipe local-files > mine.yaml")
    add_command(app, migrate, panel=panel, example="armorm migrate runs/quickstart/model")
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


def migrate(
    path: Annotated[
        Path,
        typer.Argument(
            help="Model folder, run folder or feature store.", metavar="PATH", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="New folder. Default: PATH.migrated.", show_default=False
        ),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace PATH when all of it is converted.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say which versions PATH is written in.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a folder of an older version of armorm in the present formats.

    Nothing is written where it is current, or where a part cannot be converted.
    """
    from armorm import migration

    hide_library_progress()
    if check:
        done = migration.Migration(migration.inspect(path))
    else:
        done = migration.migrate(path, output, in_place=in_place)
    if as_json:
        print_json(done.as_dict())
        return
    for part in done.parts:
        state = "current" if part.is_current else f"older than {part.current}"
        print_line(f"{part.file}: {part.format}, format {part.version}, {state}")
        for note in filter(None, (part.obstacle, *part.notes)):
            print_line(f"  {note}")
    if done.output is not None:
        print_line(f"Written to {done.output}.")


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
