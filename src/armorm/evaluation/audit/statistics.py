"""Estimates with intervals, for detectors that look at many responses to few prompts.

Responses to one prompt are not independent, so every interval resamples whole prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats
from jaxtyping import Float, Int

from armorm.intervals import wilson_interval

REPLICATES = 200
FALSE_DISCOVERIES = 0.05
"""Share of false findings among those that a table marks, at most (Benjamini and Hochberg 1995)."""

_LEAST_VARIED = 10
"""Prompts in which a feature must differ from its most frequent value to be correlated at all."""
_Z = float(scipy.stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: The figure; None where the data do not determine it.
        low: Lower end of the interval.
        high: Upper end.
        n: Responses, or pairs, that it was measured on.
        p: Two-sided p value of the null hypothesis that the figure is zero, where one is tested.
        found: True if the null hypothesis is rejected after control of the false-discovery rate
            over the whole table; None where nothing is tested.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None
    found: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)

    def text(self, digits: int = 2, *, percent: bool = False) -> str:
        """Return the figure and its interval for a person to read.

        Example:
            >>> Estimate(0.3128, 0.271, 0.3542).text()
            '0.31 (0.27–0.35)'
            >>> Estimate(0.08, 0.05, 0.12).text(percent=True)
            '8 % (5–12)'
            >>> Estimate(0.0123, 0.004, 0.0212).text(3, percent=True)
            '1.2 % (0.4–2.1)'
        """
        if self.value is None:
            return "–"
        form = f".{max(digits - 2, 0)}f" if percent else f".{digits}f"
        scale, unit = (100, " %") if percent else (1, "")
        text = f"{_number(scale * self.value, form)}{unit}"
        if self.low is None or self.high is None:
            return text
        low, high = _number(scale * self.low, form), _number(scale * self.high, form)
        between = " to " if "−" in low + high else "–"
        return f"{text} ({low}{between}{high})"


def _number(value: float, form: str) -> str:
    text = format(value, form)
    return text.lstrip("-") if not float(text) else text.replace("-", "−")


UNKNOWN = Estimate(None)


def share(successes: npt.ArrayLike) -> Estimate:
    """Return the share of true values with Wilson's interval."""
    true = np.asarray(successes, bool)
    interval = wilson_interval(int(true.sum()), len(true))
    if interval is None:
        return UNKNOWN
    return Estimate(float(true.mean()), interval.low, interval.high, len(true))


def mean(values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> Estimate:
    """Return the mean with an interval that allows for correlation within clusters.

    The variance is that of the sums of residuals over clusters, the interval Student's with as
    many degrees of freedom as there are clusters, less one.
    """
    if not len(values):
        return UNKNOWN
    center = float(values.mean())
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.bincount(number, values - center)
    count = len(sums)
    if count < 2:
        return Estimate(center, n=len(values))
    deviation = float(np.sqrt(count / (count - 1) * (sums**2).sum())) / len(values)
    reach = float(scipy.stats.t.ppf(0.975, count - 1)) * deviation
    if deviation == 0.0:
        return Estimate(center, center, center, len(values), p=float(center == 0.0))
    p = 2.0 * float(scipy.stats.t.sf(abs(center) / deviation, count - 1))
    return Estimate(center, center - reach, center + reach, len(values), p)


def bounded_mean(
    values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], lowest: float = 0.0
) -> Estimate:
    """Return the mean of values between ``lowest`` and 1, with an interval that stays there.

    Prompts that are all alike show no variance, yet do not prove that the next one is like them:
    the interval then reaches as far as Wilson's for no success among so many prompts.

    Example:
        >>> bounded_mean(np.zeros(10), np.arange(10), lowest=-1.0).text()
        '0.00 (−0.28 to 0.28)'
    """
    found = mean(values, clusters)
    if found.value is None:
        return found
    count = len(np.unique(clusters))
    low, high, p = found.low, found.high, found.p
    if np.ptp(values) == 0.0:
        interval = wilson_interval(0, count)
        assert interval is not None
        low, high = found.value - interval.high, found.value + interval.high
        p = 1.0 if found.value == 0.0 else min(1.0, 2.0 * 0.5**count)
    elif low is None or high is None:  # the responses to a single prompt
        low, high = lowest, 1.0
    low, high = max(low, lowest), min(high, 1.0)
    return replace(found, low=low, high=high, p=p if lowest < 0.0 else None)


