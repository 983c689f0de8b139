"""Alarm of the drift monitor: which stream moved, which way, how far, since when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from armorm.evaluation.monitoring.evidence import log_start_weight

StreamKind = Literal["score", "objective", "novelty", "unfamiliar", "dominance", "text"]
"""Kind of a stream.

``objective`` is a unit reward, ``novelty`` the distance from the rated rows, ``unfamiliar`` the
share of responses more novel than held-out rated rows are, ``dominance`` the contribution that rose
most, less the mean of all, in their deviations; ``text`` a measure of the text.
"""

CONFIDENCE = 0.95
"""Coverage of the interval of a shift."""

LONGEST_TEXT = 1000
"""Characters of a text that an alarm carries."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A number of every prompt's responses that is watched.

    Attributes:
        name: Name, such as ``score``, ``reward:<objective>`` or ``text:length``.
        kind: Kind of stream.
        subject: The objective, or measure, of its name; else the name.
    """

    name: str
    kind: StreamKind
    subject: str


@dataclass(frozen=True, slots=True)
class MovedResponse:
    """A recent response that moved far in the direction of an alarm.

    Attributes:
        prompt: Messages or text.
        response: Text.
        value: Its number in the stream.
        features: Its features, where they were at hand.
    """

    prompt: Any
    response: str
    value: float
    features: Float[np.ndarray, " d"] | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record, with long texts cut."""
        prompt = shortened(self.prompt) if isinstance(self.prompt, str) else self.prompt
        return {"prompt": prompt, "response": shortened(self.response), "value": self.value}


