"""Accuracy at equal length and equal style: a logistic regression on what differs in a pair.

Of each pair of a right and a wrong response, let y = 1 if the right one scores higher, and z the
differences of length, headings, list items and bold passages, each (a - b) / (a + b), and 0 where
both are 0.  With P(y = 1) = sigmoid(theta + gamma · z), the share at equal style is sigmoid(theta):
what the regression expects where nothing but the content differs.  The penalty 0.5 |gamma|² keeps
gamma finite where style alone decides every pair; theta has none.  Pairs of one row are not
independent, so the interval is that of sigmoid(theta ± 1.96 s) with the cluster-robust s.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.evaluation.benchmarks.estimates import Estimate
from armorm.evaluation.benchmarks.rows import BenchmarkRow
from armorm.text_measures import count_bold, count_headings, count_list_items

STYLE = {
    "length": len,
    "headings": count_headings,
    "list items": count_list_items,
    "bold": count_bold,
}
"""Measures of style; the first alone is length control."""

FEWEST = 20
"""Fewest pairs of the rarer outcome for a regression."""


@dataclass(frozen=True, slots=True)
class StylePairs:
    """Pairs of a right and a wrong response of each row.

    Attributes:
        right: Place of the right response among all responses of all rows.
        wrong: Place of the wrong one.
        row: Number of the row.
        differences: Difference of each measure of style.
    """

    right: Int[np.ndarray, " pairs"]
    wrong: Int[np.ndarray, " pairs"]
    row: Int[np.ndarray, " pairs"]
    differences: Float[np.ndarray, "pairs measures"]

    @classmethod
    def of(cls, rows: Sequence[BenchmarkRow]) -> StylePairs:
        """Measure the responses of all rows."""
        texts = [text for row in rows for text in row.responses]
        measured = np.array(
            [[measure(text) for measure in STYLE.values()] for text in texts], np.float64
        ).reshape(-1, len(STYLE))
        places, start = [], 0
        for number, row in enumerate(rows):
            pairs = row.facts.get("edges") or itertools.product(
                range(row.right), range(row.right, len(row.responses))
            )
            places += [(start + right, start + wrong, number) for right, wrong in pairs]
            start += len(row.responses)
        right, wrong, row_of = np.array(places, np.int64).reshape(-1, 3).T
        difference, size = (
            measured[right] - measured[wrong],
            measured[right] + measured[wrong],
        )
        ratio = np.divide(difference, size, out=np.zeros_like(size), where=size > 0)
        return cls(right, wrong, row_of, ratio)


@dataclass(frozen=True, slots=True)
class StyleControl:
    """Share of pairs ranked rightly, as it is and at equal length and style.

    Attributes:
        pairs: Number of pairs of a right and a wrong response.
        raw: Share of pairs ranked rightly.
        equal_length: The share at equal length; without a value where too few pairs are ranked
            wrongly or rightly for a regression.
        equal_style: The share at equal length, headings, list items and bold passages.
        effects: Gamma of each measure in the latter: above 0 where the score follows it.
    """

    pairs: int
    raw: Estimate
    equal_length: Estimate
    equal_style: Estimate
    effects: dict[str, float]

    @classmethod
    def of(cls, pairs: StylePairs, scores: Sequence[npt.NDArray[np.float64]]) -> StyleControl:
        """Return the shares of scores of the rows that the pairs come from."""
        flat = np.concatenate(scores) if len(scores) else np.zeros(0)
        won = (flat[pairs.right] > flat[pairs.wrong]).astype(np.float64)
        length, _ = _at_zero(pairs.differences[:, :1], won, pairs.row)
        style, gamma = _at_zero(pairs.differences, won, pairs.row)
        effects = {} if gamma is None else dict(zip(STYLE, gamma.tolist(), strict=True))
        return cls(len(won), Estimate.share(won), length, style, effects)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def _at_zero(
    z: Float[np.ndarray, "pairs measures"],
    won: Float[np.ndarray, " pairs"],
    row: Int[np.ndarray, " pairs"],
) -> tuple[Estimate, Float[np.ndarray, " measures"] | None]:
    """Return sigmoid(theta) with its interval, and gamma, by Newton's method.

    Written out, since no library at hand gives the penalised fit with clustered errors.
    """
    if min(won.sum(), len(won) - won.sum()) < FEWEST:
        return Estimate(None, len(won)), None
    x = np.column_stack([np.ones(len(z)), z])
    penalty = np.diag([0.0] + [1.0] * z.shape[1])
    beta = np.zeros(x.shape[1])
    beta[0] = np.log(won.mean() / (1 - won.mean()))
    for _ in range(100):
        p = _sigmoid(x @ beta)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(hessian, x.T @ (won - p) - penalty @ beta)
        beta += step / max(1.0, float(np.abs(step).max()))  # no step leaves the data's range
        if np.abs(step).max() < 1e-10:
            break
    p = _sigmoid(x @ beta)
    hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
    each = np.zeros((row.max() + 1, x.shape[1]))
    np.add.at(each, row, x * (won - p)[:, None])
    bread = np.linalg.inv(hessian)
    error = float(np.sqrt((bread @ (each.T @ each) @ bread)[0, 0]))
    value, low, high = _sigmoid(beta[0] + np.array([0.0, -1.96, 1.96]) * error).tolist()
    return Estimate(value, len(won), low, high, "regression"), beta[1:]


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -values))
