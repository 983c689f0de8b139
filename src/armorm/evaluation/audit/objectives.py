"""Detector: which objectives decide where, and how many of them are there really?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from armorm.evaluation.audit.probes import Scores
from armorm.evaluation.audit.statistics import REPLICATES, Estimate, mean
from armorm.heads.metrics import gate_diagnostics


@dataclass(frozen=True, slots=True)
class GroupGate:
    """Gate on the prompts of one group.

    Attributes:
        prompts: Number of prompts.
        coefficients: Mean coefficient of each objective, debiasing included.
        deciding: Share of each objective in the margins: mean of its absolute contribution over
            the sum of all.
        entropy: Spread of the gate over objectives: 0 one alone, 1 all alike; None without a gate.
    """

    prompts: int
    coefficients: Mapping[str, Estimate]
    deciding: Mapping[str, float]
    entropy: float | None


@dataclass(frozen=True, slots=True)
class ObjectivesReport:
    """Weights and redundancy of the objectives.

    Attributes:
        groups: Gate by group; ``all`` is all prompts.
        correlations: Pearson correlations of the debiased rewards over responses; None where one
            does not vary.
        effective: Effective number of objectives (participation ratio): of the rewards as
            predicted, of the debiased rewards, and of the contributions to margins.
        count: Number of objectives.
    """

    groups: Mapping[str, GroupGate]
    correlations: Mapping[str, Mapping[str, float | None]]
    effective: Mapping[str, Estimate]
    count: int

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        return {f"effective_objectives({name})": found for name, found in self.effective.items()}


def map_objectives(
    scores: Scores,
    groups: Sequence[str],
    clusters: Int[np.ndarray, " pairs"],
    transform: Float[np.ndarray, "k k"] | None = None,
    *,
    seed: int = 0,
) -> ObjectivesReport:
    """Return weights and redundancy of the objectives of scored pairs.

    Args:
        scores: Scores of pairs: chosen and rejected in turn.
        groups: Group of each pair.
        clusters: Number of the prompt of each pair.
        transform: T of the debiasing; None without.
        seed: Of the resampling.
    """
    everything = np.ones(len(groups), bool)
    rows = {"all": everything}
    if len(set(groups)) > 1:
        rows |= {g: np.array([one == g for one in groups]) for g in sorted(set(groups))}
    debiased = scores.rewards if transform is None else scores.rewards @ transform
    contributions = scores.contributions[::2] - scores.contributions[1::2]
    twice = np.repeat(clusters, 2)
    return ObjectivesReport(
        groups={name: _group(scores, contributions, clusters, of) for name, of in rows.items()},
        correlations=_correlations(debiased, scores.objectives),
        effective={
            "predicted": _effective(scores.rewards, twice, seed, scaled=True),
            "debiased": _effective(debiased, twice, seed, scaled=True),
            "deciding": _effective(contributions, clusters, seed, scaled=False),
        },
        count=len(scores.objectives),
    )


def _group(
    scores: Scores,
    contributions: Float[np.ndarray, "pairs k"],
    clusters: Int[np.ndarray, " pairs"],
    rows: npt.NDArray[np.bool_],
) -> GroupGate:
    coefficients, gating = scores.coefficients[::2][rows], scores.gating[::2][rows]
    parts = np.abs(contributions[rows]).mean(axis=0)
    names = scores.objectives
    totals = gating.sum(axis=1)
    # Of a gate that is no share of anything, such as fixed weights of both signs, none is given.
    shares = (gating >= 0).all() and (totals > 0).all() and np.ptp(totals) < 1e-3
    return GroupGate(
        prompts=len(np.unique(clusters[rows])),
        coefficients={
            name: mean(column, clusters[rows])
            for name, column in zip(names, coefficients.T, strict=True)
        },
        deciding=dict(zip(names, (parts / (parts.sum() or 1.0)).tolist(), strict=True)),
        entropy=float(gate_diagnostics(gating / totals[:, None])["entropy"]) if shares else None,
    )


def _correlations(
    rewards: Float[np.ndarray, "n k"], names: tuple[str, ...]
) -> dict[str, dict[str, float | None]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = np.atleast_2d(np.corrcoef(np.where(_varies(rewards), rewards, 0.0), rowvar=False))
    return {
        a: {b: float(v) if np.isfinite(v) else None for b, v in zip(names, row, strict=True)}
        for a, row in zip(names, matrix, strict=True)
    }


def _varies(values: Float[np.ndarray, "n k"]) -> npt.NDArray[np.bool_]:
    """Return true for columns that vary by more than rounding."""
    deviation = values.std(axis=0)
    return np.asarray(deviation > 1e-6 * deviation.max(initial=0.0))


def _effective(
    values: Float[np.ndarray, "n k"], clusters: Int[np.ndarray, " n"], seed: int, *, scaled: bool
) -> Estimate:
    """Return (sum of eigenvalues)² / sum of squares of the covariance, or of the correlation."""
    values = values[:, _varies(values)]
    if not values.shape[1]:
        return Estimate(None, n=len(values))
    _, number = np.unique(clusters, return_inverse=True)
    size = int(number.max()) + 1

    floor = values.std(axis=0)

    def ratio(weights: Float[np.ndarray, " n"]) -> float:
        centered = values - (weights @ values) / weights.sum()
        matrix = (centered * weights[:, None]).T @ centered
        if scaled:
            deviation = np.sqrt(np.diag(matrix))
            # What is constant in a resample has no part in its number of objectives.
            deviation = np.where(deviation > 1e-9 * floor, deviation, np.inf)
            matrix = matrix / np.outer(deviation, deviation)
        squares = float((matrix**2).sum())
        return float(np.trace(matrix)) ** 2 / squares if squares > 0 else np.nan

    value = ratio(np.ones(len(values)))
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=REPLICATES)
    drawn = np.array([ratio(draw[number].astype(np.float64)) for draw in draws])
    known = drawn[np.isfinite(drawn)]
    if size < 2 or len(known) < 0.9 * REPLICATES:
        return Estimate(value, n=len(values))
    spread = np.std(np.log(known))
    low, high = value * np.exp(-1.96 * spread), value * np.exp(1.96 * spread)
    return Estimate(value, float(low), float(high), len(values))
