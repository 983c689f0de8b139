"""Commands about data: list, show, prepare, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    From,
    Json,
    Overrides,
    Quiet,
    RecipeArgument,
    SkipInvalid,
    show_progress,
)
from armorm.cli.terminal import print_json
from armorm.errors import ArmormError, RecipeError

if TYPE_CHECKING:
    from armorm.data.catalog import CatalogEntry
    from armorm.objectives import ObjectiveSet


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(
        name="data",
        help="Public datasets: list, show, prepare for training, check.",
        no_args_is_help=True,
    )
    add_command(group, list_datasets, name="list", example="armorm data list --kind rated")
    add_command(group, show, example="armorm data show helpsteer")
    add_command(
        group, prepare, example="armorm data prepare recipe.yaml -o prepared", resumable=True
    )
    add_command(group, check, example="armorm data check pairs.jsonl --against reward-bench")
    app.add_typer(group, rich_help_panel="Data and heads")


def list_datasets(
    kind: Annotated[
        Literal["rated", "preferences", "benchmark"] | None, typer.Option(help="Only of this kind.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the datasets of the catalogue."""
    from armorm.data.catalog import catalog, describe

    entries = [entry for entry in catalog().values() if kind is None or kind in entry.kinds]
    if as_json:
        print_json([describe(entry) for entry in entries])
    else:
        from armorm.cli.data_printing import print_catalog

        print_catalog(entries)


def show(
    name: Annotated[str, typer.Argument(help="Name in the catalogue, or hub id.", metavar="NAME")],
    root: From = None,
    split: Annotated[str | None, typer.Option(help="Split of the sample.")] = None,
    rows: Annotated[
        int, typer.Option(help="Rows the sample is taken from; 0: none.", min=0)
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Show a dataset: columns, scales, a sample of converted rows, histograms of its ratings.

    Where the dataset cannot be reached, the reason is printed in place of the sample.
    """
    from armorm.data.catalog import catalog_entry, describe

    entry = catalog_entry(name)
    description = {**describe(entry), "sample": _samples(entry, rows, split, root)}
    if as_json:
        print_json(description)
    else:
        from armorm.cli.data_printing import print_dataset

        print_dataset(description)


def _samples(
    entry: CatalogEntry, rows: int, split: str | None, root: Path | None
) -> dict[str, Any]:
    """Return a sample of each kind of rows, or the reason why there is none."""
    from armorm.data.catalog import sample

    kinds: list[Literal["rated", "preferences"]] = []
    if rows and entry.rated is not None:
        kinds.append("rated")
    if rows and entry.preferences is not None:
        kinds.append("preferences")
    samples: dict[str, Any] = {}
    for kind in kinds:
        try:
            samples[kind] = sample(entry, kind, rows=rows, split=split, root=root)
        except RecipeError:
            raise
        except ArmormError as error:
            # What the catalogue knows is worth showing without the data, too.
            return {"unavailable": str(error)}
    return samples


def prepare(
    recipe: RecipeArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the files.", metavar="DIR", show_default=False
        ),
    ],
    root: From = None,
    overrides: Overrides = None,
    skip_invalid: SkipInvalid = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert, validate, de-duplicate and split the data of a recipe into Parquet files.

    An interrupted preparation resumes with the source it stopped in. DIR/recipe.yaml trains on
    the result; DIR/left-out lists every skipped row and the reason.
    """
    from armorm.files import refuse_same_file
    from armorm.training import Recipe, prepare_data

    extra = ["data.invalid=skip"] if skip_invalid else []
    loaded = Recipe.load(recipe, [*(overrides or []), *extra])
    refuse_same_file(recipe, output / "recipe.yaml")
    prepared = prepare_data(loaded, output, root=root, show_progress=show_progress(quiet))
    manifest = prepared.as_dict()
    if as_json:
        print_json(manifest)
    else:
        from armorm.cli.data_printing import print_manifest

        print_manifest(manifest, output)


def check(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Rated responses or preference pairs: JSON lines (also .gz), Parquet, Arrow.",
            metavar="FILES",
            show_default=False,
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A benchmark of the catalogue (reward-bench), or a file, that the data must not "
            "contain. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    root: From = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Check ratings against the objectives of this recipe.", metavar="RECIPE"),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(help="Share of a benchmark text's 8-word runs that counts.", min=0.01, max=1),
    ] = 0.5,
    near_duplicates: Annotated[
        bool, typer.Option(help="Look for prompts that are nearly the same.")
    ] = True,
    similarity: Annotated[
        float, typer.Option(help="From which similarity they are.", min=0.5, max=1)
    ] = 0.8,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check data files: invalid rows, duplicates, prompts on both sides, contamination.

    The exit code is 3 where a row is invalid.
    """
    from armorm.data.checking import CheckOptions, check_files

    options = CheckOptions(
        against=tuple(against or ()),
        overlap=overlap,
        near_duplicates=near_duplicates,
        similarity=similarity,
        objectives=_objectives_of(recipe),
        root=root,
    )
    report = check_files(files, options, show_progress=show_progress(quiet)).as_dict()
    if as_json:
        print_json(report)
    else:
        from armorm.cli.data_printing import print_check

        print_check(report)
    if not report["valid"]:
        raise typer.Exit(3)


def _objectives_of(recipe: Path | None) -> ObjectiveSet | None:
    if recipe is None:
        return None
    from armorm.training import Recipe

    return Recipe.load(recipe).objective_set()
