"""Confidence intervals of shares, without a library of statistics, so that importing is quick."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval of a share."""

    low: float
    high: float


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval | None:
    """Return Wilson's score interval of a binomial share; ``None`` when ``n`` is 0.

    Unlike p ± z sqrt(p (1 - p) / n) it stays within [0, 1] and is right for small n and for shares
    near 0 and 1 (Wilson 1927).

    Args:
        successes: Number of successes. A sum of credits between 0 and 1 may be no whole number;
            the interval is then wider than need be, since no such credit varies more than a coin.
        n: Number of trials.
        confidence: Coverage.

    Example:
        >>> low, high = wilson_interval(81, 100)
        >>> round(low, 3), round(high, 3)
        (0.722, 0.875)
    """
    if n == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    # The ends of a share of 0 or 1 are 0 and 1, which rounding misses.
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if successes >= n else min(1.0, centre + half))
