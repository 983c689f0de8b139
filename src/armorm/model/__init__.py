"""Reward models as one object: score, explain, compare, steer, save and load."""

from armorm.model.answers import Comparison, Explanation, PerObjective, Rewards, RewardUncertainty
from armorm.model.layout import Heads
from armorm.model.predictions import Predictions
from armorm.model.reward_model import RewardModel
from armorm.model.risk import Risk
from armorm.model.steering import Steering
from armorm.model.trajectory import Trajectory
from armorm.model.uncertainty import ModelUncertainty

__all__ = [
    "Comparison",
    "Explanation",
    "Heads",
    "ModelUncertainty",
    "PerObjective",
    "Predictions",
    "RewardModel",
    "RewardUncertainty",
    "Rewards",
    "Risk",
    "Steering",
    "Trajectory",
]