@dataclass(frozen=True, slots=True)
class NearRow:
    """A rated row whose features are near to those of responses that moved.

    Attributes:
        id: Of the row.
        source: Of the row.
        similarity: Cosine of the angle between its features and those of the nearest response that
            moved, both less the mean of the rated rows.
        ratings: Its ratings by objective, in the raters' units.
        prompt: Its conversation, where the data can still be read.
        response: Its response, likewise.
    """

    id: str
    source: str
    similarity: float
    ratings: Mapping[str, float]
    prompt: Any = None
    response: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record, with long texts cut."""
        response = None if self.response is None else shortened(self.response)
        return {**asdict(self), "response": response}


@dataclass(frozen=True, slots=True)
class Shift:
    """Difference of the means of a stream since a change, and in the baseline.

    Attributes:
        before: Mean of the baseline; for ``unfamiliar`` the share that is stated as usual.
        now: Mean of the prompts since the change.
        low: Lower end of the interval of ``now - before``.
        high: Its upper end.
        deviations: ``now - before`` in deviations of the baseline.
    """

    before: float
    now: float
    low: float
    high: float
    deviations: float

    @property
    def size(self) -> float:
        """Difference of the means."""
        return self.now - self.before


@dataclass(frozen=True, slots=True)
class Alarm:
    """A stream that is no longer exchangeable with its baseline.

    Attributes:
        stream: Name of the stream.
        kind: Kind of the stream.
        objective: The objective that moved; for ``dominance`` the one that rose most; else
            ``None``.
        direction: ``up`` or ``down``.
        log10_evidence: Decimal logarithm of the stream's e-value.
        log10_needed: What it had to reach.
        step: Step in which the alarm rang, from 1.
        unit: Prompts observed until then.
        since_step: Step in which the change began, as estimated.
        since_unit: Number of the first prompt after the change, from 1, as estimated.
        shift: Size of the change. Its interval holds for every beginning and at every time, with
            95 % (asymptotically): that the alarm chose both costs nothing.
        moves: Change of every stream since then, in deviations of its baseline.
        moved: Recent responses that moved most.
        nearest: Rated rows nearest to them; ``None`` where that is not known.
        nearest_note: Reason why it is not known, or empty.
    """

    stream: str
    kind: StreamKind
    objective: str | None
    direction: Literal["up", "down"]
    log10_evidence: float
    log10_needed: float
    step: int
    unit: int
    since_step: int
    since_unit: int
    shift: Shift
    moves: Mapping[str, float]
    moved: tuple[MovedResponse, ...] = ()
    nearest: tuple[NearRow, ...] | None = None
    nearest_note: str = ""

    @property
    def sentence(self) -> str:
        """The alarm in one sentence."""
        shift = self.shift
        if self.kind == "unfamiliar":
            return (
                f"{shift.now:.0%} of responses since step {self.since_step} are more novel than "
                f"99 % of held-out rated rows, where up to {shift.before:.0%} was said to be usual."
            )
        verb = "rose" if self.direction == "up" else "fell"
        size = (
            f"by {abs(shift.size):.3g} (95 % interval {shift.low:+.3g} to {shift.high:+.3g}; "
            f"{abs(shift.deviations):.1f} deviations), from {shift.before:.3g} to {shift.now:.3g}, "
            f"since step {self.since_step}"
        )
        names = {
            "score": "The score",
            "objective": f"The reward {self.objective}",
            "novelty": "The novelty of responses",
            "text": f"The {self.stream.partition(':')[2]} of responses",
        }
        if self.kind == "dominance":
            return f"{self.objective} pulls away from the other objectives: its lead {verb} {size}."
        return f"{names[self.kind]} {verb} {size}."

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        record = {name: getattr(self, name) for name in self.__slots__}
        return {
            **record,
            "shift": {**asdict(self.shift), "size": self.shift.size},
            "moves": dict(self.moves),
            "moved": [one.as_dict() for one in self.moved],
            "nearest": None if self.nearest is None else [row.as_dict() for row in self.nearest],
            "sentence": self.sentence,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Alarm:
        """Return the alarm of a record, long texts cut and features left out."""
        record = {name: value for name, value in record.items() if name != "sentence"}
        shift = Shift(**{name: one for name, one in record["shift"].items() if name != "size"})
        moved = tuple(MovedResponse(**one) for one in record["moved"])
        alarm = cls(**{**record, "shift": shift, "moved": moved, "nearest": None})
        if record["nearest"] is None:
            return alarm
        return replace(alarm, nearest=tuple(NearRow(**row) for row in record["nearest"]))


def shortened(text: str) -> str:
    """Return the text, cut to what an alarm carries."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def change_point(
    scores: Float[np.ndarray, " n"], steps: Int[np.ndarray, " n"], *, rising: bool
) -> int:
    """Return the position at which the normal scores of ranks most likely began to move.

    It maximises the likelihood ratio of a shift in one direction, sum² / (2 n) over the scores from
    there on (Page 1954; Siegmund and Venkatraman 1995), over the beginnings of steps.
    """
    sums = np.cumsum((scores if rising else -scores)[::-1])[::-1]
    ratios = sums / np.sqrt(np.arange(len(scores), 0, -1))
    begins = np.diff(steps, prepend=-1) > 0
    return int(np.argmax(np.where(begins, ratios, -np.inf)))


def shift_since(
    values: Float[np.ndarray, " n"], baseline: tuple[float, float, int], *, beginning: int
) -> Shift:
    """Return the size of a change, with an interval that may be looked at any time.

    For each beginning k the interval is Robbins' normal mixture for means (asymptotically valid at
    all times: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, *Time-uniform central limit
    theory and asymptotic confidence sequences*), at a level that is shared out over all k; so it
    holds for the k and the time that the alarm chose.

    Args:
        values: Numbers since the change, one per prompt.
        baseline: Mean, deviation and number of the baseline's prompts.
        beginning: Number of the first step of the change since the baseline's end, from 1.
    """
    mean, deviation, count = baseline
    n, now = len(values), float(values.mean())
    own = float(values.std(ddof=1)) if n > 1 else 0.0
    missed = 1.0 - CONFIDENCE
    at_once = NormalDist().inv_cdf(1 - missed / 10) * deviation / math.sqrt(max(count, 1))
    # Four fifths of the missed coverage for the mean since the change, at its beginning's share.
    log_level = math.log(0.8 * missed) + log_start_weight(beginning)
    tuned = 4.0  # narrow for the few dozen prompts that most alarms have
    boundary = math.sqrt((n + tuned) * (math.log((n + tuned) / tuned) - 2 * log_level)) / n
    half = max(own, deviation) * boundary + at_once
    size = now - mean
    return Shift(mean, now, size - half, size + half, size / deviation if deviation else 0.0)
