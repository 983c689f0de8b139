"""Figures of merit on features and rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special
import scipy.stats
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class RegressionFit:
    """Fit of the predictions of one objective.

    Attributes:
        r2: 1 - squared error / variance of the ratings; ``None`` below two distinct ratings.
        spearman: Rank correlation of prediction and rating; ``None`` likewise.
        rows: Ratings it was measured on.
    """

    r2: float | None
    spearman: float | None
    rows: int


def regression_fits(
    predicted: Float[np.ndarray, "rows objectives"],
    rewards: Float[np.ndarray, "rows objectives"],
) -> list[RegressionFit]:
    """Return the fit of each objective over the rows that rate it (NaN where they do not)."""
    fits = []
    for prediction, reward in zip(predicted.T, rewards.T, strict=True):
        rated = ~np.isnan(reward)
        fits.append(_fit(np.asarray(prediction[rated], np.float64), reward[rated]))
    return fits


def _fit(predicted: npt.NDArray[np.float64], rewards: npt.NDArray[np.float64]) -> RegressionFit:
    if len(rewards) < 2 or np.ptp(rewards) == 0:
        return RegressionFit(None, None, len(rewards))
    residual = np.sum((rewards - predicted) ** 2)
    r2 = 1.0 - residual / np.sum((rewards - rewards.mean()) ** 2)
    spearman = 0.0
    if np.ptp(predicted) > 0:
        spearman = float(scipy.stats.spearmanr(predicted, rewards).statistic)
    return RegressionFit(float(r2), spearman, len(rewards))


LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal shares that intervals are checked at."""


def coverage(
    predicted: Float[np.ndarray, "rows objectives"],
    deviations: Float[np.ndarray, "rows objectives"],
    rewards: Float[np.ndarray, "rows objectives"],
) -> list[dict[str, float | None]]:
    """Return the share of the ratings that lie within their central normal interval, per objective.

    Args:
        predicted: Predicted rewards.
        deviations: Their standard deviations.
        rewards: What was rated, NaN where it was not.

    Returns:
        ``{nominal: measured}`` of each objective; ``None`` where nothing rates it.
    """
    found: list[dict[str, float | None]] = []
    for prediction, deviation, reward in zip(predicted.T, deviations.T, rewards.T, strict=True):
        rated = ~np.isnan(reward) & ~np.isnan(deviation)
        distance = np.abs(reward[rated] - prediction[rated]) / deviation[rated]
        within = {level: distance <= scipy.stats.norm.ppf(0.5 + level / 2) for level in LEVELS}
        found.append(
            {f"{level:g}": float(w.mean()) if len(w) else None for level, w in within.items()}
        )
    return found


def accuracy(margins: npt.ArrayLike) -> float | None:
    """Return the share of pairs whose chosen response scores strictly higher; a tie is wrong.

    Args:
        margins: Score of chosen minus score of rejected. Shape (pairs,).

    Returns:
        ``None`` when there are no pairs.
    """
    margins = np.asarray(margins)
    return float(np.mean(margins > 0)) if margins.size else None


class McNemar(NamedTuple):
    """McNemar's exact test of two methods on the same pairs.

    Attributes:
        only_a: Pairs that only the first method ranks rightly.
        only_b: Pairs that only the second method ranks rightly.
        p_value: Probability of a split at least as uneven if both were equally good, two-sided.
    """

    only_a: int
    only_b: int
    p_value: float


def mcnemar(right_a: npt.ArrayLike, right_b: npt.ArrayLike) -> McNemar:
    """Test whether two methods that judged the same pairs differ in accuracy.

    Only the pairs on which they disagree count: under the null hypothesis each falls to either
    method like a fair coin (McNemar 1947, the exact binomial form).

    Args:
        right_a: Truth of the first method's answer for each pair. Shape (pairs,).
        right_b: The same of the second method. Shape (pairs,).

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1, 0, 0])
        McNemar(only_a=6, only_b=0, p_value=0.03125)
    """
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue))


def holm(p_values: npt.ArrayLike) -> list[float]:
    """Return p-values corrected for their number: the chance of any false finding stays bounded.

    The smallest of m is multiplied by m, the next by m - 1 and so on, never falling (Holm 1979).
    Unlike Bonferroni's it loses no power to what is already significant.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    found: list[float] = corrected.tolist()
    return found


def best_single_objective(differences: Float[np.ndarray, "pairs objectives"]) -> int:
    """Return the column that alone ranks the most pairs rightly; a tie is wrong.

    Args:
        differences: Rewards of chosen minus rejected. For a fair comparison with a debiased gate
            these are debiased too (:attr:`RewardPairs.differences`), and of training pairs.
    """
    return int(np.argmax((np.asarray(differences) > 0).mean(axis=0)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of the Bradley–Terry probabilities with the accuracy.

    Attributes:
        error: Expected calibration error: mean distance of confidence and accuracy over bins.
        bins: Per bin of confidence with pairs in it: mean ``confidence``, ``accuracy``, ``n``.
    """

    error: float
    bins: list[dict[str, float]]


def calibration(margins: npt.ArrayLike, beta: float, bins: int = 10) -> Calibration | None:
    """Compare the confidence sigmoid(beta |margin|) in the higher score with its accuracy.

    Args:
        margins: Score of chosen minus score of rejected. Shape (pairs,).
        beta: Scale of the Bradley–Terry model.
        bins: Bins of equal width from 0.5 to 1.

    Returns:
        ``None`` when there are no pairs.
    """
    margins = np.asarray(margins, np.float64)
    if not margins.size:
        return None
    confidence = scipy.special.expit(beta * np.abs(margins))
    right = margins > 0
    number = np.minimum((2 * bins * (confidence - 0.5)).astype(int), bins - 1)
    found = [
        {
            "confidence": float(confidence[number == i].mean()),
            "accuracy": float(right[number == i].mean()),
            "n": int((number == i).sum()),
        }
        for i in np.unique(number)
    ]
    gaps = [abs(one["confidence"] - one["accuracy"]) * one["n"] for one in found]
    return Calibration(sum(gaps) / margins.size, found)


COLLAPSED = 0.95
"""A gate is called collapsed when one objective has this share of its weight on every prompt."""


def gate_diagnostics(
    coefficients: Float[np.ndarray, "prompts objectives"],
) -> dict[str, float | bool]:
    """Return the spread of the gate's weight over objectives and prompts.

    Args:
        coefficients: Outputs of the gate, rows summing to one.

    Returns:
        ``entropy``: mean over prompts, as a share of the largest possible (1 is even, 0 is one
        objective); ``prompt_dependence``: share of the total entropy that the prompt explains
        (0: the same weights for all, so fixed weights would do); ``collapsed``: whether one
        objective takes nearly all weight on every prompt.
    """
    largest = np.log(coefficients.shape[1]) if coefficients.shape[1] > 1 else 1.0
    each = scipy.special.entr(coefficients).sum(axis=1).mean()
    together = scipy.special.entr(coefficients.mean(axis=0)).sum()
    return {
        "entropy": float(each / largest),
        "prompt_dependence": float((together - each) / together) if together > 1e-12 else 0.0,
        "collapsed": bool(coefficients.min(axis=0).max() > COLLAPSED),
    }
