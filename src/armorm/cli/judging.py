"""Commands that use a model: score, explain, compare, rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armorm.cli.flags import add_command
from armorm.cli.options import (
    TEXT_HELP,
    FileLoading,
    Html,
    Json,
    ModelArgument,
    Profile,
    Quiet,
    SkipInvalid,
    Steer,
    TextLoading,
    Where,
    WorkerCount,
    WorkerGpus,
    ray_workers,
    report_scoring,
    show_progress,
    text_or_file,
)
from armorm.cli.terminal import print_json
from armorm.cli.viewing import write_html
from armorm.conversations.messages import Conversation, with_response


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Judge"
    texts = '--prompt "What is 3 + 4?"'
    add_command(
        app,
        score,
        panel=panel,
        example="armorm score runs/quickstart/model in.jsonl -o out.jsonl",
        resumable=True,
    )
    add_command(
        app,
        explain,
        panel=panel,
        example=f'armorm explain runs/quickstart/model {texts} --response "It is 7."',
    )
    add_command(
        app,
        compare,
        panel=panel,
        example=f'armorm compare runs/quickstart/model {texts} --a "It is 7." --b "It is 9."',
    )
    add_command(
        app,
        rank,
        panel=panel,
        example=f'armorm rank runs/quickstart/model {texts} --response "7." --response "It is 9."',
    )


def score(
    model: ModelArgument,
    source: Annotated[
        Path,
        typer.Argument(
            help="Conversations: JSON lines (also .gz), Parquet or Arrow, with `messages`, or "
            "`prompt` and `response`. With --on ray also a pattern: 'in/*.parquet'.",
            metavar="IN",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON lines.", metavar="OUT", show_default=False)
    ],
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: FileLoading,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Also deviations, score_deviation, novelty, novel."),
    ] = False,
    on: Where = "local",
    workers: WorkerCount = None,
    worker_gpus: WorkerGpus = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every conversation of a file.

    Each row is written with score, rewards, gating and coefficients beside its own fields.
    """
    from armorm.evaluation.scoring import score_file

    workers_on_ray = ray_workers(on, workers, worker_gpus)
    summary = score_file(
        loading.judge(model, steer, profile, workers_on_ray),
        source,
        output,
        workers=workers_on_ray,
        uncertainty=uncertainty,
        skip_invalid=skip_invalid,
        show_progress=show_progress(quiet),
    )
    report_scoring(summary, output, as_json)


def explain(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    response: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: TextLoading,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Show the credit of each token of the response.")
    ] = False,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Explain the score of one response, objective by objective.

    The table shows each objective's rating, reward, coefficient and share.
    """
    loaded = loading.load(model, steer, profile)
    asked: Conversation = [{"role": "user", "content": text_or_file(prompt)}]
    conversation = with_response(asked, text_or_file(response))
    if html is not None:
        write_html(html, loaded, asked, [text_or_file(response)])
    if tokens:
        from armorm.cli.trajectory_printing import show_trajectory

        show_trajectory(loaded.trajectory(conversation, closed=True), as_json)
        return
    explanation = loaded.explain(conversation)
    if as_json:
        print_json(explanation.as_dict())
    else:
        from armorm.cli.explanation_printing import print_explanation

        print_explanation(explanation)


def compare(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    a: Annotated[str, typer.Option("--a", help=f"First response. {TEXT_HELP}", show_default=False)],
    b: Annotated[str, typer.Option("--b", help=f"Second one. {TEXT_HELP}", show_default=False)],
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: TextLoading,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Compare two responses: the preferred one, and the objectives that decided.

    The table shows each objective's share of the margin.
    """
    loaded = loading.load(model, steer, profile)
    texts = [text_or_file(a), text_or_file(b)]
    comparison = loaded.compare(text_or_file(prompt), *texts)
    if html is not None:
        asked: Conversation = [{"role": "user", "content": text_or_file(prompt)}]
        write_html(html, loaded, asked, texts)
    if as_json:
        print_json(comparison.as_dict())
    else:
        from armorm.cli.explanation_printing import print_comparison

        print_comparison(comparison)


def rank(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help=TEXT_HELP, show_default=False)],
    response: Annotated[
        list[str], typer.Option(help=f"Repeat for each response. {TEXT_HELP}", show_default=False)
    ],
    steer: Steer = None,
    profile: Profile = None,
    *,
    loading: TextLoading,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Rank several responses: by score, under each objective alone, and by the Pareto front.

    On the front are the responses that no other one matches in every objective and beats in one.
    """
    loaded = loading.load(model, steer, profile)
    texts = [text_or_file(one) for one in response]
    ranking = loaded.rank(text_or_file(prompt), texts)
    if html is not None:
        asked: Conversation = [{"role": "user", "content": text_or_file(prompt)}]
        write_html(html, loaded, asked, texts)
    if as_json:
        print_json(ranking.as_dict())
    else:
        from armorm.cli.explanation_printing import print_ranking

        print_ranking(ranking)
