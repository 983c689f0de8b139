"""Two models on the same pairs: which preferences flipped, and what did it.

A margin, the score of the chosen response minus that of the rejected one, is divided by the model's
root mean square margin s, so that two scales compare.  It is the sum over the objectives of
c_i d_i, with c_i the coefficient over s and d_i the difference of rewards.  Between the models it
changes by exactly ::

    sum over i of  (mean of c_i) (change of d_i)  +  (mean of d_i) (change of c_i)

where the means are those of both models: the first part is a change of reward, the second a change
of coefficient (gate, debiasing, steering, scale).  An objective that only one model has is a part
by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.conversations import PreferencePair, prompt_key
from armorm.errors import ArmormError
from armorm.evaluation.audit.probes import Scores, group_of, probes_of, score_probes
from armorm.evaluation.audit.statistics import (
    Estimate,
    bounded_mean,
    control_false_discoveries,
    control_table,
    mean,
    rank_correlations,
    share,
)
from armorm.evaluation.scorers import Scored, Scorer
from armorm.heads.metrics import mcnemar
from armorm.version import __version__

DIFF_FORMAT = "armorm-diff"
"""Name of the format of ``diff.json``."""

FIGURES = ("accuracy", "accuracy_drop", "agreement", "flip_rate")
"""Kinds of figures that a rule can name, most of them also of one group."""


def figure_names(pairs: Sequence[PreferencePair]) -> list[str]:
    """Return the names of the figures that a rule about these pairs can name."""
    groups = sorted({group_of(pair) for pair in pairs})
    grouped = [name for name in FIGURES if name != "agreement"]
    return [*FIGURES, *(f"{name}({group})" for name in grouped for group in groups)]


FLIPS = 20
"""Flipped pairs that a report lists in each direction."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A pair whose preference differs between the models.

    Attributes:
        pair: Name or number of the pair.
        group: Its group.
        prompt: Last user turn.
        chosen: The response that the label prefers.
        rejected: The other one.
        old: Margin of the old model over its root mean square margin.
        new: The same of the new model.
        parts: Largest parts of the change, by objective and route (``tone: reward``).
    """

    pair: str
    group: str
    prompt: str
    chosen: str
    rejected: str
    old: float
    new: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """Two models on the pairs of one group.

    Attributes:
        pairs: Number of pairs.
        old: Accuracy of the old model; a tie is wrong.
        new: Accuracy of the new model.
        drop: Old accuracy minus new; its p is that of McNemar's exact test.
        flip_rate: Share of the pairs whose preference differs.
        lost: Pairs that only the old model ranks rightly.
        gained: Pairs that only the new model ranks rightly.
        parts: Mean part of the change of margin, by objective and route; positive parts favour
            the labels.
    """

    pairs: int
    old: Estimate
    new: Estimate
    drop: Estimate
    flip_rate: Estimate
    lost: int
    gained: int
    parts: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class DiffReport:
    """Difference of two models on the same pairs.

    Attributes:
        old: Name of the old model.
        new: Name of the new model.
        version: Version of this package.
        offered: Pairs that were given.
        scored: Pairs that both models scored.
        unscored: Pairs without scores, by model.
        groups: Differences by group; ``all`` is all pairs.
        agreement: Spearman correlation of the margins of both models.
        lost_by: Number of lost pairs by the part that did most of the damage.
        gained_by: Number of gained pairs by the part that did most of the good.
        lost: Lost pairs, the largest changes first.
        gained: Gained pairs, likewise.
    """

    old: str
    new: str
    version: str
    offered: int
    scored: int
    unscored: Mapping[str, int]
    groups: Mapping[str, GroupDifference]
    agreement: Estimate
    lost_by: Mapping[str, int]
    gained_by: Mapping[str, int]
    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]
    figures: dict[str, Estimate] = field(init=False)

    def __post_init__(self) -> None:
        figures = {"agreement": self.agreement}
        for name, group in self.groups.items():
            suffix = "" if name == "all" else f"({name})"
            figures[f"accuracy_drop{suffix}"] = group.drop
            figures[f"accuracy{suffix}"] = group.new
            figures[f"flip_rate{suffix}"] = group.flip_rate
        object.__setattr__(self, "figures", figures)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        return {"format": DIFF_FORMAT, "format_version": 1, **asdict(self)}


def diff(
    old: Callable[[], Scorer],
    new: Callable[[], Scorer],
    pairs: Sequence[PreferencePair],
    output: Path,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> DiffReport:
    """Compare two models on pairs; a killed run is continued by the same call.

    Args:
        old: Opens the old scorer, which is closed before the new one is opened.
        new: Opens the new scorer.
        pairs: The pairs; their ``subset``, else their ``source``, groups them.
        output: Folder for the scores, in ``old.jsonl`` and ``new.jsonl``.
        seed: Of the resampling.
        show_progress: Show progress on standard error.

    Raises:
        ArmormError: No pair is scored by both.
    """
    found = []
    for name, opened in (("old", old), ("new", new)):
        scorer = opened()
        try:
            probes = probes_of(pairs, [], [])
            file = output / f"{name}.jsonl"
            scored = score_probes(scorer, probes, file, show_progress=show_progress)
            found.append((scorer.name, scorer.objectives, scored))
        finally:
            scorer.close()
    return compare_scores(found[0], found[1], pairs, seed=seed)


def compare_scores(
    old: tuple[str, tuple[str, ...], Sequence[Scored]],
    new: tuple[str, tuple[str, ...], Sequence[Scored]],
    pairs: Sequence[PreferencePair],
    *,
    seed: int = 0,
) -> DiffReport:
    """Compare two models by their scores.

    Args:
        old: Name, objectives and scores of the old model, a row for each pair.
        new: The same of the new model.
        pairs: The pairs.
        seed: Of the resampling.

    Raises:
        ArmormError: No pair is scored by both.
    """
    rows = [
        number
        for number, (a, b) in enumerate(zip(old[2], new[2], strict=True))
        if a.error is None and b.error is None
    ]
    if not rows:
        errors = [one.error for side in (old, new) for one in side[2] if one.error is not None]
        raise ArmormError(
            f"No pair is scored by both models: {errors[0] if errors else 'no pairs'}"
        )
    kept = [pairs[number] for number in rows]
    probes = probes_of(kept, [], [])
    before, after = (
        Scores.of(probes, [side[2][number] for number in rows], side[1]) for side in (old, new)
    )
    groups = np.array([group_of(pair) for pair in kept], dtype=object)
    clusters = np.unique([prompt_key(pair.prompt) for pair in kept], return_inverse=True)[1]
    change = _Change.of(before, after)
    masks = {"all": np.ones(len(kept), bool)}
    if len(set(groups)) > 1:
        masks |= {name: np.asarray(groups == name) for name in sorted(set(groups))}
    right = change.old > 0, change.new > 0
    lost, gained = right[0] & ~right[1], right[1] & ~right[0]
    return DiffReport(
        old=old[0],
        new=new[0],
        version=__version__,
        offered=len(pairs),
        scored=len(kept),
        unscored={
            name: sum(one.error is not None for one in side[2])
            for name, side in (("old", old), ("new", new))
        },
        groups=_groups(change, masks, clusters),
        agreement=rank_correlations(
            change.old[:, None], change.new[:, None], clusters, seed=seed
        ).plain[0][0],
        lost_by=change.responsible(lost, sign=-1),
        gained_by=change.responsible(gained, sign=1),
        lost=_flips(kept, groups, change, lost),
        gained=_flips(kept, groups, change, gained),
    )


@dataclass(frozen=True, slots=True)
class _Change:
    """Margins of both models, and the parts of the change.

    Attributes:
        old: Margins over their root mean square. Shape (pairs,).
        new: The same of the new model. Shape (pairs,).
        names: Names of the parts, as objective and route.
        parts: Parts of the change; they sum to it. Shape (pairs, parts).
    """

    old: Float[np.ndarray, " pairs"]
    new: Float[np.ndarray, " pairs"]
    names: tuple[str, ...]
    parts: Float[np.ndarray, "pairs parts"]

    @classmethod
    def of(cls, before: Scores, after: Scores) -> _Change:
        scales = [float(np.sqrt((one.margins**2).mean())) or 1.0 for one in (before, after)]
        (c_old, d_old), (c_new, d_new) = (
            _by_objective(one, scale) for one, scale in zip((before, after), scales, strict=True)
        )
        found: dict[str, Float[np.ndarray, " pairs"]] = {}
        if before.objectives and after.objectives:
            for name in {**d_old, **d_new}:
                if name not in d_old:
                    found[f"{name}: added"] = c_new[name] * d_new[name]
                elif name not in d_new:
                    found[f"{name}: removed"] = -c_old[name] * d_old[name]
                else:
                    c, d = 0.5 * (c_old[name] + c_new[name]), 0.5 * (d_old[name] + d_new[name])
                    found[f"{name}: reward"] = c * (d_new[name] - d_old[name])
                    found[f"{name}: coefficient"] = d * (c_new[name] - c_old[name])
        pairs = len(before.margins)
        parts = np.stack(list(found.values()), axis=1) if found else np.zeros((pairs, 0))
        return cls(before.margins / scales[0], after.margins / scales[1], tuple(found), parts)

    def responsible(self, rows: npt.NDArray[np.bool_], sign: int) -> dict[str, int]:
        """Count pairs by the part that moved them most in one direction."""
        if not self.names or not rows.any():
            return {}
        counted = Counter(np.argmax(sign * self.parts[rows], axis=1).tolist())
        return {self.names[place]: count for place, count in counted.most_common()}


def _by_objective(
    scores: Scores, scale: float
) -> tuple[dict[str, Float[np.ndarray, " pairs"]], dict[str, Float[np.ndarray, " pairs"]]]:
    """Return coefficients over the scale, and differences of rewards, by objective."""
    coefficients = scores.coefficients[::2].T / scale
    differences = (scores.rewards[::2] - scores.rewards[1::2]).T
    names = scores.objectives
    return (
        dict(zip(names, coefficients, strict=True)),
        dict(zip(names, differences, strict=True)),
    )


def _groups(
    change: _Change, masks: Mapping[str, npt.NDArray[np.bool_]], clusters: Int[np.ndarray, " pairs"]
) -> dict[str, GroupDifference]:
    found = {name: _group(change, rows, clusters[rows]) for name, rows in masks.items()}
    drops = control_false_discoveries([one.drop for one in found.values()])
    parts = control_table({name: one.parts for name, one in found.items()})
    return {
        name: replace(one, drop=drop, parts=parts[name])
        for (name, one), drop in zip(found.items(), drops, strict=True)
    }


def _group(
    change: _Change, rows: npt.NDArray[np.bool_], clusters: Int[np.ndarray, " m"]
) -> GroupDifference:
    old, new = change.old[rows], change.new[rows]
    tested = mcnemar(old > 0, new > 0)
    drop = bounded_mean((old > 0).astype(np.float64) - (new > 0), clusters, lowest=-1.0)
    return GroupDifference(
        pairs=int(rows.sum()),
        old=share(old > 0),
        new=share(new > 0),
        drop=replace(drop, p=tested.p_value),
        flip_rate=share(np.sign(old) != np.sign(new)),
        lost=tested.only_a,
        gained=tested.only_b,
        parts={
            name: mean(column, clusters)
            for name, column in zip(change.names, change.parts[rows].T, strict=True)
        },
    )


def _flips(
    pairs: Sequence[PreferencePair],
    groups: npt.NDArray[Any],
    change: _Change,
    rows: npt.NDArray[np.bool_],
) -> tuple[Flip, ...]:
    moved = np.abs(change.new - change.old)
    chosen = sorted(np.flatnonzero(rows).tolist(), key=lambda row: (-moved[row], row))[:FLIPS]
    found = []
    for row in chosen:
        pair, parts = pairs[row], change.parts[row]
        largest = np.argsort(-np.abs(parts))[:3]
        found.append(
            Flip(
                pair=pair.id or str(row + 1),
                group=groups[row],
                prompt=pair.prompt[-1]["content"],
                chosen=pair.chosen,
                rejected=pair.rejected,
                old=float(change.old[row]),
                new=float(change.new[row]),
                parts={change.names[place]: float(parts[place]) for place in largest},
            )
        )
    return tuple(found)