def control_false_discoveries(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the estimates of one table with ``found`` set by Benjamini and Hochberg's rule."""
    tested = [place for place, one in enumerate(estimates) if one.p is not None]
    marked = list(estimates)
    if tested:
        adjusted = scipy.stats.false_discovery_control([estimates[place].p for place in tested])
        for place, q in zip(tested, adjusted, strict=True):
            marked[place] = replace(marked[place], found=bool(q <= FALSE_DISCOVERIES))
    return marked


def control_table(
    table: Mapping[str, Mapping[str, Estimate]],
) -> dict[str, dict[str, Estimate]]:
    """Return a table of estimates with ``found`` set over all of its cells."""
    cells = control_false_discoveries([cell for row in table.values() for cell in row.values()])
    rest = iter(cells)
    return {name: {column: next(rest) for column in row} for name, row in table.items()}


@dataclass(frozen=True, slots=True)
class RankCorrelations:
    """Spearman correlations of features with targets.

    Attributes:
        plain: Correlations. ``plain[i][j]`` is that of feature i and target j.
        partial: Correlations that are left when the ranks of a third variable are regressed out
            of both; None without one.
    """

    plain: list[list[Estimate]]
    partial: list[list[Estimate]] | None


def rank_correlations(
    features: Float[np.ndarray, "n features"],
    targets: Float[np.ndarray, "n targets"],
    clusters: Int[np.ndarray, " n"],
    *,
    given: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> RankCorrelations:
    """Return Spearman correlations with intervals from a bootstrap over clusters.

    The interval is normal on Fisher's scale, atanh(rho) ± 1.96 s, with s the standard deviation of
    atanh(rho) over resamples of whole clusters, each ranked anew.

    Args:
        features: Values of the features; one that hardly varies is not correlated.
        targets: Values of the targets.
        clusters: Number of the prompt of each row.
        given: Variable to hold fixed in the partial correlations.
        seed: Of the resampling.
        replicates: Resamples.
    """
    n, count = features.shape
    columns = [features, targets] + ([] if given is None else [given[:, None]])
    ranker = _Ranker(np.concatenate(columns, axis=1))
    _, number = np.unique(clusters, return_inverse=True)
    size = int(number.max(initial=-1)) + 1
    varied = np.array([_varied(column, number, size) for column in features.T], bool)
    if size < 3 or not varied.any():
        nothing = [[Estimate(None, n=n)] * targets.shape[1] for _ in range(count)]
        return RankCorrelations(nothing, None if given is None else nothing)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(size, np.full(size, 1.0 / size), size=replicates)
    found = [_split(ranker.correlate(np.ones(n)), count, given is not None)]
    found += [
        _split(ranker.correlate(draw[number].astype(np.float64)), count, given is not None)
        for draw in draws
    ]
    plain = _estimates(np.stack([one for one, _ in found]), varied, n)
    if given is None:
        return RankCorrelations(plain, None)
    return RankCorrelations(plain, _estimates(np.stack([one for _, one in found]), varied, n))


def within_clusters(
    values: Float[np.ndarray, "n columns"], clusters: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n columns"]:
    """Return the values minus the mean of their cluster."""
    _, number = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(number)
    means = np.stack([np.bincount(number, column) / sizes for column in values.T], axis=1)
    centered: npt.NDArray[np.float64] = values - means[number]
    # Rounding must not order what is equal.
    return np.where(np.abs(centered) <= 1e-9 * (np.abs(values) + 1e-30), 0.0, centered)


class _Ranker:
    """Weighted mid-ranks of fixed columns, so that a bootstrap resample needs no sorting."""

    def __init__(self, columns: Float[np.ndarray, "n m"]) -> None:
        self.order = np.argsort(columns, axis=0, kind="stable")
        ordered = np.take_along_axis(columns, self.order, axis=0)
        n = len(columns)
        place = np.arange(n)[:, None]
        first = np.ones(ordered.shape, bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self.start = np.maximum.accumulate(np.where(first, place, 0), axis=0)
        last = np.ones(ordered.shape, bool)
        last[:-1] = first[1:]
        self.end = np.minimum.accumulate(np.where(last, place, n)[::-1], axis=0)[::-1]

    def correlate(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "m m"]:
        """Return the rank correlations of all columns, each row counted by its weight."""
        total = np.zeros((len(weights) + 1, self.order.shape[1]))
        np.cumsum(weights[self.order], axis=0, out=total[1:])
        middle = 0.5 * (
            np.take_along_axis(total, self.start, axis=0)
            + np.take_along_axis(total, self.end + 1, axis=0)
        )
        ranks = np.empty_like(middle)
        np.put_along_axis(ranks, self.order, middle, axis=0)
        ranks -= (weights @ ranks) / weights.sum()
        covariance = (ranks * weights[:, None]).T @ ranks
        deviation = np.sqrt(np.diag(covariance))
        with np.errstate(divide="ignore", invalid="ignore"):
            correlations: npt.NDArray[np.float64] = covariance / np.outer(deviation, deviation)
        return correlations


def _varied(column: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], size: int) -> bool:
    values, counts = np.unique(column, return_counts=True)
    unusual = np.unique(clusters[column != values[np.argmax(counts)]])
    return len(unusual) >= min(_LEAST_VARIED, max(size // 2, 3))


def _split(
    matrix: Float[np.ndarray, "m m"], features: int, partial: bool
) -> tuple[Float[np.ndarray, "features targets"], Float[np.ndarray, "features targets"]]:
    """Return the plain correlations of features and targets, and the partial ones."""
    end = -1 if partial else None
    plain = matrix[:features, features:end]
    if not partial:
        return plain, plain
    of_features, of_targets = matrix[:features, -1:], matrix[-1:, features:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (1.0 - of_features**2) * (1.0 - of_targets**2)
        # Where the third variable explains a column completely, nothing is left to correlate.
        left = np.where(left > 1e-9, left, np.nan)
        return plain, (plain - of_features * of_targets) / np.sqrt(left)


def _estimates(
    found: Float[np.ndarray, "replicates features targets"], varied: npt.NDArray[np.bool_], n: int
) -> list[list[Estimate]]:
    scale = np.arctanh(np.clip(found, -1 + 1e-9, 1 - 1e-9))
    scale[:, ~varied] = np.nan
    known = np.isfinite(scale[1:]).mean(axis=0) > 0.9
    with np.errstate(invalid="ignore"):
        deviation = np.where(known, np.nanstd(np.where(known, scale[1:], 0.0), axis=0), np.nan)
    return [
        [_fisher(float(c), float(d), n) for c, d in zip(*rows, strict=True)]
        for rows in zip(scale[0], deviation, strict=True)
    ]


def _fisher(center: float, deviation: float, n: int) -> Estimate:
    if not np.isfinite(center) or not np.isfinite(deviation):
        return Estimate(None, n=n)
    low, high = np.tanh([center - _Z * deviation, center + _Z * deviation])
    p = 1.0 if center == 0.0 else 0.0
    if deviation > 0:
        p = 2.0 * float(scipy.stats.norm.sf(abs(center) / deviation))
    return Estimate(float(np.tanh(center)), float(low), float(high), n, p)
