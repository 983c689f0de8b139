"""Commands on steering: fit it to choices, save profiles with a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from armorm.cli.flags import add_command
from armorm.cli.options import (
    FileLoading,
    Json,
    ModelArgument,
    Profile,
    Steer,
    parse_steering,
)
from armorm.cli.terminal import make_console, print_json, print_line
from armorm.files import check_output_file

if TYPE_CHECKING:
    from armorm.evaluation.accuracy import Accuracy
    from armorm.evaluation.choices import SteeringFit


console = make_console()

ModelFolder = Annotated[
    Path, typer.Argument(help="Model folder.", metavar="DIR", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(
        name="steer",
        help="Weights of the objectives: fit them to your choices, save them as profiles.",
        no_args_is_help=True,
    )
    add_command(group, fit, example="armorm steer fit runs/quickstart/model pairs.jsonl")
    add_command(group, save, example="armorm steer save runs/quickstart/model cautious.yaml")
    add_command(
        group, list_profiles, name="list", example="armorm steer list runs/quickstart/model"
    )
    add_command(
        group,
        rescore,
        example="armorm steer rescore scored.jsonl -o steered.jsonl --profile cautious.yaml",
    )
    app.add_typer(group, rich_help_panel="Judge")


def fit(
    model: ModelArgument,
    pairs: Annotated[
        Path,
        typer.Argument(
            help="Pairs that you have judged: `prompt`, `chosen` and `rejected`, or whole "
            "conversations. 20 to 200 are enough.",
            metavar="PAIRS",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Also write the weights as a profile, a YAML file named after it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    *,
    loading: FileLoading,
    as_json: Json = False,
) -> None:
    """Fit weights of the objectives to pairs that you have judged, shrunk to the gate.

    Prints how much each objective counts, with its interval, the accuracy on pairs that were not
    fitted, and the --steer options that score so.
    """
    from armorm.data import DataSource, read_preferences
    from armorm.evaluation.choices import fit_steering
    from armorm.model import SteeringProfile

    if output is not None:
        SteeringProfile(name=output.stem)  # refused before the work
        check_output_file(output)
    rows = list(read_preferences([DataSource(path=str(pairs))]).rows)
    found = fit_steering(loading.load(model), rows)
    if output is not None:
        about = f"Fitted to {found.pairs} choices of {pairs.name}."
        profile = SteeringProfile(name=output.stem, description=about, steering=found.steering)
        profile.write(output)
    if as_json:
        print_json(found.as_dict())
    else:
        print_fit(found)


def save(
    model: ModelFolder,
    profile: Annotated[
        Path, typer.Argument(help="Profile, a YAML file.", metavar="PROFILE", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Save a profile with a model, in the place of one of its name.

    Checks it against the model and writes DIR/profiles/NAME.yaml: every command then takes
    --profile NAME, and a server offers it to requests.
    """
    from armorm.model import SteeringProfile
    from armorm.model.saved_heads import SavedHeads

    given = SteeringProfile.read(profile)
    file = SavedHeads.in_folder(model).save(given)
    if as_json:
        print_json({"file": str(file), **given.reference})
    else:
        print_line(f"{file}: profile {given.name} ({given.hash})")


def list_profiles(model: ModelFolder, as_json: Json = False) -> None:
    """List the profiles that are saved with a model.

    Nothing is written.
    """
    from armorm.model.saved_heads import SavedHeads

    profiles = SavedHeads.in_folder(model).profiles
    if as_json:
        print_json({name: {**one.as_dict(), "hash": one.hash} for name, one in profiles.items()})
        return
    for profile in profiles.values():
        print_line(f"{profile.name} ({profile.hash})  {profile.description}".rstrip())
    if not profiles:
        print_line("The model has no profiles. Save one: armorm steer save DIR PROFILE.yaml")


def rescore(
    source: Annotated[
        Path,
        typer.Argument(
            help="What `armorm score` or `armorm annotate` wrote.",
            metavar="SCORED",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines.", metavar="OUT", show_default=False)
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model that scored the rows. Default: its debiasing is recovered "
            "from the rows, where they determine it.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    steer: Steer = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Steer scored rows again, without the model's weights and without torch.

    Each row is written with its scores and coefficients under the steering, in place of those it
    was scored with; without --steer and --profile, without any.
    """
    from armorm.model import Steering
    from armorm.model.profiles import named_profile
    from armorm.model.resteering import resteer_file
    from armorm.model.saved_heads import SavedHeads

    saved = None if model is None else SavedHeads.in_folder(model)
    judging = parse_steering(steer, profile)
    if isinstance(judging, str):
        judging = named_profile({} if saved is None else saved.profiles, judging)
    rows = resteer_file(source, output, judging or Steering(), saved)
    if as_json:
        print_json({"rows": rows, "output": str(output)})
    else:
        print_line(f"{output}: {rows:,} rows")


def print_fit(found: SteeringFit) -> None:
    """Print what each objective counts, what that is worth, and how to score so."""
    table = Table(title=f"What counts in {found.pairs} choices")
    for name in ("objective", "gate", "you", "90 % interval", ""):
        table.add_column(name, justify="left" if name in ("objective", "") else "right")
    for one in found.counts:
        table.add_row(
            escape(one.objective),
            f"{one.gate:+.4f}",
            f"{one.coefficient:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            "differs" if one.differs else "",
        )
    console.print(table)
    console.print(
        f"Accuracy on pairs not fitted: {_percent(found.accuracy)}; "
        f"of the gate: {_percent(found.gate_accuracy)}."
    )
    if found.unchanged:
        console.print("The choices agree with the gate: they ask for no other weights.")
    items = [f"{name}={value:g}" for name, value in found.steering.factors.items()]
    items += [f"add.{name}={value:g}" for name, value in found.steering.add.items()]
    console.print("Score so with: " + escape(" ".join(f"--steer {item}" for item in items)))


def _percent(accuracy: Accuracy) -> str:
    if accuracy.accuracy is None or accuracy.low is None or accuracy.high is None:
        return "unknown"
    return f"{accuracy.accuracy:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"
