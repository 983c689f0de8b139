"""Stage 2: debiasing and the gate, the finished model, and its figures on held-out pairs."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from armorm.data.catalog.entry import NOT_STATED
from armorm.errors import ArmormError, StoreError
from armorm.evaluation.data_account import DataAccount
from armorm.evaluation.debiasing_report import DebiasingReport, debiasing_report
from armorm.evaluation.leave_out import LeaveOutReport, LeftOutSource, leave_each_out
from armorm.evaluation.moved_prompts import MovedPrompt, moved_prompts
from armorm.evaluation.report import ExplainedPair, explained_pairs, write_run_report
from armorm.evaluation.run_metrics import (
    HeadReport,
    PreferenceMetrics,
    RunMetrics,
    SeedSpread,
    preference_metrics,
)
from armorm.features import Backbone, FeatureStore
from armorm.features.store import PairIndex
from armorm.files import write_json
from armorm.heads import (
    BradleyTerryHead,
    DebiasingOptions,
    FixedWeights,
    Gate,
    GateTraining,
    RewardHead,
    RewardPairs,
    VerbosityDebiasing,
    fit_debiasing,
    fit_fixed_weights,
    fit_gate,
)
from armorm.heads.gating import margins
from armorm.model import Heads, ModelReference, Reference, RewardModel
from armorm.model.layout import FIXED_WEIGHTS, LICENCES, SCORE_QUANTILES
from armorm.model.reference import MOST_PROMPTS
from armorm.objectives import ObjectiveSet
from armorm.training.curve_log import curve_log
from armorm.training.head_stage import load_head, rewards_of_responses
from armorm.training.linear_rival import bradley_terry_head, held_out_margins
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import load_backbone
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import fitted_licences, fitted_objectives
from armorm.training.tuning.folders import tuning_reports
from armorm.training.uncertainty import load_uncertainty


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained reward model with its figures, and where both were written.

    Attributes:
        model: The model, also in ``folder.model``.
        metrics: Its figures on held-out data, also in ``folder.metrics``.
        examples: A right and a wrong decision on held-out pairs, explained, where both occur.
        folder: The run folder.
        report: The page for people; None where matplotlib (extra ``report``) is not installed.
    """

    model: RewardModel
    metrics: RunMetrics
    examples: tuple[ExplainedPair, ...]
    folder: RunFolder
    report: Path | None


def fit_gate_stage(
    recipe: Recipe,
    output: str | Path | RunFolder,
    *,
    backbone: Backbone | None = None,
    show_progress: bool = False,
) -> TrainingResult:
    """Fit the debiasing and the gate, and write the model, its figures and its report.

    Args:
        recipe: Its sections ``debiasing`` and ``gate`` are used.
        output: Run folder in which ``features_stage`` and ``fit_head_stage`` were run.
        backbone: The recipe's backbone, if it is loaded already.
        show_progress: Draw progress bars on standard error.

    Raises:
        StoreError: An earlier stage is missing.
        ArmormError: No pair is held out, or the folder is in use by another process.
    """
    run = RunFolder.of(output)
    with run.locked("training the gate"):
        return _fit_gate(recipe, run, backbone, show_progress)


