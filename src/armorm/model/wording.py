"""Explanations in words: the few objectives that decide, and in which direction.

The text of a prompt or a response is never in them; names of objectives are, with control
characters written as escapes.  What shows a sentence as markup must escape it as any text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armorm.model.explanations import Comparison, Explanation
    from armorm.model.ranking import Ranking

MOST_NAMED = 3
"""Objectives that a sentence names at most."""

ENOUGH = 0.8
"""Share of all effects, by size, at which a sentence names no further objective."""


def of_score(explanation: Explanation) -> str:
    """Return the explanation of a score in words."""
    subject = "The score" if explanation.steering is None else "The steered score"
    if explanation.mean_score is None:
        what = f"{subject} is {number(explanation.score)}"
    else:
        gain = explanation.score - explanation.mean_score
        mean = f"the reference mean {number(explanation.mean_score)}"
        relation = f"{number(abs(gain))} {'above' if gain > 0 else 'below'}" if gain else "equal to"
        what = f"{subject} {number(explanation.score)} is {relation} {mean}"
    if explanation.percentile is not None:
        what += f", higher than {int(explanation.percentile)}% of the reference scores"
    effects = {share.objective: share.effect for share in explanation.objectives}
    up, down = _sides(effects)
    reasons = [
        f"{_listed(up)} {_verb('raise', up)} it" if up else "",
        f"{_listed(down)} {_verb('lower', down)} it" if down else "",
    ]
    text = f"{what}: {', '.join(filter(None, reasons)) or 'no objective moves it'}."
    if explanation.novel:
        text += " The response is unlike anything rated, so its rewards are guesses."
    return text


def of_preference(comparison: Comparison) -> str:
    """Return the comparison of two responses in words."""
    if len(comparison.below_floors) == 1 and comparison.preferred != "tie":
        return (
            f"{comparison.preferred} is preferred, since {comparison.below_floors[0]} is below a "
            f"floor of the profile; by score a is {number(comparison.margin)} ahead."
        )
    effects = {one.objective: one.contribution for one in comparison.objectives}
    if comparison.preferred == "tie":
        for_a, for_b = _sides(effects)
        text = f"a and b tie at {number(comparison.score_a)}"
        if for_a and for_b:
            return f"{text}: {_listed(for_a)} for a and {_listed(for_b)} for b cancel."
        return f"{text}: no objective tells them apart."
    winner, loser = ("a", "b") if comparison.preferred == "a" else ("b", "a")
    if winner == "b":
        effects = {name: -value for name, value in effects.items()}
    pro, contra = _sides(effects)
    steered = "" if comparison.steering is None else " under this steering"
    text = f"{winner} is preferred by {number(abs(comparison.margin))}{steered}"
    reasons = [
        f"{_listed(pro)} {_verb('speak', pro)} for {winner}" if pro else "",
        f"{_listed(contra)} {_verb('speak', contra)} for {loser}" if contra else "",
    ]
    return f"{text}: {', '.join(filter(None, reasons))}.{_flip(comparison)}"


def of_ranking(ranking: Ranking) -> str:
    """Return the ranking of several responses in words; responses count from 1."""
    first, *others = ranking.responses
    of_all = f"of {len(ranking.responses)}"
    equal = [one for one in others if one.rank == 1]
    if equal and len(equal) == len(others):
        text = f"All {len(ranking.responses)} responses tie at {number(first.score)}."
    elif equal:
        numbers = _joined([str(one.response + 1) for one in (first, *equal)])
        text = f"Responses {numbers} {of_all} share the first place with {number(first.score)}."
    elif others:
        lead = first.score - others[0].score
        text = (
            f"Response {first.response + 1} {of_all} is first with {number(first.score)}, "
            f"{number(lead)} ahead of response {others[0].response + 1}."
        )
    else:
        text = f"The only response has {number(first.score)}."
    if others:
        on_front = sorted(one.response + 1 for one in ranking.responses if one.on_front)
        numbers = _joined([str(one) for one in on_front])
        verb = "is" if len(on_front) == 1 else "are"
        text += f" On the Pareto front {verb} {numbers}."
    return text


def number(value: float) -> str:
    """Return a number for people.

    Example:
        >>> number(0.12345), number(0.0000213), number(0.0)
        ('0.1235', '2.1e-05', '0')
    """
    if value == 0:
        return "0"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"


def _flip(comparison: Comparison) -> str:
    if comparison.flips is None:
        return ""
    flip = comparison.flips.smallest_relative or comparison.flips.smallest
    if flip is None:
        return " No single coefficient reverses this unless its sign changes."
    way = "rose" if flip.change > 0 else "fell"
    return (
        f" It would be reversed if the coefficient of {_clean(flip.objective)} {way} from "
        f"{number(flip.coefficient)} beyond {number(flip.flipped)}."
    )


def _sides(effects: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the largest effects that are above 0, and those below 0.

    The largest one on the side of their sum is always among them.
    """
    named: dict[str, float] = {}
    size = sum(map(abs, effects.values()))
    for name, effect in sorted(effects.items(), key=lambda item: -abs(item[1])):
        if effect == 0 or len(named) == MOST_NAMED:
            break
        if sum(map(abs, named.values())) >= ENOUGH * size:
            break
        named[name] = effect
    total = sum(effects.values())
    if total and not any(effect * total > 0 for effect in named.values()):
        name = max(effects, key=lambda name: effects[name] * total)
        named[name] = effects[name]
    up = {name: effect for name, effect in named.items() if effect > 0}
    return up, {name: effect for name, effect in named.items() if effect < 0}


def _listed(effects: Mapping[str, float]) -> str:
    return _joined([f"{_clean(name)} ({number(abs(e))})" for name, e in effects.items()])


def _verb(verb: str, subjects: Mapping[str, float]) -> str:
    return f"{verb}s" if len(subjects) == 1 else verb


def _joined(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _clean(name: str) -> str:
    return name if name.isprintable() else repr(name)[1:-1]
