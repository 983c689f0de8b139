"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armorm.cli.flags import Flags
from armorm.cli.terminal import print_json
from armorm.errors import RecipeError
from armorm.features.options import BackboneOptions

if TYPE_CHECKING:
    from armorm.evaluation.scoring import ModelSettings, ScoringSummary
    from armorm.jobs.pools import Workers
    from armorm.model import RewardModel, Steering, SteeringProfile

TEXT_HELP = "Text, or @FILE."

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        help="Recipe: a YAML file, or the name of a recipe of the package, such as quickstart.",
        metavar="RECIPE",
        show_default=False,
    ),
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Run folder.", metavar="DIR", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a recipe key: gate.steps=500.", metavar="KEY=VALUE"),
]
ModelArgument = Annotated[
    str, typer.Argument(help="Model folder or hub id.", metavar="MODEL", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Also write a page to this file: the same in pictures, with sliders. It loads "
        "nothing from outside.",
        metavar="FILE",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
SkipInvalid = Annotated[
    bool, typer.Option("--skip-invalid", help="Count and list bad rows instead of stopping.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Read hub datasets from here, laid out as on the hub: DIR/<org>/<dataset>/…",
        metavar="DIR",
        show_default=False,
    ),
]
Where = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--on",
        help="Where the work runs: in this process, or shared among Ray workers on this machine "
        "or a cluster.",
        rich_help_panel="Workers",
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Number of workers (--on ray). Default: one for each GPU; without any, one for each "
        "machine.",
        show_default=False,
        rich_help_panel="Workers",
    ),
]
WorkerGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs of each worker (--on ray), also 2 or 0.5.",
        show_default=False,
        rich_help_panel="Workers",
    ),
]
Steer = Annotated[
    list[str] | None,
    typer.Option(
        help="Factor on the gate: helpsteer-coherence=0. Also weights.NAME=1, mixture=0.5, "
        "debiasing=0, debiasing.NAME=0.5, add.NAME=0.1, renormalise=true. Repeatable.",
        metavar="[SETTING.]NAME=NUMBER",
        rich_help_panel="Model",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Steering profile in place of --steer: one that is saved with the model, or a YAML "
        "file.",
        metavar="NAME|FILE",
        show_default=False,
        rich_help_panel="Model",
    ),
]


class Loading(BackboneOptions):
    """Loading of a reward model by a command."""

    verify: bool = True
    """Score the conversation that was saved with the model, and refuse the model if the score
    differs."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :meth:`armorm.RewardModel.from_pretrained` besides the name."""
        return self.model_dump(exclude_unset=True)

    def load(
        self, name: str, steer: list[str] | None = None, profile: str | None = None
    ) -> RewardModel:
        """Load a model and steer it."""
        from armorm.model import RewardModel

        hide_library_progress()
        steering = parse_steering(steer, profile)
        return RewardModel.from_pretrained(name, **self.arguments()).steer_by(steering)

    def judge(
        self, name: str, steer: list[str] | None, profile: str | None, workers: Workers | None
    ) -> RewardModel | ModelSettings:
        """Return the model that works on rows: loaded here, or described for workers on Ray."""
        from armorm.evaluation.scoring import ModelSettings

        if workers is None:
            return self.load(name, steer, profile)
        return ModelSettings(name, self.arguments(), parse_steering(steer, profile))


def show_progress(quiet: bool) -> bool:
    """Return true unless ``--quiet``: a bar on a terminal, else a line every half minute."""
    return not quiet


_TEXT = ("revision", "device", "dtype", "verify")
_FILES = (*_TEXT, "max_length", "overlong", "batch_tokens", "engine", "engine_options")

TextLoading = Annotated[Loading, Flags(*_TEXT, panel="Model")]
"""Loading of a model that judges one text."""

FileLoading = Annotated[Loading, Flags(*_FILES, panel="Model", overlong="error")]
"""Loading of a model that judges files, whose rows must all be readable."""

BenchmarkLoading = Annotated[Loading, Flags(*_FILES, panel="Model")]
"""Loading of a model that is evaluated on the pairs that it can read."""


def ray_workers(place: str, count: int | None, gpus: float | None) -> Workers | None:
    """Return the workers if the work runs on Ray.

    Raises:
        RecipeError: workers are described, but the work runs in this process.
    """
    if place == "ray":
        from armorm.jobs.pools import Workers

        return Workers(count, gpus)
    if (count, gpus) != (None, None):
        raise RecipeError("--workers and --worker-gpus need --on ray.")
    return None


def hide_library_progress() -> None:
    """Turn off the progress bars of transformers, whose loading and saving is quick."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def text_or_file(value: str) -> str:
    """Return the text itself, or for ``@file`` the contents of the file."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{value}: cannot be read: {error}") from error


def report_scoring(summary: ScoringSummary, output: Path, as_json: bool) -> None:
    """Print how many rows of a file were scored and skipped."""
    if as_json:
        print_json(summary.as_dict())
    else:
        from armorm.cli.printing import print_scoring

        print_scoring(summary.as_dict(), output)


def parse_steering(
    items: list[str] | None, profile: str | None = None
) -> Steering | SteeringProfile | str | None:
    """Return the steering of ``--steer``, or the profile of ``--profile``, or its name.

    Raises:
        RecipeError: Both are given, or one cannot be used.
    """
    from armorm.model import Steering, SteeringProfile
    from armorm.model.profiles import SUFFIXES

    if profile is None:
        return Steering.parse(items) if items else None
    if items:
        raise RecipeError("Give --steer or --profile, not both.")
    file = Path(profile)
    return SteeringProfile.read(file) if file.suffix in SUFFIXES or file.is_file() else profile
