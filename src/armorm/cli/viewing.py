"""Commands that show scores on pages: view, workbench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import ModelArgument, Profile, Steer, TextLoading
from armorm.cli.terminal import print_line
from armorm.conversations.messages import Conversation

if TYPE_CHECKING:
    from armorm.model import RewardModel


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add_command(
        app,
        view,
        panel="Judge",
        example="armorm view scored.jsonl -o page.html --model runs/quickstart/model",
    )
    add_command(app, workbench, panel="Judge", example="armorm workbench runs/quickstart/model")


def view(
    file: Annotated[
        Path,
        typer.Argument(
            help="Output of `score` or `annotate`, or the JSON of `explain` or `compare` (.json).",
            metavar="FILE",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file.", metavar="OUT", show_default=False)
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model that scored the file: adds scales, percentiles and steering "
            "through the debiasing. Its weights are not loaded.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading. Default: the file's name.")] = None,
) -> None:
    """Write a page that explains scores, and weighs them again when a slider moves.

    The page is one HTML file that loads nothing and needs no server. Neither does this command need
    torch, or the model.
    """
    from armorm.workbench.pages import write_page
    from armorm.workbench.reading import read_scored

    scored = read_scored(file, model)
    n, p = len(scored.owners), len(scored.prompts)
    counts = f"{n:,} response{'s' * (n != 1)} to {p:,} prompt{'s' * (p != 1)}"
    write_page(output, scored, title or file.name, counts)
    print_line(f"{counts} written to {output} ({output.stat().st_size / 1e6:.1f} MB)")


def workbench(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Default: the first free one from 7860.", min=1, max=65535),
    ] = None,
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: TextLoading,
) -> None:
    """Open a page on which scores are explained, compared and steered.

    It runs on this machine, loads nothing from outside and sends nothing to anybody. Profiles are
    saved in the model's folder, or offered as files where others can reach the page.
    """
    from armorm.model.profiles import FOLDER
    from armorm.workbench.app import Workbench, launch

    local = Path(model).is_dir() and host in LOOPBACK
    profiles = Path(model) / FOLDER if local else None
    name = Path(model).resolve().name
    app = launch(Workbench(loading.load(model, steer, profile), name, profiles), host, port)
    print_line(f"The workbench is at {app.local_url} (Ctrl+C stops it)")
    try:
        app.block_thread()
    finally:
        app.close()


def write_html(
    file: Path, model: RewardModel, prompt: Conversation, responses: Sequence[str]
) -> None:
    """Write the page of responses to one prompt, with the credit of each token."""
    from armorm.workbench.answers import Answers, Candidates
    from armorm.workbench.pages import write_page

    candidates = Candidates(tuple(prompt), tuple(responses))
    scored = Answers.of(model, [candidates], tokens=True).scored()
    write_page(file, scored, "Why it scores as it does" if len(responses) == 1 else "A comparison")


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""
