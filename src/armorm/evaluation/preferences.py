"""Accuracy of a reward model on preference pairs, whole and by subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from armorm.conversations import PreferencePair
from armorm.errors import ArmormError
from armorm.heads.metrics import accuracy
from armorm.model import RewardModel
from armorm.progress import progress_bar

PAIRS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class SubsetAccuracy:
    """Accuracy on n pairs; a tie counts as wrong, as RewardBench counts it."""

    accuracy: float | None
    n: int


@dataclass(frozen=True, slots=True)
class PreferenceReport:
    """What :func:`evaluate` found.

    Attributes:
        accuracy: Share of pairs whose chosen response scores strictly higher.
        n: Pairs scored.
        ties: Pairs with equal scores; they count as wrong.
        too_long: Pairs that could not be read whole and were left out.
        length_accuracy: What preferring the longer response would give.
        shorter_won: Accuracy on the pairs whose chosen response is the shorter one.
        subsets: Accuracy by subset.
    """

    accuracy: float | None
    n: int
    ties: int
    too_long: int
    length_accuracy: float | None
    shorter_won: SubsetAccuracy
    subsets: dict[str, SubsetAccuracy]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A preference pair with the scores of its responses."""

    pair: PreferencePair
    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected


def evaluate(
    model: RewardModel, pairs: Sequence[PreferencePair], *, show_progress: bool = False
) -> PreferenceReport:
    """Score both responses of every pair and report the accuracy.

    Pairs longer than the model can read are counted in ``too_long`` when the backbone's policy
    is ``skip`` or ``drop_oldest_turns``.

    Raises:
        OverlongError: a pair is too long under the policy ``error``.
        ArmormError: there is nothing to evaluate.
    """
    scored = score_pairs(model, pairs, show_progress=show_progress)
    return report_on(scored, too_long=len(pairs) - len(scored))


def score_pairs(
    model: RewardModel, pairs: Sequence[PreferencePair], *, show_progress: bool = False
) -> list[ScoredPair]:
    """Score both responses of every pair; pairs that are too long are left out.

    Raises:
        OverlongError: a pair is too long under the policy ``error``.
    """
    scored: list[ScoredPair] = []
    with progress_bar("evaluate", len(pairs), "pairs", show_progress) as advance:
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            chunk = pairs[start : start + PAIRS_AT_ONCE]
            scored += _score_chunk(model, chunk)
            advance(len(chunk))
    return scored


def report_on(scored: Sequence[ScoredPair], too_long: int = 0) -> PreferenceReport:
    """The accuracy of scores, whoever made them.

    Raises:
        ArmormError: there is nothing to report on.
    """
    if not scored and not too_long:
        raise ArmormError("There are no preference pairs to evaluate on.")
    margins = np.array([one.margin for one in scored])
    pairs = [one.pair for one in scored]
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
    subset = np.array([pair.subset for pair in pairs])
    return PreferenceReport(
        accuracy=accuracy(margins),
        n=len(pairs),
        ties=int((margins == 0).sum()),
        too_long=too_long,
        length_accuracy=accuracy(longer),
        shorter_won=_subset(margins[longer < 0]),
        subsets={str(name): _subset(margins[subset == name]) for name in np.unique(subset)},
    )


def _score_chunk(model: RewardModel, pairs: Sequence[PreferencePair]) -> list[ScoredPair]:
    encoder = model.backbone.encoder
    encoded = [encoder.encode_or_skip(pair.prompt, pair.responses) for pair in pairs]
    present = [conversation for conversation in encoded if conversation is not None]
    scores = iter(model.score_encoded(present).score.tolist() if present else [])
    return [
        ScoredPair(pair, next(scores), next(scores))
        for pair, conversation in zip(pairs, encoded, strict=True)
        if conversation is not None
    ]


def _subset(margins: npt.NDArray[np.float64]) -> SubsetAccuracy:
    return SubsetAccuracy(accuracy(margins), len(margins))
