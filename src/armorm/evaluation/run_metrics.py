"""The figures of a run, on held-out pairs: gate, its ablation, and the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.features.store import PairIndex
from armorm.heads import GatingNetwork, RewardPairs, VerbosityDebiasing
from armorm.heads.debiasing import correlations
from armorm.heads.gating import margins
from armorm.heads.metrics import accuracy, calibration, gate_diagnostics
from armorm.objectives import ObjectiveSet


def run_metrics(
    *,
    objectives: ObjectiveSet,
    pairs: PairIndex,
    rewards: Float[np.ndarray, "responses objectives"],
    debiasing: VerbosityDebiasing,
    reward_pairs: RewardPairs,
    gate: GatingNetwork,
    beta: float,
    fixed: GatingNetwork,
    deciding_objective: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Everything ``metrics.json`` says about preferences. All of it is held out of training.

    The best single objective is chosen on the training pairs.  Length is the number of
    characters; a tie is wrong, as everywhere.
    """
    held_out = pairs.held_out
    if not held_out.any():
        raise ArmormError("No preference pair is held out, so nothing can be reported.")
    held_pairs = reward_pairs.where(held_out)
    single = _best_single_objective(rewards, pairs)
    with torch.inference_mode():
        scores = {
            "gate": margins(gate, held_pairs).numpy(),
            "fixed_weights": margins(fixed, held_pairs.without_prompts()).numpy(),
            "best_single_objective": _difference(rewards, pairs)[held_out, single],
            "length": (pairs.chosen_length - pairs.rejected_length)[held_out],
        }
    shorter_won = scores["length"] < 0
    with torch.inference_mode():
        gating = gate(held_pairs.prompts[held_pairs.prompt].float()).double().numpy()
    subsets, sources = np.array(pairs.subset)[held_out], np.array(pairs.source)[held_out]
    counted = gating @ debiasing.transform.T
    coefficients = _mean_by(subsets, counted, objectives)
    calibrated = calibration(scores["gate"], beta)
    metrics: dict[str, Any] = {
        "accuracy": {name: accuracy(margin) for name, margin in scores.items()},
        "accuracy_shorter_won": {
            name: accuracy(margin[shorter_won]) for name, margin in scores.items()
        },
        "accuracy_by_subset": _by_subset(scores, pairs),
        "pairs": {"held_out": int(held_out.sum()), "shorter_won": int(shorter_won.sum())},
        "best_single_objective": objectives.names[single],
        "verbosity_spearman": _verbosity_spearman(rewards, pairs, debiasing),
        "coefficients": coefficients,
        "coefficients_by_source": _mean_by(sources, counted, objectives),
        "gate": gate_diagnostics(gating),
        "gate_by_subset": {
            str(name): gate_diagnostics(gating[subsets == name]) for name in np.unique(subsets)
        },
        "calibration": None if calibrated is None else asdict(calibrated),
    }
    if deciding_objective is not None:
        metrics |= _recovery(coefficients, deciding_objective)
    return metrics


def _difference(
    rewards: Float[np.ndarray, "responses objectives"], pairs: PairIndex
) -> Float[np.ndarray, "pairs objectives"]:
    difference: npt.NDArray[np.float64] = rewards[pairs.chosen] - rewards[pairs.rejected]
    return difference


def _best_single_objective(
    rewards: Float[np.ndarray, "responses objectives"], pairs: PairIndex
) -> int:
    training = _difference(rewards, pairs)[~pairs.held_out]
    return int(np.argmax((training > 0).mean(axis=0)))


def _by_subset(
    scores: Mapping[str, npt.NDArray[Any]], pairs: PairIndex
) -> dict[str, dict[str, Any]]:
    subset = np.array(pairs.subset)[pairs.held_out]
    return {
        str(name): {
            **{method: accuracy(margin[subset == name]) for method, margin in scores.items()},
            "n": int((subset == name).sum()),
        }
        for name in np.unique(subset)
    }


def _verbosity_spearman(
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
    debiasing: VerbosityDebiasing,
) -> dict[str, Any]:
    """Largest absolute correlation with the verbosity reward, over the other objectives."""
    if not debiasing.penalties.any():
        return {"before": None, "after": None}
    responses = pairs.responses(pairs.held_out)
    confounder = rewards[responses, debiasing.verbosity]
    before = correlations(rewards[responses], confounder)
    after = correlations(rewards[responses] @ debiasing.transform, confounder)
    others = np.arange(rewards.shape[1]) != debiasing.verbosity
    return {
        "before": float(np.abs(before[others]).max(initial=0.0)),
        "after": float(np.abs(after[others]).max(initial=0.0)),
    }


def _mean_by(
    group: npt.NDArray[Any],
    coefficients: Float[np.ndarray, "pairs objectives"],
    objectives: ObjectiveSet,
) -> dict[str, dict[str, float]]:
    """Mean coefficient of every objective in the score, by group of the held-out pairs."""
    return {
        str(name): {
            objective: float(mean)
            for objective, mean in zip(
                objectives.names, coefficients[group == name].mean(axis=0), strict=True
            )
        }
        for name in np.unique(group)
    }


def _recovery(
    coefficients: Mapping[str, Mapping[str, float]], deciding_objective: Mapping[str, str]
) -> dict[str, Any]:
    """Share of domains where the planted deciding objective has the largest coefficient."""
    found = {
        domain: max(coefficients[domain], key=lambda name: coefficients[domain][name])
        for domain in deciding_objective
        if domain in coefficients
    }
    hits = [found[domain] == deciding_objective[domain] for domain in found]
    return {
        "gate_recovery": sum(hits) / len(deciding_objective),
        "deciding_objective": {
            domain: {"planted": planted, "found": found.get(domain)}
            for domain, planted in deciding_objective.items()
        },
    }