def _fit_gate(
    recipe: Recipe, run: RunFolder, backbone: Backbone | None, show_progress: bool
) -> TrainingResult:
    store = FeatureStore.open(run.preference_features)
    head, head_report = load_head(run.head)
    objectives, uncertainty = _objectives_of_head(recipe, run), load_uncertainty(run.head)
    if recipe.debiasing.objective is not None and recipe.debiasing.confounder == "kept":
        column = objectives.column(recipe.debiasing.objective)
        objectives, head = objectives.mirrored(recipe.debiasing.objective), head.mirrored(column)
        uncertainty = uncertainty and uncertainty.mirrored(column, head.weight)
    data = DataAccount.load(run.data_report)
    every, rewards = store.pairs(), rewards_of_responses(store, head)
    backbone = backbone or load_backbone(recipe, run)

    inputs = _Inputs(recipe, objectives, store, rewards, str(backbone.device))
    sources = recipe.data.sources_left_out
    pairs = every.leaving_out(sources) if sources else every
    fitted = _fit_on(inputs, pairs, run, show_progress)
    fitted.linear_head.save(run.bradley_terry_head)
    left_out = None
    if recipe.data.leaves_each_out:
        started = time.perf_counter()
        left_out = leave_each_out(every, partial(_measure_on, inputs), show_progress=show_progress)
        write_json(run.leave_out, left_out.as_dict())
        fitted.seconds["leave_out"] = time.perf_counter() - started

    debiased = _debiasing_report(
        recipe, objectives, store, rewards, pairs, fitted.debiasing, head_report
    )
    moved = moved_prompts(store, pairs, fitted.gates.gate.gate, objectives, run.held_out_pairs)
    metrics = _run_metrics(recipe, run, data, head_report, fitted, debiased, moved, left_out)
    quantiles = _score_quantiles(store, pairs, rewards, fitted)
    licences = {
        "rated": fitted_licences(run.statistics),
        "preferences": _licences_of(pairs, data),
    }
    heads = _heads(
        recipe, objectives, head, fitted.debiasing, fitted.gates, metrics, quantiles, licences
    )
    reference = _reference(store, pairs, rewards, heads.gate)
    model = RewardModel(backbone, heads, uncertainty=uncertainty, reference=reference)
    model.save_pretrained(run.model)
    write_json(run.metrics, metrics.as_dict())
    examples = explained_pairs(model, run.held_out_pairs, _mislabelled(recipe) or ())
    report = write_run_report(run.report, run.path.name, metrics, examples)
    return TrainingResult(model, metrics, examples, run, report)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Debiasing and gates of some training pairs, and their figures on the held-out ones."""

    debiasing: VerbosityDebiasing
    gates: _Gates
    linear_head: BradleyTerryHead
    spread: SeedSpread | None
    preferences: PreferenceMetrics
    seconds: dict[str, float]


def _objectives_of_head(recipe: Recipe, run: RunFolder) -> ObjectiveSet:
    """Return the objectives that the head was fitted on, which must be the recipe's.

    Raises:
        StoreError: They are not, or the head's statistics are missing or damaged.
    """
    fitted = fitted_objectives(run.statistics)
    if fitted.names != recipe.objective_set().names:
        raise StoreError(
            f"The head in {run.head} was fitted on the objectives {', '.join(fitted.names)}; the "
            "recipe now has others. Run `armorm fit-head` again."
        )
    return fitted


@dataclass(frozen=True, slots=True)
class _Inputs:
    """All that stage 2 is fitted on, but for the choice of pairs."""

    recipe: Recipe
    objectives: ObjectiveSet
    store: FeatureStore
    rewards: Float[np.ndarray, "responses objectives"]
    device: str


def _fit_on(
    inputs: _Inputs, pairs: PairIndex, run: RunFolder | None = None, show_progress: bool = False
) -> _Fitted:
    """Fit debiasing and gates on the pairs that are not held out, and measure on those that are.

    Without ``run`` neither a checkpoint nor a log is written, and one seed is trained.
    """
    recipe, store, rewards = inputs.recipe, inputs.store, inputs.rewards
    started = time.perf_counter()
    debiasing = debias(recipe, inputs.objectives, store, rewards, pairs)
    debiased_at = time.perf_counter()
    all_pairs = reward_pairs(store, pairs, rewards @ debiasing.transform)
    training = all_pairs.where(~pairs.held_out)
    gates = _train_gates(recipe, run, training, inputs.device, show_progress)
    seconds = {"debiasing": debiased_at - started, "gate": time.perf_counter() - debiased_at}
    linear_head = bradley_terry_head(store, pairs, recipe.seed)
    preferences = preference_metrics(
        objectives=inputs.objectives,
        pairs=pairs,
        rewards=rewards,
        debiasing=debiasing,
        reward_pairs=all_pairs,
        gate=gates.gate.gate,
        beta=gates.gate.beta,
        fixed=gates.fixed,
        bradley_terry=held_out_margins(linear_head, store, pairs),
        planted=_planted_objectives(recipe),
        mislabelled=_mislabelled(recipe),
    )
    spread = gates.spread(all_pairs.where(pairs.held_out))
    return _Fitted(debiasing, gates, linear_head, spread, preferences, seconds)


def _measure_on(inputs: _Inputs, pairs: PairIndex) -> LeftOutSource:
    """Train stage 2 on the pairs that are not held out, and measure it on those that are."""
    fitted = _fit_on(inputs, pairs)
    shrinkage = fitted.gates.gate.shrinkage
    return LeftOutSource(
        pairs=int(pairs.held_out.sum()),
        training_pairs=int((~pairs.held_out).sum()),
        methods=fitted.preferences.methods,
        best_single_objective=fitted.preferences.best_single_objective,
        shrinkage=None if shrinkage is None else shrinkage.share,
    )


@dataclass(frozen=True, slots=True)
class _Gates:
    """The trained gate, its ablation, and gates with other seeds."""

    gate: GateTraining
    fixed: FixedWeights
    others: list[GateTraining]

    def spread(self, held_out: RewardPairs) -> SeedSpread | None:
        """Return the spread of the held-out accuracy over the seeds, if there are several."""
        if not self.others:
            return None
        trained = (self.gate, *self.others)
        return SeedSpread.of(
            [float((margins(one.gate, held_out) > 0).float().mean()) for one in trained]
        )


def _train_gates(
    recipe: Recipe, run: RunFolder | None, pairs: RewardPairs, device: str, show_progress: bool
) -> _Gates:
    fit = partial(fit_gate, pairs, recipe.gate, device=device)
    if run is None:
        return _Gates(fit(seed=recipe.seed), fit_fixed_weights(pairs), [])
    with curve_log(recipe.gate.report_to, run.logs) as log_point:
        gate = fit(
            seed=recipe.seed,
            checkpoint=run.gate_checkpoint,
            on_point=log_point,
            show_progress=show_progress,
        )
    others = [fit(seed=recipe.seed + number) for number in range(1, recipe.gate.seeds)]
    return _Gates(gate, fit_fixed_weights(pairs), others)


def _run_metrics(
    recipe: Recipe,
    run: RunFolder,
    data: DataAccount,
    head: HeadReport,
    fitted: _Fitted,
    debiasing: DebiasingReport,
    moved: Sequence[MovedPrompt],
    left_out: LeaveOutReport | None,
) -> RunMetrics:
    tuning = tuning_reports(recipe, run)
    seconds = {
        **{stage: report["seconds"] for stage, report in tuning.items()},
        "features": data.seconds,
        "head": head.seconds,
        **fitted.seconds,
    }
    gate = fitted.gates.gate
    return RunMetrics(
        preferences=fitted.preferences,
        head=head,
        debiasing=debiasing,
        beta=gate.beta,
        gate_steps=gate.steps,
        gate_curve=gate.curve,
        gate_shrinkage=gate.shrinkage,
        gate_seeds=fitted.spread,
        moved_prompts=tuple(moved),
        left_out=left_out,
        tuning=tuning,
        seconds={**seconds, "total": sum(seconds.values())},
        data=data,
    )


def _debiasing_report(
    recipe: Recipe,
    objectives: ObjectiveSet,
    store: FeatureStore,
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
    debiasing: VerbosityDebiasing,
    head: HeadReport,
) -> DebiasingReport:
    objective = recipe.debiasing.objective
    return debiasing_report(
        store=store,
        objectives=objectives,
        options=recipe.debiasing,
        rewards=rewards,
        debiasing=debiasing,
        held_out_spearman=None if objective is None else head.objectives[objective].spearman,
        responses={
            "reference": reference_responses(recipe, pairs),
            "held_out": pairs.responses(pairs.held_out),
        },
    )


def _heads(
    recipe: Recipe,
    objectives: ObjectiveSet,
    head: RewardHead,
    debiasing: VerbosityDebiasing,
    gates: _Gates,
    metrics: RunMetrics,
    quantiles: list[float],
    licences: dict[str, dict[str, str]],
) -> Heads:
    names = objectives.names
    report = {
        "objective": recipe.debiasing.objective,
        "confounder": recipe.debiasing.confounder,
        "correlation": debiasing.correlation,
        "penalties": dict(zip(names, debiasing.penalties.tolist(), strict=True)),
        "before": dict(zip(names, debiasing.before.tolist(), strict=True)),
        "after": dict(zip(names, debiasing.after.tolist(), strict=True)),
    }
    packages = ("armorm", "torch", "transformers", "numpy", "scipy")
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "metrics": metrics.as_dict(),
        FIXED_WEIGHTS: dict(zip(names, gates.fixed.coefficients.tolist(), strict=True)),
        SCORE_QUANTILES: quantiles,
        LICENCES: licences,
    }
    return Heads.of(
        objectives, head, debiasing, gates.gate, debiasing_report=report, training=record
    )


def _licences_of(pairs: PairIndex, data: DataAccount) -> dict[str, str]:
    """Return the licence of each source of training pairs."""
    trained = {pairs.source[i] for i in np.flatnonzero(~pairs.held_out)}
    return {name: data.preferences.licences.get(name, NOT_STATED) for name in sorted(trained)}


def _score_quantiles(
    store: FeatureStore,
    pairs: PairIndex,
    rewards: Float[np.ndarray, "responses objectives"],
    fitted: _Fitted,
) -> list[float]:
    """Return the 0th to the 100th percentile of the scores of the held-out pairs' responses."""
    held_out = pairs.where(pairs.held_out)
    responses = np.concatenate([held_out.chosen, held_out.rejected])
    prompts, place = np.unique(held_out.prompt, return_inverse=True)
    with torch.inference_mode():
        features = store.prompt_features()[torch.from_numpy(prompts)].float()
        gating = fitted.gates.gate.gate(features).double().numpy()
    coefficients = (gating @ fitted.debiasing.transform.T)[np.concatenate([place, place])]
    scores = (coefficients * rewards[responses]).sum(axis=1)
    quantiles: list[float] = np.percentile(scores, np.arange(101)).tolist()
    return quantiles


