"""Accuracy on sources that stage 2 has not seen: does what was learned on some data travel?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from armorm.errors import ArmormError
from armorm.evaluation.accuracy import Accuracy, MethodAccuracy
from armorm.features.store import PairIndex
from armorm.progress import progress_bar

FEWEST_PAIRS = 20
"""Pairs that a source needs to count in the means; a smaller one is listed only."""

Part = Literal["all", "shorter_won", "longer_won", "balanced"]


@dataclass(frozen=True, slots=True)
class LeftOutSource:
    """Figures on a source whose pairs were kept out of debiasing and stage 2.

    Attributes:
        pairs: Number of its pairs, all of which are measured on.
        training_pairs: Pairs of other sources that were trained on.
        methods: Accuracies of the gate and its rivals.
        best_single_objective: The objective that ranks most of the training pairs right.
        shrinkage: Share of the gate in its logits; None without shrinkage.
    """

    pairs: int
    training_pairs: int
    methods: dict[str, MethodAccuracy]
    best_single_objective: str
    shrinkage: float | None


@dataclass(frozen=True, slots=True)
class LeaveOutReport:
    """Figures of stage 2 with each source left out in turn.

    Attributes:
        sources: Figures by source.
    """

    sources: dict[str, LeftOutSource]

    @property
    def counted(self) -> Mapping[str, LeftOutSource]:
        """The sources that have enough pairs to count in the means."""
        return {name: one for name, one in self.sources.items() if one.pairs >= FEWEST_PAIRS}

    def mean(self, method: str, part: Part = "all") -> Accuracy:
        """Return the plain mean of a method's accuracy over the sources that count."""
        return Accuracy.mean([getattr(one.methods[method], part) for one in self.counted.values()])

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``leave_out.json``."""
        parts: tuple[Part, ...] = ("all", "shorter_won", "balanced")
        methods = next(iter(self.sources.values())).methods
        return {
            "sources": {name: asdict(one) for name, one in self.sources.items()},
            "mean": {
                method: {part: asdict(self.mean(method, part)) for part in parts}
                for method in methods
            },
            "mean_over": list(self.counted),
        }


def leave_each_out(
    pairs: PairIndex,
    measure: Callable[[PairIndex], LeftOutSource],
    *,
    show_progress: bool = False,
) -> LeaveOutReport:
    """Measure stage 2 on each source, trained without it.

    Args:
        pairs: All pairs.
        measure: Trains stage 2 on the pairs that are not held out and measures it on the others.
        show_progress: Draw a progress bar on standard error.

    Raises:
        ArmormError: The pairs have one source only.
    """
    names = sorted(set(pairs.source))
    if len(names) < 2:
        raise ArmormError(
            "Leaving out each source needs preference pairs of at least 2 sources; these are all "
            f"of {', '.join(names)}."
        )
    found = {}
    with progress_bar("leaving sources out", len(names), "sources", show_progress) as advance:
        for name in names:
            found[name] = measure(pairs.leaving_out([name]))
            advance(1)
    return LeaveOutReport(found)
