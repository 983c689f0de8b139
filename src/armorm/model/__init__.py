"""The reward model as one object: score, explain, compare, steer, save and load."""

from armorm.model.explanation import Comparison, Explanation
from armorm.model.reward_model import RewardModel
from armorm.model.rewards import Rewards, RewardUncertainty, Steering
from armorm.model.uncertainty import ModelUncertainty

__all__ = [
    "Comparison",
    "Explanation",
    "ModelUncertainty",
    "RewardModel",
    "RewardUncertainty",
    "Rewards",
    "Steering",
]
