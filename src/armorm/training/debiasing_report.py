"""What debiasing left: correlations with every confounder, where it was fitted and held out."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import VerbosityDebiasing
from armorm.heads.debiasing import Correlation, correlations
from armorm.training.recipe import Recipe
from armorm.training.stage2 import reference_responses, responses_of


def debiasing_report(
    recipe: Recipe,
    store: FeatureStore,
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
    debiasing: VerbosityDebiasing,
) -> dict[str, Any]:
    """Correlations of every reward before and after, also with confounders not solved for.

    Returns:
        ``objective``, ``correlation`` and ``confounder`` that were solved for; and ``found``: a
        list of ``{rows, responses, confounder, correlation, before, after}`` where ``rows`` is
        ``reference`` or ``held_out`` and the last two are per objective.  A confounder that does
        not vary is left out.
    """
    section, objectives = recipe.debiasing, recipe.objective_set()
    lengths = store.responses()
    confounders = {
        name: lengths[name].to_numpy().astype(np.float64) for name in ("tokens", "characters")
    }
    if section.objective is not None:
        confounders = {"objective": rewards[:, objectives.column(section.objective)], **confounders}
    sets: dict[str, Int[np.ndarray, " chosen"]] = {
        "reference": reference_responses(recipe, pairs),
        "held_out": responses_of(pairs, pairs.held_out),
    }
    debiased = rewards @ debiasing.transform
    found = [
        {
            "rows": rows,
            "responses": len(chosen),
            "confounder": name,
            "correlation": kind,
            **{
                when: dict(zip(objectives.names, correlation.tolist(), strict=True))
                for when, correlation in (
                    ("before", correlations(rewards[chosen], values[chosen], kind)),
                    ("after", correlations(debiased[chosen], values[chosen], kind)),
                )
            },
        }
        for rows, chosen in sets.items()
        for name, values in confounders.items()
        for kind in typing.get_args(Correlation)
        if len(chosen) > 1 and np.ptp(values[chosen]) > 0
    ]
    return {
        "objective": section.objective,
        "correlation": section.correlation,
        "confounder": section.confounder,
        "found": found,
    }
