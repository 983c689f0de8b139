"""Rankings of several responses: by score, under each objective alone, and the Pareto front.

Responses are compared in the debiased rewards ``r' = r T``, which the gate weighs: the score is
``g . r'`` with a gate that is not negative.  A response that another one *dominates*, which is at
least as good in every objective and better in one, is therefore first under no such weights and no
factors that are not negative.  The *front* is what no response dominates.  Responses that are equal
in every objective do not dominate each other: they are on the front together, or not at all.

An objective that is neither better nor worse at one end (``neutral``, such as verbosity) is left
out, and so is the reverse of a confounder that is kept: there is no direction to be better in.
Debiasing that drops its confounder leaves nothing of it to compare anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.model import wording
from armorm.model.answers import Rewards, shaped_by
from armorm.model.layout import Heads
from armorm.model.profiles import SteeringProfile
from armorm.model.steering import Steering


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """A response among several.

    Attributes:
        response: Position of the response, as it was given.
        rank: 1 for the best; equal ones share the better rank.
        score: Its score.
        rewards: Its debiased unit reward of each objective that is compared.
        ranks: Its rank under each of these objectives alone.
        contributions: Part of the score that comes from each objective of the model.
        on_front: No response dominates it.
        dominated_by: Positions of the responses that do.
    """

    response: int
    rank: int
    score: float
    rewards: Mapping[str, float]
    ranks: Mapping[str, int]
    contributions: Mapping[str, float]
    on_front: bool
    dominated_by: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Responses to one prompt, the best first.

    Attributes:
        responses: The responses.
        objectives: Names of the objectives that are compared.
        left_out: Names of the objectives that are not: neither end of their scale is better.
        steering: The steering that shaped the scores; ``None`` without any.
        profile: The profile that shaped them, floors included; ``None`` without any.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> ranking = model.rank("What is 2 plus 3?", ["2 plus 3 is 6.", "2 plus 3 is 5."])
        >>> ranking.responses[0].response, 1 in ranking.front
        (1, True)
    """

    responses: tuple[RankedResponse, ...]
    objectives: tuple[str, ...]
    left_out: tuple[str, ...]
    steering: Steering | None = None
    profile: SteeringProfile | None = None

    @property
    def front(self) -> tuple[int, ...]:
        """Positions of the responses that none dominates."""
        return tuple(sorted(one.response for one in self.responses if one.on_front))

    @property
    def sentence(self) -> str:
        """The ranking in words."""
        return wording.of_ranking(self)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record; ``steering`` and ``profile`` only where there is one."""
        return {
            "sentence": self.sentence,
            "front": list(self.front),
            "responses": [asdict(one) for one in self.responses],
            "objectives": list(self.objectives),
            "left_out": list(self.left_out),
            **shaped_by(self.steering, self.profile),
        }


def ranking_of(
    rewards: Rewards, heads: Heads, floors: Mapping[str, float] | None = None
) -> Ranking:
    """Return the ranking of responses to one prompt.

    Args:
        rewards: Their scores, which the model of these heads gave.
        heads: Its heads.
        floors: See :meth:`Rewards.ranking`.
    """
    compared = [
        column
        for column, objective in enumerate(heads.objectives)
        if objective.direction != "neutral" and objective.mirrors is None
    ]
    names = heads.objectives.names
    wanted = [names[column] for column in compared]
    debiased = _debiased(rewards, heads)[:, compared]
    dominated = dominance(debiased)
    ranks = np.stack([_ranks(column) for column in debiased.T], axis=1) if compared else debiased
    order = rewards.ranking(floors)
    places = _places(rewards, order, floors or {})
    contributions = rewards.contributions.tolist()
    return Ranking(
        responses=tuple(
            RankedResponse(
                response=row,
                rank=places[row],
                score=float(rewards.score[row]),
                rewards=dict(zip(wanted, debiased[row].tolist(), strict=True)),
                ranks=dict(zip(wanted, ranks[row].tolist(), strict=True)),
                contributions=dict(zip(names, contributions[row], strict=True)),
                on_front=not dominated[row].any(),
                dominated_by=tuple(np.flatnonzero(dominated[row]).tolist()),
            )
            for row in order
        ),
        objectives=tuple(wanted),
        left_out=tuple(name for name in names if name not in wanted),
        steering=rewards.steering,
        profile=rewards.profile,
    )


def dominance(values: Float[np.ndarray, "n k"]) -> npt.NDArray[np.bool_]:
    """Return a table that is true where the column's row of values dominates the row's.

    Example:
        >>> dominance(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])).tolist()
        [[False, True, False], [False, False, False], [False, False, False]]
    """
    return np.stack([(values >= one).all(axis=1) & (values > one).any(axis=1) for one in values])


def _debiased(rewards: Rewards, heads: Heads) -> Float[np.ndarray, "n k"]:
    """Return the rewards after debiasing, at the strength that shaped the scores."""
    steering = rewards.steering or Steering()
    compiled = heads.compile(Steering(debiasing=steering.debiasing), warn=False)
    # Term by term: a matrix product rounds a row by its position, and equal responses must tie.
    matrix = compiled.matrix.astype(np.float64)
    terms = rewards.rewards.double().numpy()[:, :, None] * matrix
    debiased: Float[np.ndarray, "n k"] = terms.sum(axis=1)
    return debiased


def _places(rewards: Rewards, order: list[int], floors: Mapping[str, float]) -> dict[int, int]:
    """Return the rank of each response, in an order by floors and scores."""
    meets = rewards.meets(floors).tolist()
    scores = (rewards.score if rewards.pessimistic is None else rewards.pessimistic).tolist()
    places: dict[int, int] = {}
    for place, row in enumerate(order, start=1):
        before = order[place - 2] if place > 1 else row
        equal = place > 1 and (meets[before], scores[before]) == (meets[row], scores[row])
        places[row] = places[before] if equal else place
    return places


def _ranks(values: Float[np.ndarray, " n"]) -> npt.NDArray[np.int64]:
    """Return the rank of each value, 1 for the largest; equal ones share the better rank."""
    ranks: npt.NDArray[np.int64] = 1 + (values[None, :] > values[:, None]).sum(axis=1)
    return ranks
