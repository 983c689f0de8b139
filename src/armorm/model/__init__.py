"""Reward models as one object: score, explain, compare, steer, save and load."""

from armorm.model.answers import PerObjective, Rewards, RewardUncertainty
from armorm.model.explanations import Comparison, Explanation
from armorm.model.flips import Flips
from armorm.model.layout import Heads
from armorm.model.predictions import Predictions
from armorm.model.ranking import Ranking
from armorm.model.reference import ModelReference, Reference
from armorm.model.reward_model import RewardModel
from armorm.model.risk import Risk
from armorm.model.steering import Steering
from armorm.model.trajectory import Trajectory
from armorm.model.uncertainty import ModelUncertainty

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
    "Trajectory",
]
