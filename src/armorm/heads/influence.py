"""Influence of single rated rows on a prediction.

For ridge regression the effect of removing a row is exact and in closed form.  With
A = X'X + alpha I, residual e_j and leverage h_j of row j, of which the data hold c_j copies, the
prediction at x falls by ::

    c_j x' A^-1 x_j  e_j / (1 - c_j h_j)

when all copies of row j are removed and the weights are fitted again with the same penalty.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
from jaxtyping import Float, Int

from armorm.heads.uncertainty import leverage

Blocks = Iterable[
    tuple[Float[np.ndarray, "_ features"], Float[np.ndarray, " _"], Int[np.ndarray, " _"]]
]
Effects = Callable[..., tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


class Influence(NamedTuple):
    """The effect of one rated row on one prediction.

    Attributes:
        row: Number of the row, in the order the rows were given.
        effect: Predicted unit reward with the row minus without it.
        rating: The row's own unit reward.
        predicted: Prediction of the weights for the row.
        copies: Copies of the row, which the effect counts together.
    """

    row: int
    effect: float
    rating: float
    predicted: float
    copies: int = 1


def most_influential_rows(
    feature: Float[np.ndarray, " features"],
    blocks: Blocks,
    factor: Float[np.ndarray, "features features"],
    weight: Float[np.ndarray, " features"],
    top: int = 10,
) -> list[Influence]:
    """Return the rows whose absence would change a prediction most, the largest effect first.

    Args:
        feature: Feature of the response that is predicted.
        blocks: The rated rows, read once: features, unit rewards (NaN where not rated), and the
            number of copies that each row stands for; the other copies have NaN.
        factor: Lower Cholesky factor of A for the objective (:class:`HeadUncertainty`).
        weight: The objective's regression weights.
        top: Number of rows.
    """
    direction = scipy.linalg.cho_solve(
        (factor, True), np.asarray(feature, np.float64), check_finite=False
    )

    def effects(
        x: Float[np.ndarray, "_ features"],
        residuals: Float[np.ndarray, " _"],
        count: Int[np.ndarray, " _"],
    ) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
        found = count * (x @ direction) * residuals / (1.0 - count * leverage(factor, x))
        return found, np.abs(found)

    return _strongest(blocks, weight, effects, top)


def most_surprising_rows(
    blocks: Blocks,
    factor: Float[np.ndarray, "features features"],
    weight: Float[np.ndarray, " features"],
    top: int = 10,
) -> list[Influence]:
    """Return the rows whose rating is furthest from what all other rows predict for them.

    These are suspects of a wrong label.  A row pulls its own prediction towards its rating; the
    distance without it is e_j / (1 - c_j h_j), and ``effect`` is that pull.

    Args:
        blocks: See :func:`most_influential_rows`.
        factor: See :func:`most_influential_rows`.
        weight: The objective's regression weights.
        top: Number of rows.
    """

    def effects(
        x: Float[np.ndarray, "_ features"],
        residuals: Float[np.ndarray, " _"],
        count: Int[np.ndarray, " _"],
    ) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
        left = residuals / (1.0 - count * leverage(factor, x))
        return left - residuals, np.abs(left)

    return _strongest(blocks, weight, effects, top)


def _strongest(
    blocks: Blocks, weight: Float[np.ndarray, " features"], effects: Effects, top: int
) -> list[Influence]:
    """Return the rows of the highest rank; ``effects`` gives effect and rank of each."""
    best: list[tuple[float, Influence]] = []
    start = 0
    for features, rewards, copies in blocks:
        rated = np.flatnonzero(~np.isnan(rewards))
        x = np.asarray(features[rated], np.float64)
        residuals = rewards[rated] - x @ weight
        found_effects, ranks = effects(x, residuals, copies[rated])
        for place in np.argsort(-ranks)[:top]:
            row = int(rated[place])
            rating = float(rewards[row])
            predicted = rating - float(residuals[place])
            found = Influence(
                start + row, float(found_effects[place]), rating, predicted, int(copies[row])
            )
            heapq.heappush(best, (float(ranks[place]), found))
            if len(best) > top:
                heapq.heappop(best)
        start += len(features)
    return [found for _, found in sorted(best, key=lambda item: -item[0])]
