"""Evidence against "nothing changed" that may be looked at after every response.

**Null.** Units (a prompt with its responses) are exchangeable: those scored now might as well have
come in any other order with those of the baseline.  Any number of a unit then is exchangeable too.

**Ranks.** The rank of a unit among all units so far, itself included and ties broken at random, is
a *conformal p-value*; under the null they are independent and uniform on [0, 1] for every
distribution (Vovk, Gammerman and Shafer 2005, *Algorithmic learning in a random world*,
theorem 8.1).  Ranks against a fixed baseline alone would not be: its own sampling error would stay
in all of them.

**Bets.** For a uniform p with the normal score z(p), exp(d z - d²/2) has expectation 1, so the
product of such factors is a martingale: the capital of a gambler who bets that values moved by d
deviations (Vovk, Nouretdinov and Gammerman 2003; conformal test martingales).  Bets of both
directions, of several d, and beginning at every step, are averaged with weights fixed beforehand;
an average of martingales is one.

**Bound.** By Ville's inequality the probability that such a capital, which begins at 1, *ever*
reaches 1 / a is at most a.  With m streams each is asked for m / a, so that the probability of any
false alarm, ever, is at most a, however the streams depend on each other.

**Run length.** With weight 1 for every beginning the sum is an e-detector of Shiryaev and Roberts'
form (Shin, Ramdas and Rinaldo 2024, *E-detectors*, New England Journal of Statistics in Data
Science): asked for m * r, it makes the mean number of steps to a false alarm at least r.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

Array = npt.NDArray[np.float64]

SHIFTS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
"""Shifts that are bet on, in deviations."""

STAKES: tuple[float, ...] = (0.1, 0.25, 0.5, 0.9)
"""Parts of the capital that are put on "more often than the stated share"."""

SIDES = 2
"""Up and down, in this order."""

BINS = 1024
REACH = 8.0
"""Deviations from the centre at which the outer bins, which have no end, begin."""


class SequentialRanks:
    """Ranks of the newest values of m streams among all values before them.

    Values are rounded to bins, which are chosen beforehand, so that memory does not grow.  That
    costs no validity: what is exchangeable stays so, and ties are broken at random.

    Args:
        sample: Values that choose the bins, and are not ranked. Shape (n, m).
    """

    def __init__(self, sample: Float[np.ndarray, "n m"]) -> None:
        low, centre, high = np.quantile(sample, [0.25, 0.5, 0.75], axis=0)
        # A quarter of a text measure's values may differ from 0, or fewer: then the deviation.
        spread = np.maximum((high - low) / 1.349, sample.std(axis=0) / 2)
        self._low = centre - REACH * spread
        self._width = np.where(spread > 0, 2 * REACH * spread / BINS, 1.0)
        self._counts: npt.NDArray[np.int64] = np.zeros((sample.shape[1], BINS + 2), np.int64)
        self._seen = 0

    def add(self, values: Float[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """Count a value of each stream, without ranking it; return their bins."""
        bins = np.clip(np.floor((values - self._low) / self._width), -1, BINS).astype(np.int64) + 1
        self._counts[np.arange(len(bins)), bins] += 1
        self._seen += 1
        places: npt.NDArray[np.int64] = bins
        return places

    def rank(
        self, values: Float[np.ndarray, " m"], ties: Float[np.ndarray, " m"]
    ) -> Float[np.ndarray, " m"]:
        """Return the share of values so far that are above each value, which is counted too.

        Args:
            values: One value of each stream.
            ties: Uniform random numbers, which break ties.
        """
        bins = self.add(values)
        above = np.where(np.arange(BINS + 2) > bins[:, None], self._counts, 0).sum(axis=1)
        equal = self._counts[np.arange(len(bins)), bins]
        shares: Array = (above + ties * equal) / self._seen
        return shares

    def as_dict(self) -> dict[str, Any]:
        """Return the state, JSON-ready; counts as ``[bin, count]`` of those that are not 0."""
        counts = [
            [[int(place), int(row[place])] for place in np.flatnonzero(row)] for row in self._counts
        ]
        low, width = self._low.tolist(), self._width.tolist()
        return {"low": low, "width": width, "counts": counts, "seen": self._seen}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> SequentialRanks:
        """Return the ranks of a state."""
        ranks = cls(np.zeros((1, len(state["low"]))))
        ranks._low, ranks._width = np.array(state["low"]), np.array(state["width"])
        for row, counts in zip(ranks._counts, state["counts"], strict=True):
            for place, count in counts:
                row[place] = count
        ranks._seen = state["seen"]
        return ranks


def normal_scores(shares: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return the normal score of each value: high where few are above it."""
    scores: Array = -ndtri(np.clip(shares, 1e-300, 1.0 - 1e-16))
    return scores


