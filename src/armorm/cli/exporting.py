"""The command that hands a model to others: a folder, and on request a hub repository."""

from __future__ import annotations

from typing import Annotated

import typer

from armorm.cli.flags import Flags, add_command
from armorm.cli.options import Json, Loading, ModelArgument, OutputFolder, Profile, Steer
from armorm.cli.terminal import print_json, print_line


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add_command(
        app,
        export,
        panel="Hand over",
        example="armorm export runs/quickstart/model -o exported --license apache-2.0",
    )


def export(
    model: ModelArgument,
    output: OutputFolder,
    *,
    loading: Annotated[
        Loading, Flags("revision", "dtype", "verify", panel="Model", dtype="stored")
    ],
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="For the model card: apache-2.0, llama3 …", metavar="ID"),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Also upload the folder to this hub repository.", metavar="REPO"),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A repository made by --push-to-hub is public.")
    ] = False,
    steer: Steer = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Write a model as a folder that transformers loads without this package.

    Writes weights, config, tokenizer, modelling file and model card to DIR. The released
    checkpoint, which transformers 5 cannot load, becomes loadable by this. Steering
    becomes part of the weights; floors and risk of a profile stay in the folder, for
    this package.
    """
    from armorm.data.licences import non_commercial
    from armorm.model.card import recorded_licences

    loaded = loading.model_copy(update={"device": "cpu"}).load(model, steer, profile)
    loaded.save_pretrained(output, license_id=license_id)
    address = None
    if push_to_hub is not None:
        address = loaded.push_to_hub(push_to_hub, license_id=license_id, private=not public)
    if restricted := non_commercial(recorded_licences(loaded.heads.training)):
        sources = ", ".join(f"{name} ({found})" for name, found in restricted.items())
        print_line(f"Not for commercial use: it was trained on {sources}.", error=True)
    if as_json:
        print_json({"folder": str(output), "uploaded": address})
        return
    print_line(f"{output} loads with AutoModelForSequenceClassification (trust_remote_code=True).")
    if address is not None:
        print_line(f"Uploaded: {address}")
