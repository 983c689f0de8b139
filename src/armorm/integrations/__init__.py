"""Rewards for TRL, OpenRLHF, verl and NeMo-RL, and files of candidate responses.

All of it is plain functions of a :class:`~armorm.RewardModel` or of a reward server; none imports
the tool it serves.
"""

from armorm.integrations.candidates import annotate_file, best_of_file
from armorm.integrations.completions import CompletionScorer, ScoredCompletions
from armorm.integrations.components import ComponentKind, GroupComponents, group_components
from armorm.integrations.nemo_rl import nemo_rl_rewards
from armorm.integrations.openrlhf import openrlhf_answer, openrlhf_reward_func
from armorm.integrations.pairs import PairChoice, choose_pair, write_pairs
from armorm.integrations.remote import RewardServer, RewardSource
from armorm.integrations.token_credits import TokenCredits
from armorm.integrations.trl import trl_reward_funcs
from armorm.integrations.trl_dense import token_advantages, trl_dense_trainer
from armorm.integrations.trl_drift import trl_drift_callback
from armorm.integrations.verl import (
    verl_async_compute_score,
    verl_batch_compute_score,
    verl_compute_score,
    verl_row,
)
from armorm.integrations.verl_dense import verl_dense_manager, verl_token_level_scores
from armorm.training.nearest import drift_reporter

__all__ = [
    "CompletionScorer",
    "ComponentKind",
    "GroupComponents",
    "PairChoice",
    "RewardServer",
    "RewardSource",
    "ScoredCompletions",
    "TokenCredits",
    "annotate_file",
    "best_of_file",
    "choose_pair",
    "drift_reporter",
    "group_components",
    "nemo_rl_rewards",
    "openrlhf_answer",
    "openrlhf_reward_func",
    "token_advantages",
    "trl_dense_trainer",
    "trl_drift_callback",
    "trl_reward_funcs",
    "verl_async_compute_score",
    "verl_batch_compute_score",
    "verl_compute_score",
    "verl_dense_manager",
    "verl_row",
    "verl_token_level_scores",
    "write_pairs",
]
