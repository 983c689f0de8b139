"""Correlations that debiasing left, by every measure, where it was fitted and held out."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.features import FeatureStore
from armorm.heads import DebiasingOptions, VerbosityDebiasing
from armorm.heads.debiasing import correlations
from armorm.heads.options import Correlation, Treatment
from armorm.objectives import ObjectiveSet

LOW_SPEARMAN = 0.3
"""Held-out rank correlation of a confounder's ratings and predictions below which it is noise."""


@dataclass(frozen=True, slots=True)
class ConfounderCorrelations:
    """Correlations of every objective with one quantity on one set of rows.

    Attributes:
        rows: ``reference`` or ``held_out``.
        responses: Number of responses.
        measured_by: ``objective``, ``tokens`` or ``characters``.
        correlation: Kind of correlation.
        before: Correlation of each predicted reward.
        after: Correlation of each debiased reward.
    """

    rows: str
    responses: int
    measured_by: str
    correlation: Correlation
    before: dict[str, float]
    after: dict[str, float]

    def largest(self, without: Collection[str]) -> tuple[float | None, float | None]:
        """Return the largest absolute correlations before and after, over the other objectives."""
        before, after = (
            max((abs(value) for name, value in found.items() if name not in without), default=None)
            for found in (self.before, self.after)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class DebiasingReport:
    """Correlations before and after debiasing, also by measures that were not solved for.

    Attributes:
        objective: Objective that is subtracted; None where the rewards are left as they are.
        correlation: Kind of correlation that was brought to zero.
        measured_by: Measure of the objective in it.
        confounder: The objective is ``dropped`` from the score, or ``kept`` beside its reverse.
        names: The objective and its reverse, as far as they are among the objectives.
        found: All correlations. A measure that does not vary is not listed.
        held_out_spearman: Rank correlation of the objective's held-out ratings with what the head
            predicts for them; None where it is unknown.
    """

    objective: str | None
    correlation: Correlation
    measured_by: str
    confounder: Treatment
    names: tuple[str, ...]
    found: tuple[ConfounderCorrelations, ...]
    held_out_spearman: float | None = None

    @property
    def warning(self) -> str | None:
        """Sentence that warns of a confounder that the head cannot predict; None otherwise."""
        spearman = self.held_out_spearman
        if self.objective is None or spearman is None or spearman >= LOW_SPEARMAN:
            return None
        return (
            f"The head hardly predicts {self.objective}, the objective that debiasing subtracts: "
            f"Spearman {spearman:.2f} on held-out ratings. Subtracting such a prediction removes "
            "little of the confounder and adds noise to every objective: it cost four points of "
            "accuracy where it was measured. Add a computed objective to the recipe, such as "
            "{name: length, computed: log_tokens}, and set debiasing.objective: length."
        )

    @property
    def measure_name(self) -> str:
        """Name of the measure for people."""
        return str(self.objective) if self.measured_by == "objective" else self.measured_by

    def solved(self) -> dict[str, ConfounderCorrelations]:
        """Return the correlations that debiasing was solved for, by set of rows."""
        wanted = (self.measured_by, self.correlation)
        return {one.rows: one for one in self.found if (one.measured_by, one.correlation) == wanted}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {**asdict(self), "warning": self.warning}


def debiasing_report(
    *,
    store: FeatureStore,
    objectives: ObjectiveSet,
    options: DebiasingOptions,
    rewards: Float[np.ndarray, "responses objectives"],
    debiasing: VerbosityDebiasing,
    held_out_spearman: float | None,
    responses: Mapping[str, Int[np.ndarray, " chosen"]],
) -> DebiasingReport:
    """Measure all correlations before and after debiasing.

    Args:
        store: Features of the preference data, with the lengths of the responses.
        objectives: Objectives of the reward columns.
        options: Options that the debiasing was fitted with.
        rewards: Predicted rewards of all responses.
        debiasing: The fitted debiasing.
        held_out_spearman: See :class:`DebiasingReport`.
        responses: Numbers of the responses of each set of rows.
    """
    lengths = store.responses()
    measures = {
        name: lengths[name].to_numpy().astype(np.float64) for name in ("tokens", "characters")
    }
    if options.objective is not None:
        predicted = rewards[:, objectives.column(options.objective)]
        measures = {"objective": predicted, **measures}
    debiased = rewards @ debiasing.transform

    def by_name(
        values: Float[np.ndarray, "_ objectives"], measure: np.ndarray, kind: Correlation
    ) -> dict[str, float]:
        found = correlations(values, measure, kind).tolist()
        return dict(zip(objectives.names, found, strict=True))

    found = [
        ConfounderCorrelations(
            rows=rows,
            responses=len(chosen),
            measured_by=name,
            correlation=kind,
            before=by_name(rewards[chosen], values[chosen], kind),
            after=by_name(debiased[chosen], values[chosen], kind),
        )
        for rows, chosen in responses.items()
        for name, values in measures.items()
        for kind in typing.get_args(Correlation)
        if len(chosen) > 1 and np.ptp(values[chosen]) > 0
    ]
    return DebiasingReport(
        options.objective,
        options.correlation,
        options.measured_by,
        options.confounder,
        tuple(objectives.names[column] for column in debiasing.columns),
        tuple(found),
        held_out_spearman,
    )
