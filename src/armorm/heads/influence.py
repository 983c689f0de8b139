"""Which rated rows made a prediction what it is.

For ridge regression the effect of leaving one row out is exact and in closed form.  With
A = X'X + alpha I, residual e_j and leverage h_j of row j, the prediction at x falls by ::

    x' A^-1 x_j  e_j / (1 - h_j)

when row j is taken out and the weights are fitted again with the same penalty.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from armorm.heads.uncertainty import leverage


class Influence(NamedTuple):
    """The effect of one rated row on one prediction.

    Attributes:
        row: Number of the row, in the order the rows were given.
        effect: Predicted unit reward with the row minus without it.
        rating: The row's own unit reward.
        predicted: What the weights predict for the row.
    """

    row: int
    effect: float
    rating: float
    predicted: float


def most_influential_rows(
    feature: Float[np.ndarray, " features"],
    blocks: Iterable[tuple[Float[np.ndarray, "_ features"], Float[np.ndarray, " _"]]],
    factor: Float[np.ndarray, "features features"],
    weight: Float[np.ndarray, " features"],
    top: int = 10,
) -> list[Influence]:
    """The rows whose absence would change a prediction most, the largest effect first.

    Args:
        feature: Of the response whose prediction is asked about.
        blocks: The rated rows, read once: features and unit rewards, NaN where not rated.
        factor: Lower Cholesky factor of A for the objective (:class:`HeadUncertainty`).
        weight: The objective's regression weights.
        top: How many rows.
    """
    direction = scipy.linalg.cho_solve(
        (factor, True), np.asarray(feature, np.float64), check_finite=False
    )
    best: list[tuple[float, Influence]] = []
    start = 0
    for features, rewards in blocks:
        rated = np.flatnonzero(~np.isnan(rewards))
        x = np.asarray(features[rated], np.float64)
        residuals = rewards[rated] - x @ weight
        effects = (x @ direction) * residuals / (1.0 - leverage(factor, x))
        for place in np.argsort(-np.abs(effects))[:top]:
            row = int(rated[place])
            rating = float(rewards[row])
            predicted = rating - float(residuals[place])
            found = Influence(start + row, float(effects[place]), rating, predicted)
            heapq.heappush(best, (abs(found.effect), found))
            if len(best) > top:
                heapq.heappop(best)
        start += len(features)
    return [found for _, found in sorted(best, key=lambda item: -item[0])]
