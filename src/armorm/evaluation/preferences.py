"""Accuracy of a reward model on preference pairs: whole, by length of the winner, by subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from armorm.conversations import PreferencePair
from armorm.data import InvalidPolicy
from armorm.errors import ArmormError
from armorm.evaluation.accuracy import Accuracy, MethodAccuracy
from armorm.evaluation.scorers.base import ScoredRows, Scorer, score_all

if TYPE_CHECKING:
    from armorm.model import RewardModel


@dataclass(frozen=True, slots=True)
class PreferenceReport:
    """Accuracy on preference pairs; a tie counts as wrong.

    Attributes:
        accuracy: Share of pairs whose chosen response scores strictly higher.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
        n: Pairs scored.
        ties: Pairs with equal scores; they count as wrong.
        too_long: Pairs that could not be read whole; they are not counted in ``n``.
        length: Accuracy of preferring the longer response.
        shorter_won: Accuracy on the pairs whose chosen response is the shorter one.
        longer_won: Accuracy on the pairs whose chosen response is the longer one.
        balanced: Mean of the two.
        subsets: Accuracy by subset.
        invalid: Errors of the pairs without scores; they are not counted in ``n``.
    """

    accuracy: float | None
    low: float | None
    high: float | None
    n: int
    ties: int
    too_long: int
    length: Accuracy
    shorter_won: Accuracy
    longer_won: Accuracy
    balanced: Accuracy
    subsets: dict[str, Accuracy]
    invalid: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def evaluate(
    model: RewardModel | Scorer,
    pairs: Sequence[PreferencePair],
    *,
    invalid: InvalidPolicy = "error",
    show_progress: bool = False,
) -> PreferenceReport:
    """Score both responses of every pair and report the accuracy.

    Args:
        model: The model, or any other scorer. Pairs longer than it can read are counted in
            ``too_long``, unless its policy is ``error``.
        pairs: The pairs.
        invalid: ``error`` stops at a pair without a finite score, or that the chat template
            refuses; ``skip`` lists it.
        show_progress: Draw a progress bar on standard error.

    Raises:
        InputError: A pair has no scores.
        ArmormError: There are no pairs.

    Example:
        >>> from armorm import PreferencePair, RewardModel, evaluate
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")  # doctest: +SKIP
        >>> prompt = ({"role": "user", "content": "What is the capital of Norway?"},)
        >>> pair = PreferencePair(prompt, chosen="It is Oslo.", rejected="It is Bergen.")
        >>> evaluate(model, [pair]).accuracy  # doctest: +SKIP
        1.0
    """
    if not isinstance(model, Scorer):
        from armorm.evaluation.scorers.reward_models import RewardModelScorer

        model = RewardModelScorer(model)
    return report_on(score_all(model, pairs, invalid=invalid, show_progress=show_progress))


def report_on(scored: ScoredRows[PreferencePair]) -> PreferenceReport:
    """Return the accuracy of scored pairs.

    Raises:
        ArmormError: There are no pairs.
    """
    if not scored.rows and not scored.too_long and not scored.invalid:
        raise ArmormError("There are no preference pairs to evaluate on.")
    pairs = [one.row for one in scored.rows]
    margins = np.array([one.margin for one in scored.rows], np.float64)
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], np.float64)
    found = MethodAccuracy.of(margins, longer, [pair.subset for pair in pairs])
    return PreferenceReport(
        accuracy=found.all.accuracy,
        low=found.all.low,
        high=found.all.high,
        n=len(pairs),
        ties=int((margins == 0).sum()),
        too_long=scored.too_long,
        length=Accuracy.of(longer),
        shorter_won=found.shorter_won,
        longer_won=found.longer_won,
        balanced=found.balanced,
        subsets=found.subsets,
        invalid=tuple(scored.invalid),
    )
