"""Stage 2: debiasing and the gate, the finished model, and its figures on held-out pairs."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from armorm.errors import ArmormError
from armorm.evaluation.debiasing_report import debiasing_report
from armorm.evaluation.run_metrics import run_metrics
from armorm.features import Backbone, FeatureStore
from armorm.features.store import PairIndex
from armorm.files import read_json, write_json
from armorm.heads import (
    DebiasingOptions,
    GateOptions,
    GateTraining,
    RewardHead,
    RewardPairs,
    VerbosityDebiasing,
    fit_debiasing,
    fit_gate,
)
from armorm.heads.debiasing import no_debiasing
from armorm.heads.gating import margins
from armorm.model import RewardModel
from armorm.model.checkpoint import Heads
from armorm.training.curves import curve_log
from armorm.training.head_stage import load_head, rewards_of_responses
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import load_backbone
from armorm.training.tuning.folders import tuning_reports
from armorm.training.uncertainty import load_uncertainty


def fit_gate_stage(
    recipe: Recipe,
    output: str | Path,
    *,
    backbone: Backbone | None = None,
    show_progress: bool = False,
) -> RewardModel:
    """Debiasing and stage 2, then the finished model and its figures on held-out pairs."""
    output = Path(output)
    store = FeatureStore.open(output / "features" / "preferences")
    head, head_report = load_head(output / "head")
    data = read_json(output / "data.json")
    pairs = store.pairs()
    rewards = rewards_of_responses(store, head)

    started = time.perf_counter()
    debiasing = debias(recipe, store, rewards, pairs)
    debiased_at = time.perf_counter()
    all_pairs = reward_pairs(store, pairs, rewards @ debiasing.transform)
    training, validation = split_validation(all_pairs, pairs, recipe)
    backbone = backbone or load_backbone(recipe, output)
    chance: dict[str, Any] = {"seed": recipe.seed, "device": str(backbone.device)}
    with curve_log(recipe.gate.report_to, output / "logs") as log_point:
        gate = fit_gate(
            training,
            recipe.gate,
            **chance,
            validation=validation,
            checkpoint=output / "gate.unfinished.safetensors",
            on_point=log_point,
            show_progress=show_progress,
        )
    fixed = fit_gate(
        training.without_prompts(),
        recipe.gate,
        **chance,
        validation=None if validation is None else validation.without_prompts(),
        show_progress=show_progress,
        description="fixed weights (ablation)",
    )
    finished = time.perf_counter()

    tuning = tuning_reports(recipe, output)
    seconds = {
        **{stage: report["seconds"] for stage, report in tuning.items()},
        "features": data["seconds"],
        "head": head_report["seconds"],
        "debiasing": debiased_at - started,
        "gate": finished - debiased_at,
    }
    metrics = run_metrics(
        objectives=recipe.objective_set(),
        pairs=pairs,
        rewards=rewards,
        debiasing=debiasing,
        reward_pairs=all_pairs,
        gate=gate.gate,
        beta=gate.beta,
        fixed=fixed.gate,
        deciding_objective=_planted_truth(recipe),
    )
    metrics |= tuning
    metrics |= {
        "objectives": head_report["objectives"],
        "head": {key: head_report[key] for key in ("alphas", "selection_errors", "uncertainty")},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "data": {kind: data[kind] for kind in ("rated", "preferences")},
        "beta": gate.beta,
        "debiasing": debiasing_report(
            store=store,
            objectives=recipe.objective_set(),
            rewards=rewards,
            debiasing=debiasing,
            confounding_objective=recipe.debiasing.objective,
            correlation=recipe.debiasing.correlation,
            confounder=recipe.debiasing.confounder,
            responses={
                "reference": reference_responses(recipe, pairs),
                "held_out": pairs.responses(pairs.held_out),
            },
        ),
        "gate_step": gate.step,
        "gate_curve": [asdict(point) for point in gate.curve],
        "gate_seeds": seed_spread(
            recipe.gate,
            first=gate,
            training=training,
            validation=validation,
            held_out=all_pairs.where(pairs.held_out),
            **chance,
        ),
    }
    heads = _heads(recipe, head, debiasing, gate, metrics)
    model = RewardModel(backbone, heads, uncertainty=load_uncertainty(output / "head"))
    model.save_pretrained(output / "model")
    write_json(output / "metrics.json", metrics)
    return model


def _heads(
    recipe: Recipe,
    head: RewardHead,
    debiasing: VerbosityDebiasing,
    gate: GateTraining,
    metrics: dict[str, Any],
) -> Heads:
    objectives = recipe.objective_set()
    names = objectives.names
    report = {
        "objective": recipe.debiasing.objective,
        "correlation": debiasing.correlation,
        "penalties": dict(zip(names, debiasing.penalties.tolist(), strict=True)),
        "before": dict(zip(names, debiasing.before.tolist(), strict=True)),
        "after": dict(zip(names, debiasing.after.tolist(), strict=True)),
    }
    packages = ("armorm", "torch", "transformers", "numpy", "scipy")
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "metrics": metrics,
    }
    return Heads(
        objectives=objectives,
        weight=torch.from_numpy(head.weight.astype(np.float32)),
        transform=torch.from_numpy(debiasing.transform.astype(np.float32)),
        gate=gate.gate,
        beta=gate.beta,
        debiasing=report,
        training=record,
    )


def _planted_truth(recipe: Recipe) -> dict[str, str] | None:
    """Return which objective decides in which domain, where all sources know the same."""
    planted = [source.planted for source in recipe.data.preferences]
    if not planted or not planted[0] or any(other != planted[0] for other in planted):
        return None
    return dict(planted[0])


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
        section,
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
    return pairs.responses(reference)


def _measured_confounder(
    store: FeatureStore, section: DebiasingOptions, responses: Int[np.ndarray, " responses"]
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
    training = reward_pairs.where(~pairs.held_out)
    fraction = recipe.gate.validation_fraction
    return (training, None) if fraction == 0 else training.split(fraction, recipe.seed)


def seed_spread(
    options: GateOptions,
    seed: int,
    device: str,
    first: GateTraining,
    training: RewardPairs,
    validation: RewardPairs | None,
    held_out: RewardPairs,
) -> dict[str, Any] | None:
    """How much the held-out accuracy moves with the seed of the gate; ``None`` for one seed."""
    if options.seeds == 1:
        return None
    gates = [first.gate]
    for other in range(seed + 1, seed + options.seeds):
        again = fit_gate(training, options, seed=other, device=device, validation=validation)
        gates.append(again.gate)
    accuracies = [float((margins(gate, held_out) > 0).float().mean()) for gate in gates]
    return {
        "accuracies": accuracies,
        "mean": float(np.mean(accuracies)),
        "standard_deviation": float(np.std(accuracies, ddof=1)),
    }
