"""Correlations that debiasing left, with every confounder, where it was fitted and held out."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.features import FeatureStore
from armorm.heads import DebiasingOptions, VerbosityDebiasing
from armorm.heads.debiasing import correlations
from armorm.heads.options import Correlation
from armorm.objectives import ObjectiveSet


@dataclass(frozen=True, slots=True)
class ConfounderCorrelations:
    """Correlations of every objective with one confounder on one set of rows.

    Attributes:
        rows: ``reference`` or ``held_out``.
        responses: Number of responses.
        confounder: ``objective``, ``tokens`` or ``characters``.
        correlation: Kind of correlation.
        before: Correlation of each predicted reward.
        after: Correlation of each debiased reward.
    """

    rows: str
    responses: int
    confounder: str
    correlation: Correlation
    before: dict[str, float]
    after: dict[str, float]

    def largest(self, without: str | None) -> tuple[float | None, float | None]:
        """Return the largest absolute correlations before and after, over the other objectives."""
        before, after = (
            max((abs(value) for name, value in found.items() if name != without), default=None)
            for found in (self.before, self.after)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class DebiasingReport:
    """Correlations before and after debiasing, also with confounders that were not solved for.

    Attributes:
        objective: Objective that is subtracted; None where the rewards are left as they are.
        correlation: Kind of correlation that was brought to zero.
        confounder: Quantity that it was measured with.
        found: All correlations. A confounder that does not vary is not listed.
        warning: Reason to doubt the penalties; None if there is none.
    """

    objective: str | None
    correlation: Correlation
    confounder: str
    found: tuple[ConfounderCorrelations, ...]
    warning: str | None = None

    @property
    def confounder_name(self) -> str:
        """Name of the confounder for people."""
        return str(self.objective) if self.confounder == "objective" else self.confounder

    def solved(self) -> dict[str, ConfounderCorrelations]:
        """Return the correlations that debiasing was solved for, by set of rows."""
        wanted = (self.confounder, self.correlation)
        return {one.rows: one for one in self.found if (one.confounder, one.correlation) == wanted}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {**asdict(self), "found": [asdict(one) for one in self.found]}


def debiasing_report(
    *,
    store: FeatureStore,
    objectives: ObjectiveSet,
    options: DebiasingOptions,
    rewards: Float[np.ndarray, "responses objectives"],
    debiasing: VerbosityDebiasing,
    responses: Mapping[str, Int[np.ndarray, " chosen"]],
) -> DebiasingReport:
    """Measure all correlations before and after debiasing.

    Args:
        store: Features of the preference data, with the lengths of the responses.
        objectives: Objectives of the reward columns.
        options: Options that the debiasing was fitted with.
        rewards: Predicted rewards of all responses.
        debiasing: The fitted debiasing.
        responses: Numbers of the responses of each set of rows.
    """
    lengths = store.responses()
    confounders = {
        name: lengths[name].to_numpy().astype(np.float64) for name in ("tokens", "characters")
    }
    if options.objective is not None:
        predicted = rewards[:, objectives.column(options.objective)]
        confounders = {"objective": predicted, **confounders}
    debiased = rewards @ debiasing.transform

    def by_name(
        values: Float[np.ndarray, "_ objectives"], confounder: np.ndarray, kind: Correlation
    ) -> dict[str, float]:
        found = correlations(values, confounder, kind).tolist()
        return dict(zip(objectives.names, found, strict=True))

    found = [
        ConfounderCorrelations(
            rows=rows,
            responses=len(chosen),
            confounder=name,
            correlation=kind,
            before=by_name(rewards[chosen], values[chosen], kind),
            after=by_name(debiased[chosen], values[chosen], kind),
        )
        for rows, chosen in responses.items()
        for name, values in confounders.items()
        for kind in typing.get_args(Correlation)
        if len(chosen) > 1 and np.ptp(values[chosen]) > 0
    ]
    return DebiasingReport(
        options.objective,
        options.correlation,
        options.confounder,
        tuple(found),
        debiasing.warning,
    )