def _reference(
    store: FeatureStore,
    pairs: PairIndex,
    rewards: Float[np.ndarray, "responses objectives"],
    gate: Gate,
) -> ModelReference:
    """Return a sample of the held-out prompts with their responses, for explanations."""
    held_out = pairs.where(pairs.held_out)
    prompts = np.unique(held_out.prompt)
    if len(prompts) > MOST_PROMPTS:
        prompts = np.sort(np.random.default_rng(0).choice(prompts, MOST_PROMPTS, replace=False))
    responses, first = np.unique(
        np.concatenate([held_out.chosen, held_out.rejected]), return_index=True
    )
    of_prompt = np.tile(held_out.prompt, 2)[first]
    sampled = np.isin(of_prompt, prompts)
    features = store.prompt_features()[torch.from_numpy(prompts)].float()
    with torch.inference_mode():
        gating = gate(features)
    return ModelReference(
        Reference.of(
            features,
            gating,
            torch.from_numpy(rewards[responses[sampled]]),
            torch.from_numpy(np.searchsorted(prompts, of_prompt[sampled])),
        )
    )


def _planted_objectives(recipe: Recipe) -> dict[str, str]:
    """Return the deciding objective of each subset, if all sources name the same."""
    planted = [dict(source.planted) for source in recipe.data.preferences]
    return planted[0] if planted and all(one == planted[0] for one in planted) else {}


