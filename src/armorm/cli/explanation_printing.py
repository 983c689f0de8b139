"""Tables of explanations, comparisons and rankings. No user's text is read as markup."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from armorm.cli.terminal import make_console
from armorm.model import Comparison, Explanation, Ranking, SteeringProfile

console = make_console()

NOTHING = 1e-3
"""Share of a margin up to which a dropped confounder is what rounding leaves of it."""


def print_explanation(explanation: Explanation) -> None:
    """Print a score as the sum of its contributions, with what is known of its uncertainty."""
    table = Table(title=f"Score {explanation.score:.4f}", show_footer=True, pad_edge=False)
    table.add_column("objective", footer="score", no_wrap=True)
    table.add_column("rating", justify="right", no_wrap=True)
    for name in ("reward", "coeff."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("adds", justify="right", no_wrap=True, footer=f"{explanation.score:+.3f}")
    compared = explanation.mean_score is not None
    if explanation.mean_score is not None:
        gain = explanation.score - explanation.mean_score
        table.add_column("− mean", justify="right", no_wrap=True, footer=f"{gain:+.3f}")
    table.add_column("", no_wrap=True)
    largest = max(abs(share.effect) for share in explanation.objectives)
    for share in explanation.objectives:
        sure = "" if share.deviation is None else f" ±{share.deviation:.2f}"
        table.add_row(
            escape(share.objective),
            f"{share.rating:.2f}{sure}",
            f"{share.reward:.3f}",
            f"{share.coefficient:+.3f}",
            f"{share.contribution:+.3f}",
            *([f"{share.above_mean:+.3f}"] if compared else []),
            _bar(share.effect, largest, width=5 if compared else 10),
        )
    console.print(table)
    console.print(escape(explanation.sentence))
    _print_profile(explanation.profile)
    _print_gate(explanation)
    if explanation.confounder is not None:
        console.print(escape(explanation.confounder.sentence))
    if explanation.novelty is not None:
        of_score = (
            "too few rows rate an objective for that of the score"
            if explanation.deviation is None or explanation.epistemic is None
            else f"of the score it is {explanation.deviation:.4f}, and {explanation.epistemic:.4f} "
            "without the raters' noise"
        )
        console.print(
            f"± is one standard deviation of a new rating; {of_score}. "
            f"Novelty {explanation.novelty:.2f} (1 is a typical rated row)."
        )


def _print_gate(explanation: Explanation) -> None:
    """Print what the gate weighs most, beside its average."""
    share = max(explanation.objectives, key=lambda share: share.gating)
    if share.neighbours_gating is not None and share.mean_gating is not None:
        console.print(
            f"The gate weighs {escape(share.objective)} most: {share.gating:.2f}, against "
            f"{share.neighbours_gating:.2f} for the {explanation.neighbours} nearest reference "
            f"prompts and {share.mean_gating:.2f} for all."
        )


def print_comparison(comparison: Comparison) -> None:
    """Print a margin as the sum of its contributions."""
    chance = ""
    if comparison.probability is not None:
        chance = f", P(a preferred) = {comparison.probability:.1%}"
    verdict = {"a": "a is preferred", "b": "b is preferred", "tie": "a tie"}[comparison.preferred]
    table = Table(
        title=f"{verdict}: {comparison.score_a:.4f} against {comparison.score_b:.4f}{chance}",
        show_footer=True,
    )
    table.add_column("objective", footer="margin a - b", no_wrap=True)
    table.add_column("rating a", justify="right")
    table.add_column("rating b", justify="right")
    table.add_column("coeff.", justify="right")
    table.add_column("adds", justify="right", footer=f"{comparison.margin:+.4f}")
    table.add_column("")
    largest = max(abs(difference.contribution) for difference in comparison.objectives)
    for difference in comparison.objectives:
        table.add_row(
            escape(difference.objective),
            f"{difference.rating_a:.2f}",
            f"{difference.rating_b:.2f}",
            f"{difference.coefficient:+.4f}",
            f"{difference.contribution:+.4f}",
            _bar(difference.contribution, largest),
        )
    console.print(table)
    console.print(escape(comparison.sentence))
    _print_profile(comparison.profile)
    if comparison.below_floors:
        below = " and ".join(comparison.below_floors)
        console.print(f"Below a floor of the profile: {below}. Floors come before the scores.")
    part = comparison.confounder
    if part is not None and part.share is not None and (part.kept or abs(part.share) > NOTHING):
        console.print(escape(part.sentence))


def print_ranking(ranking: Ranking) -> None:
    """Print the responses by score, with their rank under each objective."""
    table = Table(title=f"{len(ranking.responses)} responses, the best first")
    table.add_column("response", no_wrap=True)
    for one in ranking.responses:
        table.add_column(str(one.response + 1), justify="right")
    table.add_row("rank", *(str(one.rank) for one in ranking.responses))
    table.add_row("score", *(f"{one.score:.4f}" for one in ranking.responses))
    table.add_row("on the front", *("●" if one.on_front else "" for one in ranking.responses))
    table.add_section()
    for name in ranking.objectives:
        table.add_row(escape(name), *(str(one.ranks[name]) for one in ranking.responses))
    console.print(table)
    console.print(escape(ranking.sentence))
    _print_profile(ranking.profile)
    if ranking.left_out:
        names = escape(", ".join(ranking.left_out))
        console.print(f"Not compared, since neither end of the scale is better: {names}.")


def _print_profile(profile: SteeringProfile | None) -> None:
    if profile is not None:
        console.print(f"Under the profile {profile.name} ({profile.hash}).")


def _bar(value: float, largest: float, width: int = 10) -> Text:
    length = round(width * abs(value) / largest) if largest > 0 else 0
    return Text("█" * length, style="green" if value > 0 else "red")
