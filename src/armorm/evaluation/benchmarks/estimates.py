"""A figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from armorm.intervals import wilson_interval

RESAMPLES = 2000
FEW_ROWS = 20
"""Below this number of rows a bootstrap interval is too short; Wilson's is not."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, the number of rows behind it, and its 95 % interval.

    Attributes:
        value: The figure; None where rows that it needs are missing.
        n: Rows it was computed on.
        low: Lower end of the interval.
        high: Upper end.
        method: ``wilson``, ``bootstrap``, or ``combined`` from the intervals of its parts.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    method: str | None = None

    @classmethod
    def share(cls, credits: Float[np.ndarray, " rows"]) -> Estimate:
        """Return the mean of credits between 0 and 1, one a row.

        The interval is Wilson's for rows that are right or wrong, and the percentile bootstrap's
        over rows for partial credit on enough of them.

        Example:
            >>> Estimate.share(np.array([1.0, 1.0, 0.0, 1.0])).value
            0.75
        """
        n = len(credits)
        if n == 0:
            return cls(None, 0)
        value = float(np.mean(credits))
        if n >= FEW_ROWS and not np.isin(credits, (0.0, 1.0)).all():
            return cls.bootstrapped(value, n, lambda rows: credits[rows].mean(axis=1))
        interval = wilson_interval(float(np.sum(credits)), n)
        assert interval is not None
        return cls(value, n, interval.low, interval.high, "wilson")

    @classmethod
    def bootstrapped(
        cls, value: float, n: int, statistic: Callable[[np.ndarray], np.ndarray]
    ) -> Estimate:
        """Return a figure with its percentile bootstrap interval.

        Args:
            value: The figure on all rows.
            n: Number of rows.
            statistic: Computes the figure of each resample from the numbers of its rows, shape
                (resamples, n).
        """
        # One seed: the interval of the same scores is the same in every run.
        rows = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
        low, high = np.quantile(statistic(rows), (0.025, 0.975))
        return cls(value, n, float(low), float(high), "bootstrap")

    @classmethod
    def weighted(cls, parts: Mapping[Any, tuple[float, Estimate]]) -> Estimate:
        """Return the weighted mean of figures on disjoint rows, each given with its weight.

        The interval adds the distances to the ends of the parts' intervals as independent errors
        (Zou and Donner 2008).  Without the figure of one part there is none of the whole.

        Example:
            >>> halves = Estimate(0.5, 10, 0.2, 0.8), Estimate(1.0, 10, 0.7, 1.0)
            >>> mean = Estimate.weighted({half: (1.0, half) for half in halves})
            >>> mean.value, round(mean.low, 3), round(mean.high, 3)
            (0.75, 0.538, 0.9)
        """
        n = sum(part.n for _, part in parts.values())
        if not parts or any(part.value is None for _, part in parts.values()):
            return cls(None, n)
        total = sum(weight for weight, _ in parts.values())
        value = down = up = 0.0
        for weight, part in parts.values():
            share = weight / total
            assert part.value is not None
            assert part.low is not None
            assert part.high is not None
            value += share * part.value
            down += (share * (part.value - part.low)) ** 2
            up += (share * (part.high - part.value)) ** 2
        return cls(value, n, value - math.sqrt(down), value + math.sqrt(up), "combined")

    @classmethod
    def mean(cls, parts: Mapping[Any, Estimate]) -> Estimate:
        """Return the plain mean of figures on disjoint rows; see :meth:`weighted`."""
        return cls.weighted({name: (1.0, part) for name, part in parts.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)