def _mislabelled(recipe: Recipe) -> frozenset[str] | None:
    """Return the ids of the pairs whose label is wrong, where all pairs are of one known source."""
    sources = recipe.data.preferences
    return sources[0].mislabelled if len(sources) == 1 else None


def debias(
    recipe: Recipe,
    objectives: ObjectiveSet,
    store: FeatureStore,
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
) -> VerbosityDebiasing:
    """Fit the debiasing that the recipe asks for on its reference responses."""
    section = recipe.debiasing
    if section.objective is None:
        return VerbosityDebiasing.none(len(objectives))
    responses = reference_responses(recipe, pairs)
    mirrors = [objective.mirrors for objective in objectives]
    return fit_debiasing(
        rewards[responses],
        objectives.column(section.objective),
        section,
        mirror=mirrors.index(section.objective) if section.objective in mirrors else None,
        measured=_measured(store, section, responses),
    )


def reference_responses(recipe: Recipe, pairs: PairIndex) -> Int[np.ndarray, " responses"]:
    """Return the numbers of the training responses that the debiasing is fitted on.

    Raises:
        ArmormError: The recipe names no source of training pairs.
    """
    named = recipe.debiasing.reference
    in_reference = np.array([named is None or source in named for source in pairs.source])
    reference = in_reference & ~pairs.held_out
    if not reference.any():
        known = sorted({pairs.source[i] for i in np.flatnonzero(~pairs.held_out)})
        raise ArmormError(
            f"debiasing.reference ({', '.join(named or ())}) names no source of training pairs. "
            f"Known: {', '.join(known)}."
        )
    return pairs.responses(reference)


def _measured(
    store: FeatureStore, section: DebiasingOptions, responses: Int[np.ndarray, " responses"]
) -> Float[np.ndarray, " responses"] | None:
    if section.measured_by == "objective":
        return None
    lengths = store.responses()[section.measured_by].to_numpy()
    return np.asarray(lengths[responses], np.float64)


def reward_pairs(
    store: FeatureStore, pairs: PairIndex, rewards: Float[np.ndarray, "responses objectives"]
) -> RewardPairs:
    """Return the pairs as the gate sees them, from the debiased rewards of all responses."""
    differences = rewards[pairs.chosen] - rewards[pairs.rejected]
    return RewardPairs(
        prompts=store.prompt_features(),
        prompt=torch.tensor(pairs.prompt),
        differences=torch.from_numpy(differences.astype(np.float32)),
    )
