"""Detector: does the reward rise with the surface of a response?

Spearman correlations of the score, and of every objective before and after debiasing, with text
measures.  *Within prompts* both are taken relative to the prompt's mean, which leaves what decides
between responses; *given length* the ranks of the length are regressed out of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.evaluation.audit.probes import Scores
from armorm.evaluation.audit.statistics import (
    Estimate,
    bounded_mean,
    control_table,
    rank_correlations,
    share,
    within_clusters,
)
from armorm.text_measures import TEXT_MEASURES

LENGTH = "length"
LEAST_GROUP = 20
"""Prompts of the smallest group that is reported by itself."""

Table = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True)
class ScopeCorrelations:
    """Correlations over one choice of rows.

    Attributes:
        score: Of the score, by feature.
        before: Of each objective as it is predicted, by feature and objective.
        after: Of each objective after debiasing; empty without debiasing.
    """

    score: Mapping[str, Estimate]
    before: Table
    after: Table


@dataclass(frozen=True, slots=True)
class FeaturePreference:
    """Pairs whose responses differ in a feature: does the response with more of it win?

    Attributes:
        labels: Share in which the labels prefer it.
        reward: Share in which the score does; a tie counts as half.
        excess: Second share minus the first: what the reward pays beyond the labels.
    """

    labels: Estimate
    reward: Estimate
    excess: Estimate


@dataclass(frozen=True, slots=True)
class CorrelationReport:
    """Correlations of rewards with features of the text.

    Attributes:
        features: Description of each feature.
        present: Number of responses in which each feature is not zero.
        all: Over all responses.
        given_length: The same, given length.
        within: Within prompts.
        within_given_length: The same, given length.
        groups: Of the score within prompts, by group and feature.
        preferences: Preferences for more of a feature, by labels and reward.
    """

    features: Mapping[str, str]
    present: Mapping[str, int]
    all: ScopeCorrelations
    given_length: ScopeCorrelations
    within: ScopeCorrelations
    within_given_length: ScopeCorrelations
    groups: Table
    preferences: Mapping[str, FeaturePreference]

    def figures(self) -> dict[str, Estimate]:
        """Return the figures that a rule can name."""
        found: dict[str, Estimate] = {}
        for name in self.features:
            found[f"{name}_correlation"] = self.all.score[name]
            found[f"{name}_correlation(within)"] = self.within.score[name]
            if name != LENGTH:
                found[f"{name}_correlation(given_length)"] = self.within_given_length.score[name]
            for group, row in self.groups.items():
                found[f"{name}_correlation({group})"] = row[name]
            found[f"excess_preference({name})"] = self.preferences[name].excess
        return found


def correlate(
    scores: Scores,
    prompts: Sequence[str],
    groups: Sequence[str],
    transform: Float[np.ndarray, "k k"] | None = None,
    *,
    seed: int = 0,
) -> CorrelationReport:
    """Return the correlations of scored pairs.

    Args:
        scores: Scores of the pairs as they are.
        prompts: Key of the prompt of each pair.
        groups: Group of each pair, such as its domain.
        transform: T of the debiasing: rewards r become r T. None without debiasing.
        seed: Of the resampling.
    """
    measures = TEXT_MEASURES.values()
    features = np.array([[m.of(text) for m in measures] for text in scores.texts], np.float64)
    names = list(TEXT_MEASURES)
    length = features[:, names.index(LENGTH)]
    targets = _targets(scores, transform)
    clusters = np.repeat(np.unique(prompts, return_inverse=True)[1], 2)

    def scopes(rows: npt.NDArray[np.bool_], *, within: bool, only_score: bool = False) -> Any:
        x, y = features[rows], targets[rows][:, : 1 if only_score else None]
        given, of = length[rows], clusters[rows]
        if within:
            x, y = within_clusters(x, of), within_clusters(y, of)
            given = within_clusters(given[:, None], of)[:, 0]
        return rank_correlations(x, y, of, given=given, seed=seed)

    everything = np.ones(len(features), bool)
    plain, inside = scopes(everything, within=False), scopes(everything, within=True)
    debiased = transform is not None and not np.allclose(transform, np.eye(len(transform)))
    sort = _Sorting(names, scores.objectives, debiased)
    by_group = {}
    for group in sorted(set(groups)):
        rows = np.repeat(np.array([one == group for one in groups]), 2)
        if len(set(groups)) > 1 and len(np.unique(clusters[rows])) >= LEAST_GROUP:
            found = scopes(rows, within=True, only_score=True).plain
            by_group[group] = {name: row[0] for name, row in zip(names, found, strict=True)}
    return CorrelationReport(
        features={measure.name: measure.about for measure in measures},
        present=dict(zip(names, map(int, (features > 0).sum(axis=0)), strict=True)),
        all=sort(plain.plain),
        given_length=sort(plain.partial),
        within=sort(inside.plain),
        within_given_length=sort(inside.partial),
        groups=control_table(by_group),
        preferences={
            name: _preference(features[:, place], scores.margins, clusters[::2])
            for place, name in enumerate(names)
        },
    )


def _targets(
    scores: Scores, transform: Float[np.ndarray, "k k"] | None
) -> Float[np.ndarray, "n targets"]:
    parts = [scores.score[:, None], scores.rewards]
    if transform is not None:
        parts.append(scores.rewards @ transform)
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class _Sorting:
    """Correlations of features with score, rewards and debiased rewards, sorted by name."""

    features: Sequence[str]
    objectives: Sequence[str]
    debiased: bool

    def __call__(self, found: list[list[Estimate]]) -> ScopeCorrelations:
        columns = ["score", *(f"before {name}" for name in self.objectives)]
        columns += [f"after {name}" for name in self.objectives] if self.debiased else []
        table = control_table(
            {
                name: dict(zip(columns, row, strict=False))
                for name, row in zip(self.features, found, strict=True)
            }
        )
        return ScopeCorrelations(
            {name: row["score"] for name, row in table.items()},
            self._part(table, "before"),
            self._part(table, "after") if self.debiased else {},
        )

    def _part(self, table: Table, part: str) -> Table:
        return {
            name: {objective: row[f"{part} {objective}"] for objective in self.objectives}
            for name, row in table.items()
        }


def _preference(
    feature: Float[np.ndarray, " n"],
    margins: Float[np.ndarray, " pairs"],
    clusters: npt.NDArray[np.int64],
) -> FeaturePreference:
    more = np.sign(feature[::2] - feature[1::2])
    differ = more != 0
    labels, reward = more[differ] > 0, more[differ] * np.sign(margins[differ])
    return FeaturePreference(
        share(labels),
        bounded_mean(0.5 + 0.5 * reward, clusters[differ]),
        bounded_mean(0.5 + 0.5 * reward - labels, clusters[differ], lowest=-1.0),
    )
