"""Reward models as one object: score, explain, compare, steer, save and load.

Names are imported when they are first used: steering, profiles and risk do not wait for torch.
"""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.model.answers import PerObjective, Rewards, RewardUncertainty
    from armorm.model.explanations import Comparison, Explanation
    from armorm.model.flips import Flips
    from armorm.model.layout import Heads
    from armorm.model.predictions import Predictions
    from armorm.model.profiles import SteeringProfile
    from armorm.model.ranking import Ranking
    from armorm.model.reference import ModelReference, Reference
    from armorm.model.reward_model import RewardModel
    from armorm.model.risk import Risk
    from armorm.model.steering import Steering
    from armorm.model.trajectory import Trajectory
    from armorm.model.uncertainty import ModelUncertainty

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.model.answers": (
            "PerObjective",
            "Rewards",
            "RewardUncertainty",
        ),
        "armorm.model.explanations": (
            "Comparison",
            "Explanation",
        ),
        "armorm.model.flips": ("Flips",),
        "armorm.model.layout": ("Heads",),
        "armorm.model.predictions": ("Predictions",),
        "armorm.model.profiles": ("SteeringProfile",),
        "armorm.model.ranking": ("Ranking",),
        "armorm.model.reference": (
            "ModelReference",
            "Reference",
        ),
        "armorm.model.reward_model": ("RewardModel",),
        "armorm.model.risk": ("Risk",),
        "armorm.model.steering": ("Steering",),
        "armorm.model.trajectory": ("Trajectory",),
        "armorm.model.uncertainty": ("ModelUncertainty",),
    },
)

__all__ = [
    "Comparison",
    "Explanation",
    "Flips",
    "Heads",
    "ModelReference",
    "ModelUncertainty",
    "PerObjective",
    "Predictions",
    "Ranking",
    "Reference",
    "RewardModel",
    "RewardUncertainty",
    "Rewards",
    "Risk",
    "Steering",
    "SteeringProfile",
    "Trajectory",
]
