"""Detector: can a linear probe still read the surface of a response from what the score uses?

A ridge probe, fitted on four fifths of the prompts and judged on the rest, predicts a text measure
from the backbone's features, from the rewards, from the debiased rewards and from the score.  As a
comparison the length is erased from the features by LEACE (Belrose et al. 2023, the extra
``audit``), which leaves no linear probe anything, and the same heads score what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.evaluation.audit.probes import Scores
from armorm.evaluation.audit.statistics import (
    REPLICATES,
    Estimate,
    rank_correlations,
    share,
    within_clusters,
)
from armorm.text_measures import TEXT_MEASURES

FOLDS = 5
_PENALTIES = np.logspace(-3, 5, 17)
_LEAST_PRESENT = 0.05
"""Share of responses that must have, and lack, a feature that is probed for its presence."""


@dataclass(frozen=True, slots=True)
class DebiasingChoice:
    """A way to remove length, with what it costs and what it leaves.

    Attributes:
        accuracy: Accuracy on the pairs.
        length: Spearman correlation of score and length within prompts.
        probe: R² of a probe for the log length, on the rewards that the gate weighs.
    """

    accuracy: Estimate
    length: Estimate
    probe: Estimate


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """Linear readability of text measures.

    Attributes:
        responses: Responses that were probed.
        readable: R² on prompts that the probe has not seen, by text measure and representation.
        choices: Ways to remove length: ``no debiasing``, ``as it is`` and ``LEACE``.
        unavailable: Reason why there is no LEACE; empty if there is.
    """

    responses: int
    readable: Mapping[str, Mapping[str, Estimate]]
    choices: Mapping[str, DebiasingChoice]
    unavailable: str

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        return {
            f"readable_{measure}({place.replace(' ', '_')})": found
            for measure, row in self.readable.items()
            for place, found in row.items()
        }


def probe_surface(
    scores: Scores,
    features: Float[np.ndarray, "n d"],
    weight: Float[np.ndarray, "k d"],
    transform: Float[np.ndarray, "k k"],
    clusters: Int[np.ndarray, " n"],
    *,
    seed: int = 0,
) -> ErasureReport:
    """Return what linear probes read.

    Args:
        scores: Scores of pairs: chosen and rejected in turn.
        features: Their features.
        weight: Regression weights W.
        transform: T of the debiasing.
        clusters: Number of the prompt of each response.
        seed: Of folds and resampling.
    """
    folds = _folds(clusters, seed)
    wanted = {"length": np.log1p([len(text) for text in scores.texts])}
    for name, measure in TEXT_MEASURES.items():
        present = np.array([measure.of(text) > 0 for text in scores.texts], np.float64)
        if _LEAST_PRESENT <= present.mean() <= 1 - _LEAST_PRESENT:
            wanted[name] = present
    places = {
        "features": features,
        "rewards": scores.rewards,
        "debiased rewards": scores.rewards @ transform,
        "score": scores.score[:, None],
    }
    z = np.stack(list(wanted.values()), axis=1)
    found = {name: _readable(x, z, folds, clusters, seed) for name, x in places.items()}
    readable = {
        name: {place: row[number] for place, row in found.items()}
        for number, name in enumerate(wanted)
    }
    judged = {
        "no debiasing": (scores.rewards, (scores.gating * scores.rewards).sum(axis=1)),
        "as it is": (scores.rewards @ transform, scores.score),
    }
    unavailable = ""
    erased = _erased(features, z[:, :1], folds)
    if erased is None:
        unavailable = "LEACE needs an optional dependency: pip install 'armorm[audit]'"
    else:
        left = erased @ weight.T
        judged["LEACE"] = (left, (scores.gating * left).sum(axis=1))
    length = z[:, :1]
    return ErasureReport(
        responses=len(features),
        readable=readable,
        choices={
            name: DebiasingChoice(
                accuracy=share(score[::2] > score[1::2]),
                length=rank_correlations(
                    within_clusters(length, clusters),
                    within_clusters(score[:, None], clusters),
                    clusters,
                    seed=seed,
                ).plain[0][0],
                probe=_readable(rewards, length, folds, clusters, seed)[0],
            )
            for name, (rewards, score) in judged.items()
        },
        unavailable=unavailable,
    )


def _folds(clusters: Int[np.ndarray, " n"], seed: int) -> Sequence[npt.NDArray[np.bool_]]:
    """Return a mask of the held-out rows of each fold; a prompt is in one fold."""
    _, number = np.unique(clusters, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(int(number.max()) + 1) % FOLDS
    return [fold[number] == one for one in range(FOLDS)]


def _readable(
    x: Float[np.ndarray, "n d"],
    z: Float[np.ndarray, "n m"],
    folds: Sequence[npt.NDArray[np.bool_]],
    clusters: Int[np.ndarray, " n"],
    seed: int,
) -> list[Estimate]:
    """Return R² of a ridge probe for each column of z, with intervals over prompts."""
    predicted = np.empty_like(z)
    for held_out in folds:
        predicted[held_out] = _ridge(x[~held_out], z[~held_out], x[held_out])
    _, number = np.unique(clusters, return_inverse=True)
    size = int(number.max()) + 1
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=REPLICATES)
    estimates = []
    for column in range(z.shape[1]):
        errors = (z[:, column] - predicted[:, column]) ** 2
        spread = (z[:, column] - z[:, column].mean()) ** 2
        by_cluster = [np.bincount(number, values) for values in (errors, spread)]
        ratios = 1.0 - (draws @ by_cluster[0]) / (draws @ by_cluster[1])
        low, high = np.quantile(ratios, [0.025, 0.975])
        value = 1.0 - errors.sum() / spread.sum()
        estimates.append(Estimate(float(value), float(low), float(high), len(z)))
    return estimates


def _ridge(
    x: Float[np.ndarray, "n d"], z: Float[np.ndarray, "n m"], at: Float[np.ndarray, "rows d"]
) -> Float[np.ndarray, "rows m"]:
    """Return ridge predictions, each column's penalty chosen by generalised cross-validation."""
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-12 * (np.abs(center) + 1e-30), scale, np.inf)
    left, singular, right = np.linalg.svd((x - center) / scale, full_matrices=False)
    offset = z.mean(axis=0)
    turned = left.T @ (z - offset)
    shrink = singular[:, None] ** 2 / (singular[:, None] ** 2 + _PENALTIES + 1e-12)
    rest = ((z - offset) ** 2).sum(axis=0) - (turned**2).sum(axis=0)
    errors = ((1 - shrink[:, :, None]) ** 2 * turned[:, None, :] ** 2).sum(axis=0) + rest
    free = len(x) - 1 - shrink.sum(axis=0)
    best = np.argmin(errors / np.maximum(free, 1e-9)[:, None] ** 2, axis=0)
    weight = right.T @ (
        singular[:, None] / (singular[:, None] ** 2 + _PENALTIES[best] + 1e-12) * turned
    )
    predicted: npt.NDArray[np.float64] = (at - center) / scale @ weight + offset
    return predicted


def _erased(
    features: Float[np.ndarray, "n d"],
    z: Float[np.ndarray, "n m"],
    folds: Sequence[npt.NDArray[np.bool_]],
) -> Float[np.ndarray, "n d"] | None:
    """Return the features with z erased by a LEACE fitted on the other folds."""
    try:
        from concept_erasure import LeaceEraser
    except ImportError:
        return None
    import torch

    erased = np.empty_like(features)
    for held_out in folds:
        x, target = torch.from_numpy(features[~held_out]), torch.from_numpy(z[~held_out])
        eraser = LeaceEraser.fit(x, target)
        erased[held_out] = eraser(torch.from_numpy(features[held_out])).numpy()
    return erased
