"""What stage 2 is trained on, and how far its outcome hangs on chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from armorm.errors import ArmormError
from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import (
    GateOptions,
    GateTraining,
    RewardPairs,
    VerbosityDebiasing,
    fit_debiasing,
    fit_gate,
)
from armorm.heads.debiasing import no_debiasing
from armorm.heads.gating import margins
from armorm.training.recipe import DebiasingSection, Recipe


def debias(
    recipe: Recipe,
    store: FeatureStore,
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
) -> VerbosityDebiasing:
    """The debiasing that the recipe asks for, fitted on its reference responses."""
    section = recipe.debiasing
    objectives = recipe.objective_set()
    if section.objective is None:
        return no_debiasing(len(objectives))
    responses = reference_responses(recipe, pairs)
    return fit_debiasing(
        rewards[responses],
        objectives.column(section.objective),
        correlation=section.correlation,
        negative=section.negative,
        confounder=_measured_confounder(store, section, responses),
    )


def reference_responses(recipe: Recipe, pairs: PairIndex) -> Int[np.ndarray, " responses"]:
    """Numbers of the training responses that the debiasing is fitted on.

    Raises:
        ArmormError: the recipe names no source of training pairs.
    """
    named = recipe.debiasing.reference
    in_reference = np.array([named is None or source in named for source in pairs.source])
    reference = in_reference & ~pairs.held_out
    if not reference.any():
        known = sorted(set(pairs.source))
        raise ArmormError(
            f"debiasing.reference names no source of training pairs. Known: {', '.join(known)}."
        )
    return responses_of(pairs, reference)


def responses_of(pairs: PairIndex, chosen: npt.NDArray[np.bool_]) -> Int[np.ndarray, " responses"]:
    """Numbers of the responses of some pairs, each once."""
    responses: Int[np.ndarray, " responses"] = np.unique(
        np.concatenate([pairs.chosen[chosen], pairs.rejected[chosen]])
    )
    return responses


def _measured_confounder(
    store: FeatureStore, section: DebiasingSection, responses: Int[np.ndarray, " responses"]
) -> Float[np.ndarray, " responses"] | None:
    if section.confounder == "objective":
        return None
    lengths = store.responses()[section.confounder].to_numpy()
    return np.asarray(lengths[responses], np.float64)


def reward_pairs(
    store: FeatureStore, pairs: PairIndex, rewards: Float[np.ndarray, "responses objectives"]
) -> RewardPairs:
    """The preference pairs as the gate sees them, from the debiased rewards of all responses."""
    differences = rewards[pairs.chosen] - rewards[pairs.rejected]
    return RewardPairs(
        prompts=store.prompt_features(),
        prompt=torch.tensor(pairs.prompt),
        differences=torch.from_numpy(differences.astype(np.float32)),
    )


def split_validation(
    reward_pairs: RewardPairs, pairs: PairIndex, recipe: Recipe
) -> tuple[RewardPairs, RewardPairs | None]:
    """Training pairs, and those that decide which step is kept: whole prompts, held out of both."""
    fraction = recipe.gate.validation_fraction
    if fraction == 0:
        return reward_pairs.where(~pairs.held_out), None
    generator = np.random.default_rng([recipe.seed, 1])
    chosen = (generator.random(int(pairs.prompt.max()) + 1) < fraction)[pairs.prompt]
    training, validation = ~pairs.held_out & ~chosen, ~pairs.held_out & chosen
    if not validation.any():
        raise ArmormError(
            f"gate.validation_fraction = {fraction} leaves no pair to validate on. Raise it."
        )
    return reward_pairs.where(training), reward_pairs.where(validation)


def seed_spread(
    seeds: int,
    options: GateOptions,
    first: GateTraining,
    training: RewardPairs,
    validation: RewardPairs | None,
    held_out: RewardPairs,
) -> dict[str, Any] | None:
    """How much the held-out accuracy moves with the seed of the gate; ``None`` for one seed."""
    if seeds == 1:
        return None
    gates = [first.gate]
    for seed in range(options.seed + 1, options.seed + seeds):
        again = fit_gate(training, replace(options, seed=seed), validation=validation)
        gates.append(again.gate)
    accuracies = [float((margins(gate, held_out) > 0).float().mean()) for gate in gates]
    return {
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)),
        "standard_deviation": float(np.std(accuracies, ddof=1)),
    }
