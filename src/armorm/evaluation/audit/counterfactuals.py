"""Detector: does the reward move when the meaning does not?

Each change (:mod:`armorm.evaluation.audit.changes`) is made to both responses of a pair, or to
their prompt.  A score is the sum of c_i r_i over the objectives, so it moves by exactly ::

    sum over i of  (mean of c_i) (change of r_i)  +  (mean of r_i) (change of c_i)

where the means are those of before and after: the first part goes through the rewards, the second,
which only a change of the prompt has, through the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.evaluation.audit.changes import CHANGES, Change, Expected
from armorm.evaluation.audit.probes import Probed, Scores
from armorm.evaluation.audit.statistics import (
    Estimate,
    bounded_mean,
    control_false_discoveries,
    mean,
    share,
)

EXAMPLES = 2
_TELLING = 3
"""Objectives named beside an example."""


@dataclass(frozen=True, slots=True)
class ChangeExample:
    """A response before and after a change.

    Attributes:
        pair: Name or number of the pair.
        prompt: Last user turn before the change.
        changed_prompt: After it; None where it is the same.
        before: The response.
        after: The changed response; None where it is the same.
        other: The other response of the pair, as it is compared with.
        score_before: Score of the response.
        score_after: Score after the change.
        score_other: Score of the other response, under the changed prompt if it is changed.
        flips: The change reverses the preference of the pair.
        objectives: Largest changes of contributions, by objective.
    """

    pair: str
    prompt: str
    changed_prompt: str | None
    before: str
    after: str | None
    other: str
    score_before: float
    score_after: float
    score_other: float
    flips: bool
    objectives: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """Effect of one change on scores and preferences.

    Attributes:
        name: Name of the change.
        about: One sentence.
        expected: See :class:`~armorm.evaluation.audit.changes.Change`.
        shift: Mean change of the score, in standard deviations of the scores.
        moved: Share of responses whose score moves by more than half a standard deviation.
        flip_rate: Share of preferences that the change reverses: made to the response that scores
            lower alone or, where it changes the prompt, to both.
        accuracy_before: Accuracy on the changed pairs as they are.
        accuracy_after: Accuracy where both responses are changed.
        accuracy_drop: First accuracy minus the second.
        through_rewards: Part of the shift that comes through each objective's reward.
        through_gate: Part of the shift that comes through each objective's coefficient.
        examples: Responses whose preference flips or, if none does, whose score moves most.
    """

    name: str
    about: str
    expected: Expected
    shift: Estimate
    moved: Estimate
    flip_rate: Estimate
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_drop: Estimate
    through_rewards: Mapping[str, float]
    through_gate: Mapping[str, float]
    examples: tuple[ChangeExample, ...]


@dataclass(frozen=True, slots=True)
class CounterfactualReport:
    """Effects of all changes.

    Attributes:
        deviation: Standard deviation of the scores as they are, the unit of the shifts.
        changes: By name; a change that applies to no response is missing.
        without: Names of the changes that apply to none.
        refused: Changed forms that have no scores, such as those that are too long.
    """

    deviation: float
    changes: Mapping[str, ChangeReport]
    without: tuple[str, ...]
    refused: int

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        found: dict[str, Estimate] = {}
        for name, change in self.changes.items():
            found[f"flip_rate({name})"] = change.flip_rate
            found[f"score_shift({name})"] = change.shift
            found[f"accuracy_drop({name})"] = change.accuracy_drop
        return found


def change_effects(probed: Probed, clusters: Int[np.ndarray, " pairs"]) -> CounterfactualReport:
    """Return the effect of each change that was scored.

    Args:
        probed: Pairs and their changed forms, with scores.
        clusters: Number of the prompt of each pair.
    """
    deviation = float(probed.scores.score.std()) or 1.0
    found = [
        _effect(probed, CHANGES[name], changed, deviation, clusters)
        for name, changed in probed.changed.items()
    ]
    shifts = control_false_discoveries([one.shift for one in found])
    reports = {
        one.name: replace(one, shift=shift) for one, shift in zip(found, shifts, strict=True)
    }
    return CounterfactualReport(
        deviation=deviation,
        changes={name: reports[name] for name in CHANGES if name in reports},
        without=tuple(name for name in CHANGES if name not in reports) if reports else (),
        refused=probed.changed_refused,
    )


def _effect(
    probed: Probed,
    change: Change,
    after: Scores,
    deviation: float,
    clusters: Int[np.ndarray, " pairs"],
) -> ChangeReport:
    base = probed.scores
    rows = 2 * after.pair + after.side
    moves = (after.score - base.score[rows]) / deviation
    compared = _Compared.of(base, after, both=change.prompt is not None)
    before, later = compared.margins(base)
    reward_part, gate_part = _parts(base, after, rows)
    by_pair = clusters[after.pair]
    return ChangeReport(
        name=change.name,
        about=change.about,
        expected=change.expected,
        shift=mean(moves, by_pair),
        moved=share(np.abs(moves) > 0.5),
        flip_rate=share(compared.flips(base)),
        accuracy_before=share(before > 0),
        accuracy_after=share(later > 0),
        accuracy_drop=bounded_mean(
            (before > 0).astype(np.float64) - (later > 0), clusters[compared.pairs], lowest=-1.0
        ),
        through_rewards=_by_objective(reward_part.mean(axis=0) / deviation, base.objectives),
        through_gate=_by_objective(gate_part.mean(axis=0) / deviation, base.objectives),
        examples=_examples(probed, change, after, reward_part + gate_part, compared),
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    """Scores of both sides of the changed pairs, each before and after.

    Attributes:
        pairs: Positions of the pairs of which any response is changed.
        later: Scores of both sides after the change, or before it where it does not apply.
        row: Row of each side among the changed responses, -1 where it is not changed.
        both: The preference is compared with both responses changed.
    """

    pairs: Int[np.ndarray, " m"]
    later: Float[np.ndarray, "m 2"]
    row: Int[np.ndarray, "m 2"]
    both: bool

    @classmethod
    def of(cls, base: Scores, after: Scores, *, both: bool) -> _Compared:
        pairs, number = np.unique(after.pair, return_inverse=True)
        row = np.full((len(pairs), 2), -1, np.int64)
        row[number, after.side] = np.arange(len(after.pair))
        later = np.where(row >= 0, after.score[row], base.score.reshape(-1, 2)[pairs])
        return cls(pairs, later, row, both)

    def margins(self, base: Scores) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Return the margins before and after the change of both responses."""
        return base.margins[self.pairs], self.later[:, 0] - self.later[:, 1]

    def flipped(self, base: Scores) -> npt.NDArray[np.int64]:
        """Return, for each pair, 1 if its preference flips, 0 if not, and -1 if it has none."""
        before = base.margins[self.pairs]
        if self.both:
            flips = before * (self.later[:, 0] - self.later[:, 1]) < 0
            return np.where(before == 0, -1, flips.astype(np.int64))
        lower = (before > 0).astype(np.int64)  # the side that scores lower
        here = np.arange(len(before))
        other = base.score.reshape(-1, 2)[self.pairs, 1 - lower]
        applies = (before != 0) & (self.row[here, lower] >= 0)
        return np.where(applies, (self.later[here, lower] > other).astype(np.int64), -1)

    def flips(self, base: Scores) -> npt.NDArray[np.bool_]:
        """Return the flips of the pairs that have a preference."""
        flipped = self.flipped(base)
        return flipped[flipped >= 0] > 0


