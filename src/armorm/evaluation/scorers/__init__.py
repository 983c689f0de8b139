"""Everything that scores responses, under one interface: models, servers, judges, baselines."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.evaluation.scorers.base import (
        Answered,
        Row,
        Scored,
        ScoredRow,
        ScoredRows,
        Scorer,
        score_all,
    )
    from armorm.evaluation.scorers.opening import open_scorer
    from armorm.evaluation.scorers.options import ScorerOptions
    from armorm.evaluation.scorers.reward_models import RewardModelScorer
    from armorm.evaluation.scorers.rules import LengthScorer, RandomScorer

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # Options, rules and the arithmetic on scores made elsewhere do not wait for torch.
        "armorm.evaluation.scorers.base": (
            "Answered",
            "Row",
            "Scored",
            "ScoredRow",
            "ScoredRows",
            "Scorer",
            "score_all",
        ),
        "armorm.evaluation.scorers.opening": ("open_scorer",),
        "armorm.evaluation.scorers.options": ("ScorerOptions",),
        "armorm.evaluation.scorers.reward_models": ("RewardModelScorer",),
        "armorm.evaluation.scorers.rules": ("LengthScorer", "RandomScorer"),
    },
)

__all__ = [
    "Answered",
    "LengthScorer",
    "RandomScorer",
    "RewardModelScorer",
    "Row",
    "Scored",
    "ScoredRow",
    "ScoredRows",
    "Scorer",
    "ScorerOptions",
    "open_scorer",
    "score_all",
]
