"""Readable, steerable reward models: ArmoRM with a mixture-of-experts gate (Wang et al. 2024).

Names are imported when they are first used, so ``import armorm`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from armorm.hub.registration import register_with_transformers
from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.conversations import PreferencePair, RatedResponse
    from armorm.errors import ArmormError, InputError
    from armorm.evaluation import evaluate
    from armorm.features import Backbone, FeatureStore, extract_features
    from armorm.heads import (
        DebiasingOptions,
        Gate,
        GateOptions,
        GatingNetwork,
        HeadOptions,
        RewardHead,
        RewardPairs,
        RidgeStatistics,
        VerbosityDebiasing,
        fit_debiasing,
        fit_gate,
        fit_reward_head,
    )
    from armorm.model import (
        Comparison,
        Explanation,
        RewardModel,
        Rewards,
        Risk,
        Steering,
        SteeringProfile,
        Trajectory,
    )
    from armorm.objectives import PAPER_OBJECTIVES, Objective, ObjectiveSet
    from armorm.training import Recipe, train
    from armorm.version import __version__ as __version__

register_with_transformers()

_HOMES = {
    "armorm.conversations": ("PreferencePair", "RatedResponse"),
    "armorm.errors": ("ArmormError", "InputError"),
    "armorm.evaluation": ("evaluate",),
    "armorm.features": ("Backbone", "FeatureStore", "extract_features"),
    "armorm.heads": (
        "DebiasingOptions",
        "Gate",
        "GateOptions",
        "GatingNetwork",
        "HeadOptions",
        "RewardHead",
        "RewardPairs",
        "RidgeStatistics",
        "VerbosityDebiasing",
        "fit_debiasing",
        "fit_gate",
        "fit_reward_head",
    ),
    "armorm.model": (
        "Comparison",
        "Explanation",
        "RewardModel",
        "Rewards",
        "Risk",
        "Steering",
        "SteeringProfile",
        "Trajectory",
    ),
    "armorm.objectives": ("PAPER_OBJECTIVES", "Objective", "ObjectiveSet"),
    "armorm.training": ("Recipe", "train"),
    "armorm.version": ("__version__",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

__all__ = [
    "PAPER_OBJECTIVES",
    "ArmormError",
    "Backbone",
    "Comparison",
    "DebiasingOptions",
    "Explanation",
    "FeatureStore",
    "Gate",
    "GateOptions",
    "GatingNetwork",
    "HeadOptions",
    "InputError",
    "Objective",
    "ObjectiveSet",
    "PreferencePair",
    "RatedResponse",
    "Recipe",
    "RewardHead",
    "RewardModel",
    "RewardPairs",
    "Rewards",
    "RidgeStatistics",
    "Risk",
    "Steering",
    "SteeringProfile",
    "Trajectory",
    "VerbosityDebiasing",
    "evaluate",
    "extract_features",
    "fit_debiasing",
    "fit_gate",
    "fit_reward_head",
    "train",
]
