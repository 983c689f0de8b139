"""Comparison of the layers of a backbone by the heads that are fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.evaluation.accuracy import MethodAccuracy
from armorm.evaluation.audit.statistics import Estimate
from armorm.heads.metrics import RegressionFit, regression_fits

REPLICATES = 200

LEAST_RATINGS = 20
"""Held-out ratings that an objective needs to count in the means: with fewer, resamples without any
spread make R² meaningless."""


@dataclass(frozen=True, slots=True)
class LayerFit:
    """Figures of the heads on one layer, all on held-out data but the log-loss.

    Attributes:
        layer: Number of the layer.
        log_loss: Mean log-loss of the Bradley–Terry linear head on training pairs, each predicted
            by a head that was fitted on other prompts.
        bradley_terry_head: Accuracy of that head; its McNemar test is against the last layer.
        fixed_weights: Accuracy of weights of the objectives that do not depend on the prompt,
            with the recipe's debiasing; its McNemar test is against the last layer.
        r2: Mean of R² over the objectives with enough held-out ratings.
        spearman: Mean of the rank correlation over the same objectives.
    """

    layer: int
    log_loss: float
    bradley_terry_head: MethodAccuracy
    fixed_weights: MethodAccuracy
    r2: Estimate
    spearman: Estimate


@dataclass(frozen=True, slots=True)
class LayerComparison:
    """Layers of a backbone, and the best of them.

    Attributes:
        model: Name of the backbone.
        layers: Number of its layers.
        held_out_pairs: Pairs that the accuracies are measured on.
        fits: Figures of each layer that was compared, in order.
    """

    model: str
    layers: int
    held_out_pairs: int
    fits: tuple[LayerFit, ...]

    @property
    def best(self) -> int:
        """Layer of the least log-loss.

        It is chosen on training pairs alone, so its held-out figures stay honest.
        """
        return min(self.fits, key=lambda fit: fit.log_loss).layer

    @property
    def recipe_line(self) -> str:
        """Line of a recipe that chooses the best layer."""
        return f"backbone.layer: {self.best}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {**asdict(self), "best": self.best, "recipe": self.recipe_line}


def mean_fits(
    predicted: Float[np.ndarray, "rows objectives"],
    ratings: Float[np.ndarray, "rows objectives"],
    prompts: Int[np.ndarray, " rows"],
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Return the means over the objectives of R² and of Spearman's correlation.

    Objectives of fewer than :data:`LEAST_RATINGS` ratings are left out.  The intervals are those of
    the middle 95 % of resamples of whole prompts: R² has no deviation to speak of, since in a few
    resamples an objective that is rated almost alike has next to no variance to explain.

    Args:
        predicted: Predicted rewards.
        ratings: Ratings, NaN where there are none.
        prompts: Number of the prompt of each row.
        seed: Seed of the resamples.
    """
    enough = (~np.isnan(ratings)).sum(axis=0) >= LEAST_RATINGS
    predicted, ratings = predicted[:, enough], ratings[:, enough]
    found = _means(regression_fits(predicted, ratings))
    _, first, counts = np.unique(np.sort(prompts), return_index=True, return_counts=True)
    order = np.argsort(prompts, kind="stable")
    generator = np.random.default_rng([seed, 5])
    resampled = []
    for _ in range(REPLICATES if len(first) > 1 else 0):
        drawn = generator.integers(len(first), size=len(first))
        rows = order[np.concatenate([np.arange(first[i], first[i] + counts[i]) for i in drawn])]
        resampled.append(_means(regression_fits(predicted[rows], ratings[rows])))
    return (
        _estimate(found[0], [one[0] for one in resampled], len(ratings)),
        _estimate(found[1], [one[1] for one in resampled], len(ratings)),
    )


def _means(fits: Sequence[RegressionFit]) -> tuple[float | None, float | None]:
    known = [(fit.r2, fit.spearman) for fit in fits if fit.r2 is not None]
    if not known:
        return None, None
    r2, spearman = np.array(known, np.float64).mean(axis=0)
    return float(r2), float(spearman)


def _estimate(value: float | None, resampled: Sequence[float | None], n: int) -> Estimate:
    known = [one for one in resampled if one is not None]
    if value is None or len(known) < 2:
        return Estimate(value, n=n)
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value, float(low), float(high), n)
