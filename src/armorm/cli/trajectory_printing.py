"""Credits per token, for people. No user's text is read as markup."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from armorm.cli.printing import console
from armorm.cli.terminal import print_json
from armorm.model import Trajectory

BAR = 12
"""Characters of the longest bar."""


def show_trajectory(trajectory: Trajectory, as_json: bool) -> None:
    """Print a trajectory as JSON or as a table."""
    if as_json:
        print_json(trajectory.as_dict())
    else:
        print_trajectory(trajectory)


def print_trajectory(trajectory: Trajectory) -> None:
    """Print the credit of every token, the objective that it owes most to, and the sum."""
    table = Table(title=f"Score {trajectory.score:.4f}", show_footer=True)
    table.add_column("token", footer="score", no_wrap=True)
    table.add_column(
        "credit", justify="right", no_wrap=True, min_width=7, footer=f"{trajectory.score:+.4f}"
    )
    table.add_column("", min_width=BAR)
    table.add_column("score\nafter", justify="right", min_width=7)
    table.add_column("mostly", no_wrap=True)
    sure = trajectory.uncertainty
    if sure is not None:
        table.add_column("novelty", justify="right", min_width=7)
    credits, scores = trajectory.credits.tolist(), trajectory.scores.tolist()
    novelty = [] if sure is None else [f"{value:.2f}" for value in sure.novelty.tolist()]
    table.add_row("start", f"{scores[0]:+.4f}", "", f"{scores[0]:.4f}", "", *novelty[:1])
    largest = max((abs(credit) for credit in credits), default=0.0) or 1.0
    parts = trajectory.objective_credits
    for i, credit in enumerate(credits):
        column = int(parts[i].abs().argmax())
        bar = "█" * max(1, round(BAR * abs(credit) / largest))
        table.add_row(
            _shown(trajectory, i),
            f"{credit:+.4f}",
            Text(bar, style="green" if credit >= 0 else "red"),
            f"{scores[i + 1]:.4f}",
            f"{escape(trajectory.objectives[column])} {float(parts[i, column]):+.4f}",
            *novelty[i + 1 : i + 2],
        )
    console.print(table)
    console.print(
        "Credit: change of the score of the response, cut after the token."
        if trajectory.closed
        else "Credit: change of the score at the token, read in the middle of the response, where "
        "heads fitted on complete responses extrapolate."
    )


def _shown(trajectory: Trajectory, i: int) -> Text:
    if i >= len(trajectory) - trajectory.closing:
        return Text("end of turn", style="dim")
    piece = trajectory.tokens[i]
    return Text(repr(piece)[1:-1]) if piece else Text("part of a character", style="dim")