def rank_bets(scores: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m sides bets"]:
    """Return the logarithms of the factors that bets on a shift of ranks earn."""
    shifts = np.array(SHIFTS)
    signed = np.stack([scores, -scores], axis=1)[:, :, None]
    factors: Array = signed * shifts - shifts**2 / 2
    return factors


def share_bets(share: float, stated: float) -> Float[np.ndarray, "sides bets"]:
    """Return the logarithms of the factors of bets that a share exceeds the stated one.

    A factor 1 + s (x - q) / q has an expectation of at most 1 if that of x, given the past, is at
    most q (Waudby-Smith and Ramdas 2024, *Estimating means of bounded random variables by
    betting*).
    """
    factors = np.zeros((SIDES, len(STAKES)))
    factors[0] = np.log1p(np.array(STAKES) * (share - stated) / stated)
    return factors


class Evidence:
    """Capital of the gamblers of m streams.

    Args:
        streams: Number of streams.
        run_length: Weigh all beginnings alike (see the module), so that not the probability of a
            false alarm is bounded but the mean time to one.
    """

    def __init__(self, streams: int, *, run_length: bool = False) -> None:
        self.run_length = run_length
        self.steps = 0
        self.capital = np.full((streams, SIDES, len(SHIFTS)), -np.inf)

    def begin_step(self) -> None:
        """Begin further bets, with their share of the capital."""
        self.steps += 1
        share = 0.0 if self.run_length else log_start_weight(self.steps)
        self.capital = np.logaddexp(self.capital, share)

    def update(self, factors: Float[np.ndarray, "m sides bets"]) -> None:
        """Bet on one unit, with the logarithms of what the bets earn."""
        self.capital = self.capital + factors

    def by_side(self) -> Float[np.ndarray, "m sides"]:
        """Return the logarithm of the capital of each direction, the mean over its bets."""
        sides: Array = np.logaddexp.reduce(self.capital, axis=2) - math.log(len(SHIFTS))
        return sides

    def values(self) -> Float[np.ndarray, " m"]:
        """Return the logarithm of each stream's e-value: 0 at the beginning."""
        values: Array = np.logaddexp.reduce(self.by_side(), axis=1) - math.log(SIDES)
        if self.run_length:
            return values
        idle: Array = np.logaddexp(values, math.log(weight_left(self.steps)))
        return idle

    def rising(self) -> Bool[np.ndarray, " m"]:
        """Return, by stream, if more was won by betting on up than on down."""
        up, down = self.by_side().T
        rising: npt.NDArray[np.bool_] = up >= down
        return rising

    def as_dict(self) -> dict[str, Any]:
        """Return the state, JSON-ready."""
        capital = [None if math.isinf(one) else one for one in self.capital.ravel().tolist()]
        return {"steps": self.steps, "capital": capital}

    @classmethod
    def from_dict(cls, state: dict[str, Any], streams: int, *, run_length: bool) -> Evidence:
        """Return the evidence of a state."""
        evidence = cls(streams, run_length=run_length)
        evidence.steps = state["steps"]
        capital = [-math.inf if one is None else one for one in state["capital"]]
        evidence.capital = np.array(capital).reshape(evidence.capital.shape)
        return evidence


def weight_left(steps: int) -> float:
    """Return the weight of all bets that begin after so many steps: 1 / (1 + ln(1 + steps))."""
    return 1.0 / (1.0 + math.log1p(steps))


def log_start_weight(step: int) -> float:
    """Return the logarithm of the weight of bets that begin at a step, counted from 1.

    The weights are about 1 / (n ln² n), which sum to 1 and fall slowly: a change after 10,000 steps
    is seen hardly later than one after 100.
    """
    return math.log(weight_left(step - 1) - weight_left(step))
