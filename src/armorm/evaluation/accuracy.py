"""Accuracy on preference pairs with its interval: whole, by length of the winner, by subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.heads.metrics import accuracy, mcnemar
from armorm.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of preference pairs whose chosen response scores strictly higher; a tie is wrong.

    Attributes:
        accuracy: The share; None where there are no pairs.
        n: Number of pairs.
        low: Lower end of the 95 % interval (Wilson 1927).
        high: Upper end.
    """

    accuracy: float | None
    n: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, margins: Float[np.ndarray, " pairs"]) -> Accuracy:
        """Return the accuracy of margins: score of chosen minus score of rejected."""
        interval = wilson_interval(int((margins > 0).sum()), len(margins))
        low, high = interval or (None, None)
        return cls(accuracy(margins), len(margins), low, high)

    @classmethod
    def mean(cls, parts: Sequence[Accuracy]) -> Accuracy:
        """Return the plain mean of accuracies on disjoint pairs.

        The interval adds the distances to the ends of each part's interval as independent errors
        (Newcombe 1998, method 10).
        """
        n = sum(part.n for part in parts)
        known = [(p.accuracy, p.low, p.high) for p in parts if p.accuracy is not None]
        if len(known) < len(parts):
            return cls(None, n, None, None)
        share, low, high = np.array(known, np.float64).T
        down, up = np.linalg.norm(share - low), np.linalg.norm(high - share)
        mean, count = float(share.mean()), len(parts)
        return cls(mean, n, mean - float(down) / count, mean + float(up) / count)


@dataclass(frozen=True, slots=True)
class SourceAccuracy:
    """Accuracies on the pairs of one source.

    Attributes:
        all: On all pairs of the source.
        shorter_won: On those whose chosen response is the shorter one.
    """

    all: Accuracy
    shorter_won: Accuracy


@dataclass(frozen=True, slots=True)
class MethodAccuracy:
    """Accuracies of one way to score, on the same pairs as its rivals.

    Attributes:
        all: On all pairs.
        shorter_won: On the pairs whose chosen response is the shorter one.
        longer_won: On the pairs whose chosen response is the longer one.
        balanced: Mean of the two: preferring length, or its opposite, gives one half.
        subsets: By subset.
        mcnemar_p: Two-sided p of McNemar's test that this method and the gate are right equally
            often; None for the gate itself.
        sources: By source.
    """

    all: Accuracy
    shorter_won: Accuracy
    longer_won: Accuracy
    balanced: Accuracy
    subsets: dict[str, Accuracy]
    mcnemar_p: float | None = None
    sources: dict[str, SourceAccuracy] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        margins: Float[np.ndarray, " pairs"],
        longer: npt.NDArray[Any],
        subsets: Sequence[str],
        rival: Float[np.ndarray, " pairs"] | None = None,
        sources: Sequence[str] = (),
    ) -> MethodAccuracy:
        """Return the accuracies of margins.

        Args:
            margins: Score of chosen minus score of rejected.
            longer: Length of chosen minus length of rejected.
            subsets: Subset of each pair.
            rival: Margins of the method to test against.
            sources: Source of each pair; without it there are no figures by source.
        """
        subset, source = np.array(subsets, dtype=object), np.array(sources, dtype=object)
        shorter_won, longer_won = Accuracy.of(margins[longer < 0]), Accuracy.of(margins[longer > 0])
        return cls(
            all=Accuracy.of(margins),
            shorter_won=shorter_won,
            longer_won=longer_won,
            balanced=Accuracy.mean([shorter_won, longer_won]),
            subsets={name: Accuracy.of(margins[subset == name]) for name in sorted(set(subsets))},
            mcnemar_p=None if rival is None else mcnemar(rival > 0, margins > 0).p_value,
            sources={
                name: SourceAccuracy(
                    Accuracy.of(margins[source == name]),
                    Accuracy.of(margins[(source == name) & (longer < 0)]),
                )
                for name in sorted(set(sources))
            },
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)