def _parts(
    base: Scores, after: Scores, rows: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the parts of each change of score that come through rewards and through the gate."""
    c, r = base.coefficients[rows], base.rewards[rows]
    rewards = 0.5 * (c + after.coefficients) * (after.rewards - r)
    gate = 0.5 * (r + after.rewards) * (after.coefficients - c)
    return rewards, gate


def _by_objective(values: Float[np.ndarray, " k"], names: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _examples(
    probed: Probed,
    change: Change,
    after: Scores,
    parts: Float[np.ndarray, "n k"],
    compared: _Compared,
) -> tuple[ChangeExample, ...]:
    base = probed.scores
    flipped = dict(zip(compared.pairs.tolist(), compared.flipped(base).tolist(), strict=True))
    place = {int(pair): i for i, pair in enumerate(compared.pairs)}
    lower = np.where(base.margins > 0, 1, 0)
    moves = np.abs(after.score - base.score[2 * after.pair + after.side])

    def rank(row: int) -> tuple[bool, bool, float]:
        pair, side = int(after.pair[row]), int(after.side[row])
        is_lower = bool(side == lower[pair])
        return flipped[pair] == 1 and is_lower, is_lower, float(moves[row])

    found: list[ChangeExample] = []
    seen: set[int] = set()
    for row in sorted(range(len(after.pair)), key=rank, reverse=True):
        pair, side = int(after.pair[row]), int(after.side[row])
        if pair in seen:
            continue
        seen.add(pair)
        original = probed.pairs[pair]
        prompt, changed_prompt = original.prompt[-1]["content"], probed.prompts[change.name][pair]
        before, text = original.responses[side], after.texts[row]
        other = compared.later[place[pair]] if compared.both else base.score.reshape(-1, 2)[pair]
        largest = np.argsort(-np.abs(parts[row]))[:_TELLING]
        found.append(
            ChangeExample(
                pair=original.id or str(pair + 1),
                prompt=prompt,
                changed_prompt=None if changed_prompt == prompt else changed_prompt,
                before=before,
                after=None if text == before else text,
                other=original.responses[1 - side],
                score_before=float(base.score[2 * pair + side]),
                score_after=float(after.score[row]),
                score_other=float(other[1 - side]),
                flips=flipped[pair] == 1 and bool(side == lower[pair]),
                objectives={base.objectives[i]: float(parts[row, i]) for i in largest},
            )
        )
        if len(found) == EXAMPLES:
            break
    return tuple(found)
