"""What debiasing left: correlations with every confounder, where it was fitted and held out."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.features import FeatureStore
from armorm.heads import VerbosityDebiasing
from armorm.heads.debiasing import correlations
from armorm.heads.options import Correlation
from armorm.objectives import ObjectiveSet


def debiasing_report(
    *,
    store: FeatureStore,
    objectives: ObjectiveSet,
    rewards: Float[np.ndarray, "responses objectives"],
    debiasing: VerbosityDebiasing,
    confounding_objective: str | None,
    correlation: Correlation,
    confounder: str,
    responses: Mapping[str, Int[np.ndarray, " chosen"]],
) -> dict[str, Any]:
    """Correlations of every reward before and after, also with confounders not solved for.

    Returns:
        ``objective``, ``correlation`` and ``confounder`` that were solved for; and ``found``: a
        list of ``{rows, responses, confounder, correlation, before, after}`` where ``rows`` is
        ``reference`` or ``held_out`` and the last two are per objective.  A confounder that does
        not vary is left out.
    """
    lengths = store.responses()
    confounders = {
        name: lengths[name].to_numpy().astype(np.float64) for name in ("tokens", "characters")
    }
    if confounding_objective is not None:
        confounders = {
            "objective": rewards[:, objectives.column(confounding_objective)],
            **confounders,
        }
    debiased = rewards @ debiasing.transform
    found = [
        {
            "rows": rows,
            "responses": len(chosen),
            "confounder": name,
            "correlation": kind,
            **{
                when: dict(zip(objectives.names, found.tolist(), strict=True))
                for when, found in (
                    ("before", correlations(rewards[chosen], values[chosen], kind)),
                    ("after", correlations(debiased[chosen], values[chosen], kind)),
                )
            },
        }
        for rows, chosen in responses.items()
        for name, values in confounders.items()
        for kind in typing.get_args(Correlation)
        if len(chosen) > 1 and np.ptp(values[chosen]) > 0
    ]
    return {
        "objective": confounding_objective,
        "correlation": correlation,
        "confounder": confounder,
        "found": found,
    }
