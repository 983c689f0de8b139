"""The mathematics on features, knowing nothing of text: ridge, debiasing, gate, metrics."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.heads.bradley_terry import BradleyTerryHead, fit_bradley_terry_head
    from armorm.heads.debiasing import VerbosityDebiasing, fit_debiasing
    from armorm.heads.fixed_weights import FixedWeights, fit_fixed_weights
    from armorm.heads.gate_training import CurvePoint, GateTraining, fit_gate
    from armorm.heads.gating import Gate, GatingNetwork, RewardPairs, released_gate
    from armorm.heads.influence import Influence, most_influential_rows, most_surprising_rows
    from armorm.heads.options import PAPER_ALPHAS, DebiasingOptions, GateOptions, HeadOptions
    from armorm.heads.regression import RewardHead, fit_reward_head, held_out_errors
    from armorm.heads.shrinkage import Shrinkage, blended_gate
    from armorm.heads.statistics import RidgeStatistics
    from armorm.heads.uncertainty import HeadUncertainty, fit_uncertainty

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # A recipe is read through its options without waiting for torch.
        "armorm.heads.bradley_terry": (
            "BradleyTerryHead",
            "fit_bradley_terry_head",
        ),
        "armorm.heads.debiasing": (
            "VerbosityDebiasing",
            "fit_debiasing",
        ),
        "armorm.heads.fixed_weights": (
            "FixedWeights",
            "fit_fixed_weights",
        ),
        "armorm.heads.gate_training": (
            "CurvePoint",
            "GateTraining",
            "fit_gate",
        ),
        "armorm.heads.gating": (
            "Gate",
            "GatingNetwork",
            "RewardPairs",
            "released_gate",
        ),
        "armorm.heads.influence": (
            "Influence",
            "most_influential_rows",
            "most_surprising_rows",
        ),
        "armorm.heads.options": (
            "PAPER_ALPHAS",
            "DebiasingOptions",
            "GateOptions",
            "HeadOptions",
        ),
        "armorm.heads.regression": (
            "RewardHead",
            "fit_reward_head",
            "held_out_errors",
        ),
        "armorm.heads.shrinkage": (
            "Shrinkage",
            "blended_gate",
        ),
        "armorm.heads.statistics": ("RidgeStatistics",),
        "armorm.heads.uncertainty": (
            "HeadUncertainty",
            "fit_uncertainty",
        ),
    },
)

__all__ = [
    "PAPER_ALPHAS",
    "BradleyTerryHead",
    "CurvePoint",
    "DebiasingOptions",
    "FixedWeights",
    "Gate",
    "GateOptions",
    "GateTraining",
    "GatingNetwork",
    "HeadOptions",
    "HeadUncertainty",
    "Influence",
    "RewardHead",
    "RewardPairs",
    "RidgeStatistics",
    "Shrinkage",
    "VerbosityDebiasing",
    "blended_gate",
    "fit_bradley_terry_head",
    "fit_debiasing",
    "fit_fixed_weights",
    "fit_gate",
    "fit_reward_head",
    "fit_uncertainty",
    "held_out_errors",
    "most_influential_rows",
    "most_surprising_rows",
    "released_gate",
]
