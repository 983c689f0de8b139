"""Why a response scored what it did, and why one beat another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ObjectiveShare:
    """One objective's part in a score.

    Attributes:
        objective: Its name.
        reward: Predicted unit reward.
        rating: The same in the raters' units (HelpSteer points and the like).
        gating: What the gate gives it.
        coefficient: What it counts in the score, debiasing and steering included.
        contribution: coefficient * reward; the contributions sum to the score.
        deviation: Standard deviation of a new rating around ``rating``, in its units; ``None``
            where the model folder does not tell.
    """

    objective: str
    reward: float
    rating: float
    gating: float
    coefficient: float
    contribution: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score taken apart, the objective that moved it most first.

    Attributes:
        score: The score.
        objectives: What each objective adds.
        deviation: Standard deviation of the score; ``None`` where the model folder does not tell,
            as for what follows.
        novelty: How unlike the rated rows the response is; 1 is typical.
        novel: Whether it is more so than 99 % of held-out rated rows: a guess, then.
    """

    score: float
    objectives: tuple[ObjectiveShare, ...]
    deviation: float | None = None
    novelty: float | None = None
    novel: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ObjectiveDifference:
    """One objective's part in the difference of two scores.

    Attributes:
        objective: Its name.
        coefficient: What it counts for this prompt; the same for both responses.
        rating_a, rating_b: Predictions in the raters' units.
        reward_a, reward_b: Predicted unit rewards.
        contribution: coefficient * (reward_a - reward_b); these sum to the margin.
    """

    objective: str
    coefficient: float
    rating_a: float
    rating_b: float
    reward_a: float
    reward_b: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt, the objective that decided most first.

    Attributes:
        score_a, score_b: The scores.
        margin: score_a - score_b.
        probability: Bradley–Terry probability that a is preferred; ``None`` where the model
            folder does not tell the learned scale beta.
        preferred: ``a``, ``b`` or ``tie``.
        objectives: What each objective adds to the margin.
    """

    score_a: float
    score_b: float
    margin: float
    probability: float | None
    preferred: Literal["a", "b", "tie"]
    objectives: tuple[ObjectiveDifference, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
