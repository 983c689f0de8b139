"""Figures of a training run on held-out data: the gate, its rivals, and its coefficients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.evaluation.accuracy import Accuracy, MethodAccuracy
from armorm.evaluation.data_account import DataAccount
from armorm.evaluation.debiasing_report import DebiasingReport
from armorm.evaluation.leave_out import LeaveOutReport
from armorm.evaluation.moved_prompts import MovedPrompt
from armorm.features.store import PairIndex
from armorm.finite import nonfinite_rows
from armorm.heads import (
    CurvePoint,
    FixedWeights,
    Gate,
    RewardPairs,
    Shrinkage,
    VerbosityDebiasing,
)
from armorm.heads.debiasing import correlations
from armorm.heads.gating import margins
from armorm.heads.metrics import (
    Calibration,
    best_single_objective,
    calibration,
    gate_diagnostics,
)
from armorm.heads.options import Treatment
from armorm.objectives import ObjectiveSet

METHODS = {
    "gate": "gate",
    "fixed_weights": "fixed weights",
    "bradley_terry_head": "Bradley–Terry head",
    "best_single_objective": "best single objective",
    "length": "longer response",
}
"""The ways to score that are compared, with their names for people."""

Means = dict[str, dict[str, float]]
"""Mean coefficient of every objective in the score, by group of pairs."""


@dataclass(frozen=True, slots=True)
class PlantedObjective:
    """The objective that decides the pairs of a subset in data that was made so.

    Attributes:
        planted: The deciding objective.
        found: Objective with the largest mean coefficient; None where the subset has no pair.
        right_labels: Accuracy of the labels against what was planted: the most that any method can
            reach against the labels; None where that is not known of each pair.
        truth: Accuracy of the gate against what was planted; None likewise.
    """

    planted: str
    found: str | None
    right_labels: Accuracy | None = None
    truth: Accuracy | None = None


@dataclass(frozen=True, slots=True)
class GateOnConfounder:
    """Weight that the gate gives to the confounder on held-out pairs.

    Attributes:
        objective: The confounder.
        confounder: It is ``dropped`` from the score, so that its weight is no opinion, or ``kept``.
        share: Mean share of the gate's weights on it, and on its reverse where it is kept, by name.
        by_source: The same by source.
        switched_off: Accuracies of the gate without both; None where the confounder is dropped.
    """

    objective: str
    confounder: Treatment
    share: dict[str, float]
    by_source: dict[str, dict[str, float]]
    switched_off: MethodAccuracy | None


@dataclass(frozen=True, slots=True)
class PreferenceMetrics:
    """Figures on held-out preference pairs.

    Attributes:
        methods: Accuracies of each of :data:`METHODS`.
        best_single_objective: Name of the objective that ranks most training pairs right.
        verbosity_spearman: Largest absolute correlation of an objective with the debiased one on
            held-out responses, ``before`` and ``after``; None without debiasing.
        coefficients: Mean coefficients by subset.
        coefficients_by_source: Mean coefficients by source.
        gate: Spread of the gate's weights.
        gate_by_subset: The same by subset.
        calibration: Agreement of the Bradley–Terry probabilities with the labels.
        planted: Planted and found objective of each subset; empty where nothing was planted.
        gate_on_confounder: Weight of the gate on the confounder; None without debiasing.
    """

    methods: dict[str, MethodAccuracy]
    best_single_objective: str
    verbosity_spearman: dict[str, float | None]
    coefficients: Means
    coefficients_by_source: Means
    gate: dict[str, float | bool]
    gate_by_subset: dict[str, dict[str, float | bool]]
    calibration: Calibration | None
    planted: dict[str, PlantedObjective]
    gate_on_confounder: GateOnConfounder | None = None

    @property
    def gate_recovery(self) -> float | None:
        """Share of subsets whose planted objective has the largest coefficient."""
        if not self.planted:
            return None
        return sum(one.planted == one.found for one in self.planted.values()) / len(self.planted)

    def as_dict(self) -> dict[str, Any]:
        """Return the keys of ``metrics.json`` that concern preferences."""
        gate = self.methods["gate"]
        recovery = {
            "gate_recovery": self.gate_recovery,
            "deciding_objective": {name: asdict(one) for name, one in self.planted.items()},
        }
        return {
            "accuracy": {name: one.all.accuracy for name, one in self.methods.items()},
            "accuracy_shorter_won": {
                name: one.shorter_won.accuracy for name, one in self.methods.items()
            },
            "accuracy_balanced": {
                name: one.balanced.accuracy for name, one in self.methods.items()
            },
            "methods": {name: one.as_dict() for name, one in self.methods.items()},
            "pairs": {
                "held_out": gate.all.n,
                "shorter_won": gate.shorter_won.n,
                "longer_won": gate.longer_won.n,
            },
            "best_single_objective": self.best_single_objective,
            "verbosity_spearman": self.verbosity_spearman,
            "coefficients": self.coefficients,
            "coefficients_by_source": self.coefficients_by_source,
            "gate": self.gate,
            "gate_by_subset": self.gate_by_subset,
            "gate_on_confounder": None
            if self.gate_on_confounder is None
            else asdict(self.gate_on_confounder),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            **(recovery if self.planted else {}),
        }


@dataclass(frozen=True, slots=True)
class ObjectiveFit:
    """Prediction of one objective on held-out rows.

    Attributes:
        r2: Share of the ratings' variance that is predicted; None below two distinct ratings.
        spearman: Rank correlation of prediction and rating; None likewise.
        rows: Training rows that rate the objective.
        held_out_rows: Held-out rows that rate it.
        alpha: Ridge penalty.
    """

    r2: float | None
    spearman: float | None
    rows: int
    held_out_rows: int
    alpha: float


@dataclass(frozen=True, slots=True)
class HeadReport:
    """Report of stage 1, as in ``head/head.json``.

    Attributes:
        objectives: Fit of each objective.
        alphas: Penalties that were tried.
        selection_errors: Error of each penalty, by objective, on rows it was not fitted on; None
            where it could not be measured.
        uncertainty: Report of the uncertainty, see :mod:`armorm.training.uncertainty`.
        seconds: Duration of the stage.
    """

    objectives: dict[str, ObjectiveFit]
    alphas: list[float]
    selection_errors: list[list[float | None]]
    uncertainty: dict[str, Any]
    seconds: float

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> HeadReport:
        """Return the report that :meth:`as_dict` gave.

        Raises:
            TypeError: A key is missing or unknown.
        """
        fits = {name: ObjectiveFit(**fit) for name, fit in dict(report)["objectives"].items()}
        return cls(**{**report, "objectives": fits})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Held-out accuracy of gates that were trained with different seeds.

    Attributes:
        accuracies: Accuracy of each gate; the first is the one that is kept.
        mean: Their mean.
        standard_deviation: Their standard deviation.
    """

    accuracies: list[float]
    mean: float
    standard_deviation: float

    @classmethod
    def of(cls, accuracies: list[float]) -> SeedSpread:
        """Return the spread of at least two accuracies."""
        return cls(accuracies, float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)))


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Figures of a training run: the content of ``metrics.json``.

    Attributes:
        preferences: Figures on held-out preference pairs.
        head: Report of stage 1.
        debiasing: Correlations before and after debiasing.
        beta: Learned scale of the Bradley–Terry model.
        gate_steps: Step whose weights were kept, of each fold.
        gate_curve: Points of the training curves.
        gate_shrinkage: Share of the gate in its logits; None without shrinkage.
        gate_seeds: Spread over seeds; None where one gate was trained.
        moved_prompts: Held-out prompts for which the gate decides most unlike its mean.
        left_out: Figures on each source, of stage 2 trained without it; None unless asked for.
        tuning: Reports of the trainings of the backbone: ``pretraining``, ``finetuning``.
        seconds: Duration of each stage, and their total.
        data: Account of the rows that were read.
    """

    preferences: PreferenceMetrics
    head: HeadReport
    debiasing: DebiasingReport
    beta: float
    gate_steps: tuple[int, ...]
    gate_curve: tuple[CurvePoint, ...]
    gate_shrinkage: Shrinkage | None
    gate_seeds: SeedSpread | None
    moved_prompts: tuple[MovedPrompt, ...]
    left_out: LeaveOutReport | None
    tuning: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    data: DataAccount

    @property
    def warnings(self) -> list[str]:
        """Sentences on what a reader of the figures must know."""
        found = []
        if self.preferences.gate["collapsed"]:
            found.append(
                "The gate has collapsed: one objective takes nearly all weight on every prompt. "
                "Try fewer steps, a lower starting beta, or a higher temperature."
            )
        if self.debiasing.warning is not None:
            found.append(self.debiasing.warning)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        head = self.head.as_dict()
        return {
            **self.preferences.as_dict(),
            **self.tuning,
            "objectives": head["objectives"],
            "head": {key: head[key] for key in ("alphas", "selection_errors", "uncertainty")},
            "seconds": self.seconds,
            "data": {kind: one.as_dict() for kind, one in self.data.by_kind().items()},
            "beta": self.beta,
            "debiasing": self.debiasing.as_dict(),
            "gate_steps": list(self.gate_steps),
            "gate_curve": [asdict(point) for point in self.gate_curve],
            "gate_shrinkage": self.gate_shrinkage and asdict(self.gate_shrinkage),
            "moved_prompts": [one.as_dict() for one in self.moved_prompts],
            "leave_out": None if self.left_out is None else self.left_out.as_dict(),
            "gate_seeds": None if self.gate_seeds is None else asdict(self.gate_seeds),
            "warnings": self.warnings,
        }


def preference_metrics(
    *,
    objectives: ObjectiveSet,
    pairs: PairIndex,
    rewards: Float[np.ndarray, "responses objectives"],
    debiasing: VerbosityDebiasing,
    reward_pairs: RewardPairs,
    gate: Gate,
    beta: float,
    fixed: FixedWeights,
    bradley_terry: Float[np.ndarray, " held_out"],
    planted: Mapping[str, str],
    mislabelled: Collection[str] | None = None,
) -> PreferenceMetrics:
    """Compare the gate with its rivals on held-out pairs, all on the same debiased rewards.

    Args:
        objectives: Objectives of the reward columns.
        pairs: All pairs.
        rewards: Predicted rewards of all responses, before debiasing.
        debiasing: The fitted debiasing.
        reward_pairs: All pairs as the gate sees them.
        gate: The trained gate.
        beta: Its learned scale.
        fixed: Coefficients that do not depend on the prompt.
        bradley_terry: Margins of the linear head on the held-out pairs.
        planted: Deciding objective by subset, of data that was made so.
        mislabelled: Ids of the pairs whose label is against it; None where that is not known.

    Raises:
        ArmormError: No pair is held out, or a margin is not a finite number.
    """
    held_out = pairs.held_out
    if not held_out.any():
        raise ArmormError("No preference pair is held out, so nothing can be reported.")
    held_pairs = reward_pairs.where(held_out)
    single = best_single_objective(reward_pairs.where(~held_out).differences.numpy())
    longer = (pairs.chosen_length - pairs.rejected_length)[held_out]
    with torch.inference_mode():
        gating = gate(held_pairs.prompts[held_pairs.prompt].float()).double().numpy()
        scores = {
            "gate": margins(gate, held_pairs).numpy(),
            "fixed_weights": fixed.margins(held_pairs.differences.double().numpy()),
            "bradley_terry_head": bradley_terry,
            "best_single_objective": held_pairs.differences[:, single].numpy(),
            "length": longer.astype(np.float64),
        }
    _check_finite(scores, pairs)
    subsets, sources = np.array(pairs.subset)[held_out], np.array(pairs.source)[held_out]
    coefficients = gating @ debiasing.transform.T
    by_subset = _mean_by(subsets, coefficients, objectives)
    return PreferenceMetrics(
        methods={
            name: MethodAccuracy.of(
                margin,
                longer,
                subsets.tolist(),
                None if name == "gate" else scores["gate"],
                sources.tolist(),
            )
            for name, margin in scores.items()
        },
        best_single_objective=objectives.names[single],
        verbosity_spearman=_verbosity_spearman(rewards, pairs, debiasing),
        coefficients=by_subset,
        coefficients_by_source=_mean_by(sources, coefficients, objectives),
        gate=gate_diagnostics(gating),
        gate_by_subset={
            str(name): gate_diagnostics(gating[subsets == name]) for name in np.unique(subsets)
        },
        calibration=calibration(scores["gate"], beta),
        planted=_compare_with_planted(planted, mislabelled, by_subset, pairs, scores["gate"]),
        gate_on_confounder=_gate_on_confounder(
            objectives, debiasing, gating, held_pairs, longer, subsets, sources
        ),
    )


def _compare_with_planted(
    planted: Mapping[str, str],
    mislabelled: Collection[str] | None,
    coefficients: Means,
    pairs: PairIndex,
    margin: Float[np.ndarray, " held_out"],
) -> dict[str, PlantedObjective]:
    held_out = pairs.where(pairs.held_out)
    subsets = np.array(held_out.subset)
    accuracies: dict[str, tuple[Accuracy, Accuracy]] = {}
    if mislabelled is not None:
        label = np.where([one in mislabelled for one in held_out.id], -1.0, 1.0)
        for subset in planted:
            here = subsets == subset
            accuracies[subset] = Accuracy.of(label[here]), Accuracy.of((label * margin)[here])
    return {
        subset: PlantedObjective(
            objective,
            _largest(coefficients.get(subset)),
            *accuracies.get(subset, (None, None)),
        )
        for subset, objective in planted.items()
    }


def _gate_on_confounder(
    objectives: ObjectiveSet,
    debiasing: VerbosityDebiasing,
    gating: Float[np.ndarray, "pairs objectives"],
    pairs: RewardPairs,
    longer: npt.NDArray[Any],
    subsets: npt.NDArray[Any],
    sources: npt.NDArray[Any],
) -> GateOnConfounder | None:
    columns = list(debiasing.columns)
    if not columns:
        return None
    shares = (gating / gating.sum(axis=1, keepdims=True))[:, columns]
    names = [objectives.names[column] for column in columns]
    switched_off = None
    if debiasing.mirror is not None:
        rest = np.delete(gating * pairs.differences.double().numpy(), columns, axis=1).sum(axis=1)
        switched_off = MethodAccuracy.of(rest, longer, subsets.tolist())
    return GateOnConfounder(
        objective=names[0],
        confounder="dropped" if debiasing.mirror is None else "kept",
        share=dict(zip(names, shares.mean(axis=0).tolist(), strict=True)),
        by_source={
            str(name): dict(zip(names, shares[sources == name].mean(axis=0).tolist(), strict=True))
            for name in np.unique(sources)
        },
        switched_off=switched_off,
    )


def _check_finite(scores: Mapping[str, npt.NDArray[Any]], pairs: PairIndex) -> None:
    for method, margin in scores.items():
        if bad := nonfinite_rows(np.asarray(margin, np.float64)):
            source = np.array(pairs.source)[pairs.held_out][bad[0]]
            raise ArmormError(
                f"{len(bad)} held-out pairs have no finite margin of {METHODS[method]}, the first "
                f"from {source}. Extract the features again in float32 (backbone.dtype)."
            )


def _verbosity_spearman(
    rewards: Float[np.ndarray, "responses objectives"],
    pairs: PairIndex,
    debiasing: VerbosityDebiasing,
) -> dict[str, float | None]:
    if not debiasing.columns:
        return {"before": None, "after": None}
    responses = pairs.responses(pairs.held_out)
    verbosity = rewards[responses, debiasing.verbosity]
    others = ~np.isin(np.arange(rewards.shape[1]), debiasing.columns)
    found = (rewards[responses], rewards[responses] @ debiasing.transform)
    before, after = (np.abs(correlations(r, verbosity)[others]).max(initial=0.0) for r in found)
    return {"before": float(before), "after": float(after)}


def _mean_by(
    group: npt.NDArray[Any],
    coefficients: Float[np.ndarray, "pairs objectives"],
    objectives: ObjectiveSet,
) -> Means:
    return {
        str(name): dict(
            zip(objectives.names, coefficients[group == name].mean(axis=0).tolist(), strict=True)
        )
        for name in np.unique(group)
    }


def _largest(coefficients: Mapping[str, float] | None) -> str | None:
    return None if coefficients is None else max(coefficients, key=coefficients.__getitem__)
