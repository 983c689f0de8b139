"""What a reward model answers, and how its weights can be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from armorm.errors import ArmormError
from armorm.objectives import ObjectiveSet


@dataclass(frozen=True, slots=True)
class RewardUncertainty:
    """How sure the rewards of n responses are (:mod:`armorm.heads.uncertainty`).

    Attributes:
        deviations: Standard deviation of a new rating around the prediction, in unit rewards.
            Shape (n, k).
        score: The same of the score; the coefficients are taken as known. Shape (n,).
        novelty: How unlike the rated rows the response is; 1 is typical. Shape (n,).
        usual_novelty: What 99 % of held-out rated rows stay below; ``None`` where not known.
    """

    deviations: Float[Tensor, "n k"]
    score: Float[Tensor, " n"]
    novelty: Float[Tensor, " n"]
    usual_novelty: float | None

    @property
    def novel(self) -> Bool[Tensor, " n"]:
        """Which responses are unlike anything rated, so that their rewards are guesses."""
        limit = torch.inf if self.usual_novelty is None else self.usual_novelty
        return self.novelty > limit

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> RewardUncertainty:
        """Return the rows that a mask or positions select."""
        return RewardUncertainty(
            self.deviations[rows], self.score[rows], self.novelty[rows], self.usual_novelty
        )

    def split(self, sizes: Sequence[int]) -> list[RewardUncertainty]:
        """Consecutive parts of these lengths."""
        columns = (torch.split(t, list(sizes)) for t in (self.deviations, self.score, self.novelty))
        return [
            RewardUncertainty(deviations, score, novelty, self.usual_novelty)
            for deviations, score, novelty in zip(*columns, strict=True)
        ]

    def as_dicts(self, objectives: Sequence[str]) -> list[dict[str, object]]:
        """One JSON-ready record per row."""
        columns = (self.deviations, self.score, self.novelty, self.novel)
        per_row = zip(*(column.tolist() for column in columns), strict=True)
        return [
            {
                "deviations": dict(zip(objectives, deviations, strict=True)),
                "score_deviation": score,
                "novelty": novelty,
                "novel": novel,
            }
            for deviations, score, novelty, novel in per_row
        ]


@dataclass(frozen=True, slots=True)
class Rewards:
    """Scores of n responses, each taken apart into k objectives.

    For every row, ``contributions.sum() == score`` (up to rounding), with
    ``contributions = coefficients * rewards`` and ``coefficients = transform @ gating``.

    Attributes:
        score: The scalar reward. Shape (n,).
        rewards: Predicted unit reward of each objective. Shape (n, k).
        gating: What the gate gives each transformed objective. Shape (n, k).
        coefficients: What each objective counts in the score. Shape (n, k).
        contributions: What each objective adds to the score. Shape (n, k).
        objectives: Names of the k columns.
        uncertainty: How sure they are, where that was asked for.
    """

    score: Float[Tensor, " n"]
    rewards: Float[Tensor, "n k"]
    gating: Float[Tensor, "n k"]
    coefficients: Float[Tensor, "n k"]
    contributions: Float[Tensor, "n k"]
    objectives: tuple[str, ...]
    uncertainty: RewardUncertainty | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def finite(self) -> Bool[Tensor, " n"]:
        """True for each row all of whose numbers are finite; no other row holds a score."""
        tables = [self.score[:, None], self.rewards, self.coefficients]
        if self.uncertainty is not None:
            more = self.uncertainty
            tables += [more.deviations, more.score[:, None], more.novelty[:, None]]
        finite: Tensor = torch.cat(tables, dim=1).isfinite().all(dim=1)
        return finite

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Rewards:
        """Return the rows that a mask or positions select."""
        more = self.uncertainty
        return Rewards(
            self.score[rows],
            self.rewards[rows],
            self.gating[rows],
            self.coefficients[rows],
            self.contributions[rows],
            self.objectives,
            None if more is None else more.where(rows),
        )

    def split(self, sizes: Sequence[int]) -> list[Rewards]:
        """Consecutive parts of these lengths, such as the responses to each prompt."""
        tables = (self.score, self.rewards, self.gating, self.coefficients, self.contributions)
        columns = [torch.split(table, list(sizes)) for table in tables]
        nothing = [None] * len(sizes)
        uncertainty = nothing if self.uncertainty is None else self.uncertainty.split(sizes)
        return [
            Rewards(score, rewards, gating, coefficients, contributions, self.objectives, part)
            for score, rewards, gating, coefficients, contributions, part in zip(
                *columns, uncertainty, strict=True
            )
        ]

    def as_dicts(self) -> list[dict[str, object]]:
        """One JSON-ready record per row: ``score``, and ``{objective: number}`` for the rest.

        Where uncertainty was asked for, ``score_deviation``, ``novelty`` and ``novel`` are
        numbers and a truth value, ``deviations`` is per objective.
        """
        nothing: list[dict[str, object]] = [{} for _ in range(len(self))]
        more = nothing if self.uncertainty is None else self.uncertainty.as_dicts(self.objectives)
        per_row = zip(
            self.score.tolist(),
            self.rewards.tolist(),
            self.gating.tolist(),
            self.coefficients.tolist(),
            more,
            strict=True,
        )
        return [
            {
                "score": score,
                "rewards": dict(zip(self.objectives, rewards, strict=True)),
                "gating": dict(zip(self.objectives, gating, strict=True)),
                "coefficients": dict(zip(self.objectives, coefficients, strict=True)),
                **uncertainty,
            }
            for score, rewards, gating, coefficients, uncertainty in per_row
        ]


@dataclass(frozen=True, slots=True)
class Steering:
    """Factors on the coefficients: 0 switches an objective off, 2 doubles what it counts.

    An objective that is not named keeps the factor 1.
    """

    factors: Mapping[str, float] = field(default_factory=dict)

    def vector(self, objectives: ObjectiveSet) -> Float[Tensor, " k"]:
        """The factor of every objective.

        Raises:
            RecipeError: an unknown objective.
            ArmormError: a factor that is not finite.
        """
        factors = torch.ones(len(objectives))
        for name, factor in self.factors.items():
            factors[objectives.column(name)] = factor
        if not torch.isfinite(factors).all():
            raise ArmormError("Steering factors must be finite numbers.")
        return factors
