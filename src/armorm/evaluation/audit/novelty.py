"""Detector: are the responses like those that the rewards were fitted on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from armorm.evaluation.audit.statistics import Estimate, bounded_mean


@dataclass(frozen=True, slots=True)
class NoveltyReport:
    """Novelty of responses; 1 is typical of the rated rows.

    Attributes:
        median: Median of the novelty.
        usual: Novelty that 99 % of held-out rated rows stay below, if known.
        novel: Share of responses above it.
        groups: The same by group.
    """

    median: float
    usual: float | None
    novel: Estimate
    groups: Mapping[str, Estimate]

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        return {"novel_share": self.novel}


def measure_novelty(
    novelty: Float[np.ndarray, " n"],
    usual: float | None,
    groups: Sequence[str],
    clusters: Int[np.ndarray, " n"],
) -> NoveltyReport:
    """Return the novelty of responses.

    Args:
        novelty: Of each response.
        usual: Limit above which a response is novel.
        groups: Group of each pair of responses.
        clusters: Number of the prompt of each response.
    """
    novel = (novelty > (np.inf if usual is None else usual)).astype(np.float64)
    named = np.repeat(np.array(groups, dtype=object), 2)
    return NoveltyReport(
        median=float(np.median(novelty)),
        usual=usual,
        novel=Estimate(None, n=len(novel)) if usual is None else bounded_mean(novel, clusters),
        groups={
            group: bounded_mean(novel[named == group], clusters[named == group])
            for group in sorted(set(groups))
        }
        if usual is not None
        else {},
    )
