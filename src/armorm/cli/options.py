"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armorm.errors import RecipeError

if TYPE_CHECKING:
    from armorm.evaluation.scoring import ScoringSummary
    from armorm.model import RewardModel
    from armorm.scaling.pool import Workers

TEXT_HELP = "Text, or @FILE."

Overlong = Literal["error", "skip", "drop_oldest_turns"]
EngineName = Literal["transformers", "vllm"]

RecipeArgument = Annotated[
    Path, typer.Argument(help="Recipe, a YAML file.", metavar="RECIPE", show_default=False)
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
SkipInvalid = Annotated[
    bool, typer.Option("--skip-invalid", help="Count and list bad rows instead of stopping.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if any.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
MaxLength = Annotated[int | None, typer.Option(help="Most tokens of a conversation.")]
OverlongOption = Annotated[
    Overlong, typer.Option(help="What to do with longer conversations; text is never cut.")
]
EngineChoice = Annotated[
    EngineName, typer.Option("--engine", help="What runs the backbone; vllm is installed apart.")
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        help="For transformers: device_map=auto. For vllm: tensor_parallel_size=2.",
        metavar="NAME=VALUE",
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="With --engine ray. Default: one for each GPU; without any, one for each machine.",
        show_default=False,
    ),
]
WorkerGpus = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="With --engine ray: GPUs of each worker, also 2 or 0.5.",
        show_default=False,
    ),
]
BatchTokens = Annotated[int | None, typer.Option(help="Most tokens run at once.")]
Steer = Annotated[
    list[str] | None,
    typer.Option(help="Factor on an objective: helpsteer-verbosity=0.", metavar="NAME=FACTOR"),
]


def show_progress(quiet: bool) -> bool:
    """Progress bars go to standard error, where someone is looking."""
    return not quiet and sys.stderr.isatty()


def load_model(
    name: str,
    *,
    device: str | None,
    dtype: str,
    max_length: int | None = None,
    overlong: Overlong = "error",
    batch_tokens: int | None = None,
    steer: list[str] | None = None,
    engine: EngineName = "transformers",
    engine_options: list[str] | None = None,
) -> RewardModel:
    """Load a model with the options of the command line."""
    from armorm.model import RewardModel

    hide_library_progress()

    model = RewardModel.from_pretrained(
        name,
        device=device,
        dtype=dtype,
        max_length=max_length,
        overlong=overlong,
        batch_tokens=batch_tokens,
        **engine_arguments(engine, engine_options),
    )
    return model.steer(steering_factors(steer)) if steer else model


def ray_workers(engine: str | None, count: int | None, gpus: float | None) -> Workers | None:
    """The workers, if Ray is asked for.

    Raises:
        RecipeError: workers are described, but Ray is not asked for.
    """
    if engine == "ray":
        from armorm.scaling.pool import Workers

        return Workers(count, gpus)
    if (count, gpus) != (None, None):
        raise RecipeError("--workers and --worker-gpus belong to --engine ray.")
    return None


def hide_library_progress() -> None:
    """Loading and saving weights is quick: only our own bars are worth a line."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def text_or_file(value: str) -> str:
    """The text itself, or with ``@file`` the contents of a file."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{value}: cannot be read: {error}") from error


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def report_scoring(summary: ScoringSummary, output: Path, as_json: bool) -> None:
    """What became of the rows of a file."""
    if as_json:
        print_json(summary.as_dict())
    else:
        from armorm.cli.printing import print_scoring

        print_scoring(summary.as_dict(), output)


def engine_arguments(engine: EngineName, options: list[str] | None) -> dict[str, Any]:
    """What ``--engine`` and ``--engine-option`` add to the arguments of ``from_pretrained``."""
    import yaml

    pairs = [option.partition("=") for option in options or ()]
    for name, separator, text in pairs:
        if not separator or not name:
            raise RecipeError(f"--engine-option {name}{text}: write it as name=value.")
    try:
        given = {name: yaml.safe_load(text) for name, _, text in pairs}
    except yaml.YAMLError as error:
        raise RecipeError(f"--engine-option: a value is not YAML: {error}") from error
    return given if engine == "transformers" else {"engine": engine, "engine_options": given}


def steering_factors(steer: list[str] | None) -> dict[str, float]:
    """What ``--steer`` says, by objective."""
    factors = {}
    for item in steer or ():
        name, _, factor = item.rpartition("=")
        try:
            factors[name] = float(factor)
        except ValueError:
            raise RecipeError(f"--steer {item}: write it as objective=factor.") from None
    return factors
