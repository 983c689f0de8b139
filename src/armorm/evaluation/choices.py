"""Steering from few choices: a user's own weights, from pairs that the user has judged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm

from armorm.conversations import PreferencePair, prompt_key
from armorm.errors import ArmormError, InputError
from armorm.evaluation.accuracy import Accuracy
from armorm.heads.choices import TAUS, ChoicePosterior, fit_choices
from armorm.model import RewardModel, Rewards, Steering
from armorm.model.steering import NO_EFFECT

LEAST_PAIRS = 10
FOLDS = 5
LEVEL = 0.9
DIGITS = 6


@dataclass(frozen=True, slots=True)
class ObjectiveCount:
    """Weight of one objective for the user, as a mean over the prompts of the pairs.

    Attributes:
        objective: Name of the objective.
        gate: Its coefficient under the gate.
        coefficient: Its coefficient for the user.
        low: Lower end of the coefficient's 90 % interval.
        high: Upper end.
    """

    objective: str
    gate: float
    coefficient: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """True if the gate's coefficient lies outside the interval."""
        return not self.low <= self.gate <= self.high


@dataclass(frozen=True, slots=True)
class SteeringFit:
    """Steering that a user's choices ask for, and what it is worth.

    Attributes:
        steering: The steering, at the posterior's mean.
        counts: How much each objective counts, the largest coefficient first.
        pairs: Number of pairs.
        tau: Prior deviation from the gate that the evidence chose: the smallest means that the
            pairs ask for no change.
        gate_accuracy: Accuracy of the gate on the pairs.
        accuracy: Accuracy of the steering on pairs whose prompts it was not fitted on: five folds.
    """

    steering: Steering
    counts: tuple[ObjectiveCount, ...]
    pairs: int
    tau: float
    gate_accuracy: Accuracy
    accuracy: Accuracy

    @property
    def unchanged(self) -> bool:
        """True if the evidence is for the gate as it is: the narrowest prior explains the pairs."""
        return self.tau == min(TAUS)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "steering": self.steering.as_dict(),
            "counts": [{**asdict(one), "differs": one.differs} for one in self.counts],
            "pairs": self.pairs,
            "tau": self.tau,
            "unchanged": self.unchanged,
            "gate_accuracy": asdict(self.gate_accuracy),
            "accuracy": asdict(self.accuracy),
        }


def fit_steering(model: RewardModel, pairs: Sequence[PreferencePair]) -> SteeringFit:
    """Return the steering that a user's choices ask for (:mod:`armorm.heads.choices`).

    Args:
        model: The model, unsteered.
        pairs: Pairs of responses that the user has judged: from 20 on, of different prompts.

    Raises:
        ArmormError: There are too few pairs or prompts, or the model is steered.
        InputError: A pair cannot be scored; ``row`` is its one-based position.
    """
    if not model.steering.is_neutral:
        raise ArmormError("The model is steered. Fit steering to the model as it was trained.")
    prompts = [prompt_key(pair.prompt) for pair in pairs]
    if len(pairs) < LEAST_PAIRS or len(set(prompts)) < FOLDS:
        raise ArmormError(
            f"{len(pairs)} pairs of {len(set(prompts))} prompts say too little: give at least "
            f"{LEAST_PAIRS} of {FOLDS} prompts, better 20 or more."
        )
    rewards = _scored(model, pairs)
    chosen, rejected = (
        rewards.where(torch.arange(0, len(rewards), 2)),
        rewards.where(torch.arange(1, len(rewards), 2)),
    )
    differences = (chosen.rewards - rejected.rewards).double().numpy()
    coefficients = chosen.coefficients.double().numpy()
    gate = (coefficients * differences).sum(axis=1)
    beta = model.heads.beta or 1.0 / max(float(np.std(gate)), 1e-12)
    posterior = fit_choices(gate, differences, beta)
    return SteeringFit(
        steering=_steering(posterior, model),
        counts=_counts(posterior, coefficients.mean(axis=0), rewards.objectives),
        pairs=len(pairs),
        tau=posterior.tau,
        gate_accuracy=Accuracy.of(gate),
        accuracy=Accuracy.of(_held_out_margins(gate, differences, beta, prompts)),
    )


def _scored(model: RewardModel, pairs: Sequence[PreferencePair]) -> Rewards:
    encoded = []
    for row, pair in enumerate(pairs, start=1):
        try:
            encoded.append(model.backbone.encoder.encode(pair.prompt, pair.responses))
        except InputError as error:
            raise error.at(None, row) from None
    return model.score_encoded(encoded)


def _held_out_margins(
    gate: Float[np.ndarray, " pairs"],
    differences: Float[np.ndarray, "pairs objectives"],
    beta: float,
    prompts: Sequence[str],
) -> Float[np.ndarray, " pairs"]:
    """Return the margin of each pair under the fit to the other folds of the prompts."""
    numbers = {prompt: number for number, prompt in enumerate(sorted(set(prompts)))}
    fold = np.array([numbers[prompt] % FOLDS for prompt in prompts])
    margins = np.empty(len(gate))
    for held_out in range(FOLDS):
        rows, rest = fold == held_out, fold != held_out
        fitted = fit_choices(gate[rest], differences[rest], beta)
        margins[rows] = fitted.margins(gate[rows], differences[rows])
    return margins


def _steering(posterior: ChoicePosterior, model: RewardModel) -> Steering:
    gate, *added = np.round(posterior.mean, DIGITS).tolist()
    objectives = model.objectives.names
    # A factor on an objective that the debiasing removes has no effect, and would be warned of.
    acts = (model.heads.transform.abs().amax(dim=0) > NO_EFFECT).tolist()
    return Steering(
        dict.fromkeys(itertools.compress(objectives, acts), gate),
        add={name: value for name, value in zip(objectives, added, strict=True) if value},
    )


def _counts(
    posterior: ChoicePosterior, gate: Float[np.ndarray, " objectives"], objectives: Sequence[str]
) -> tuple[ObjectiveCount, ...]:
    # Every coefficient is linear in the weights: a c_k + b_k.
    rows = np.column_stack([gate, np.eye(len(gate))])
    means = rows @ posterior.mean
    deviations = np.sqrt(np.einsum("kw,wv,kv->k", rows, posterior.covariance, rows))
    half = float(norm.ppf(0.5 + LEVEL / 2)) * deviations
    counts = [
        ObjectiveCount(name, float(c), float(mean), float(mean - h), float(mean + h))
        for name, c, mean, h in zip(objectives, gate, means, half, strict=True)
    ]
    return tuple(sorted(counts, key=lambda one: -abs(one.coefficient)))
