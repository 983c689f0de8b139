"""Scores of a reward model, with their parts and their uncertainty."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from armorm.errors import NonFiniteError
from armorm.model.profiles import SteeringProfile, check_floors
from armorm.model.steering import CompiledSteering, Steering

PerObjective = Literal["contributions", "rewards"]
"""Kind of a value per objective.

``contributions`` sum to the score: parts of it, with gate, debiasing and steering included.
``rewards`` are the unit rewards as regressed, for trainers that weigh them themselves.
"""


@dataclass(frozen=True, slots=True)
class RewardUncertainty:
    """Standard deviations and novelty of n responses (:mod:`armorm.heads.uncertainty`).

    The deviation of a new rating has two parts, ``deviations**2 = epistemic**2 + noise**2``: more
    ratings shrink the epistemic one, while the noise of the raters remains.

    Attributes:
        deviations: Standard deviation of a new rating around the prediction, in unit rewards;
            NaN for an objective that too few rows rate. Shape (n, k).
        epistemic: Standard deviation of the prediction itself. Shape (n, k).
        half_widths: Distance from the prediction within which 90 % of new ratings lie (conformal);
            NaN for an objective with too few held-out ratings. Shape (n, k).
        score: Standard deviation of the score of new ratings, for given coefficients; NaN if an
            objective that counts has none. Shape (n,).
        score_epistemic: Standard deviation of the predicted score. Shape (n,).
        novelty: Distance of the response's features from those of the rated rows; 1 is typical.
            Shape (n,).
        usual_novelty: 99th percentile of the novelty of held-out rated rows, if known.
    """

    deviations: Float[Tensor, "n k"]
    epistemic: Float[Tensor, "n k"]
    half_widths: Float[Tensor, "n k"]
    score: Float[Tensor, " n"]
    score_epistemic: Float[Tensor, " n"]
    novelty: Float[Tensor, " n"]
    usual_novelty: float | None

    @property
    def novel(self) -> Bool[Tensor, " n"]:
        """True where the novelty exceeds the usual one, so that the rewards are guesses."""
        limit = torch.inf if self.usual_novelty is None else self.usual_novelty
        return self.novelty > limit

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> RewardUncertainty:
        """Return the rows that a mask or positions select."""
        return self._of(lambda name: getattr(self, name)[rows])

    @classmethod
    def join(cls, parts: Sequence[RewardUncertainty]) -> RewardUncertainty:
        """Return the rows of all parts, in order."""
        return parts[0]._of(lambda name: torch.cat([getattr(part, name) for part in parts]))

    def _of(self, column: Callable[[str], Tensor]) -> RewardUncertainty:
        names = [field.name for field in fields(self) if field.name != "usual_novelty"]
        columns: dict[str, Any] = {name: column(name) for name in names}
        return replace(self, **columns)

    def as_dicts(self, objectives: Sequence[str]) -> list[dict[str, object]]:
        """Return one JSON-ready record per row."""
        columns = {
            "deviations": self.deviations,
            "epistemic": self.epistemic,
            "half_widths": self.half_widths,
            "score_deviation": self.score,
            "score_epistemic": self.score_epistemic,
            "novelty": self.novelty,
            "novel": self.novel,
        }

        def ready(value: object) -> object:
            if isinstance(value, list):
                return dict(zip(objectives, map(finite_or_none, value), strict=True))
            return finite_or_none(value) if isinstance(value, float) else value

        per_row = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            {name: ready(value) for name, value in zip(columns, row, strict=True)}
            for row in per_row
        ]


def finite_or_none(value: float) -> float | None:
    """Return the number, or ``None`` for NaN and infinity."""
    return value if math.isfinite(value) else None


def coefficients_of(
    steering: CompiledSteering, gating: Float[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return the coefficients of the rewards for each row of the gate's output."""
    return torch.from_numpy(steering.coefficients(gating.float().cpu().numpy()))


def weigh_rewards(
    coefficients: Float[Tensor, "n k"], rewards: Float[Tensor, "m k"]
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " m"]]:
    """Return contributions and scores of m responses.

    Args:
        coefficients: Weights of the rewards: a row for each response, or one for all.
        rewards: Unit rewards of the responses.
    """
    contributions = coefficients * rewards
    return contributions, contributions.double().sum(dim=-1).float()


@dataclass(frozen=True, slots=True)
class Rewards:
    """Scores of n responses, each a sum over k objectives.

    In every row ``score = contributions.sum()`` up to rounding, ``contributions = coefficients *
    rewards``, and without steering ``coefficients = transform @ gating``.

    Attributes:
        score: The scalar reward. Shape (n,).
        rewards: Predicted unit reward of each objective: 0 and 1 are the worse and the better end
            of its scale. Shape (n, k).
        gating: Output of the gate. Shape (n, k).
        coefficients: Weight of each reward in the score, debiasing and steering included.
            Shape (n, k).
        contributions: Part of the score that comes from each objective. Shape (n, k).
        objectives: Names of the k columns.
        uncertainty: Standard deviations and novelty, where they were asked for.
        steering: The steering that shaped the scores; ``None`` without any.
        pessimistic: Scores less the price of their uncertainty, where a risk was given; they rank
            the responses then. Shape (n,).
        neighbours: Average output of the gate over the reference prompts that are nearest to the
            response's, where they were asked for. Shape (n, k).
        profile: Profile that shaped the scores; its floors rank the responses.

    Example:
        >>> import torch
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> rewards = model.score_responses("What is 2 plus 3?", ["2 plus 3 is 5.", "No idea."])
        >>> rewards.objectives[:2]
        ('helpdesk-correctness', 'helpdesk-courtesy')
        >>> rewards.score.shape, rewards.contributions.shape
        (torch.Size([2]), torch.Size([2, 7]))
        >>> torch.allclose(rewards.contributions.sum(dim=1), rewards.score, atol=1e-5)
        True
    """

    score: Float[Tensor, " n"]
    rewards: Float[Tensor, "n k"]
    gating: Float[Tensor, "n k"]
    coefficients: Float[Tensor, "n k"]
    contributions: Float[Tensor, "n k"]
    objectives: tuple[str, ...]
    uncertainty: RewardUncertainty | None = None
    steering: Steering | None = None
    pessimistic: Float[Tensor, " n"] | None = None
    neighbours: Float[Tensor, "n k"] | None = None
    profile: SteeringProfile | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def finite(self) -> Bool[Tensor, " n"]:
        """True for each row whose numbers are all finite; no other row holds a score."""
        tables = [self.score[:, None], self.rewards, self.coefficients]
        if self.uncertainty is not None:
            tables.append(self.uncertainty.novelty[:, None])
        finite: Tensor = torch.cat(tables, dim=1).isfinite().all(dim=1)
        return finite

    def where(self, rows: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Rewards:
        """Return the rows that a mask or positions select."""
        return replace(
            self,
            score=self.score[rows],
            rewards=self.rewards[rows],
            gating=self.gating[rows],
            coefficients=self.coefficients[rows],
            contributions=self.contributions[rows],
            uncertainty=None if self.uncertainty is None else self.uncertainty.where(rows),
            pessimistic=None if self.pessimistic is None else self.pessimistic[rows],
            neighbours=None if self.neighbours is None else self.neighbours[rows],
        )

    def split(self, sizes: Sequence[int]) -> list[Rewards]:
        """Return consecutive parts of these lengths, such as the responses to each prompt."""
        ends = list(itertools.accumulate(sizes, initial=0))
        return [self.where(torch.arange(*span)) for span in itertools.pairwise(ends)]

    @classmethod
    def join(cls, parts: Iterable[Rewards]) -> Rewards:
        """Return the rows of all parts, which one model scored, in order."""
        parts = list(parts)
        unsure = [part.uncertainty for part in parts if part.uncertainty is not None]
        pessimistic = [part.pessimistic for part in parts if part.pessimistic is not None]
        neighbours = [part.neighbours for part in parts if part.neighbours is not None]
        return replace(
            parts[0],
            score=torch.cat([part.score for part in parts]),
            rewards=torch.cat([part.rewards for part in parts]),
            gating=torch.cat([part.gating for part in parts]),
            coefficients=torch.cat([part.coefficients for part in parts]),
            contributions=torch.cat([part.contributions for part in parts]),
            uncertainty=RewardUncertainty.join(unsure) if unsure else None,
            pessimistic=torch.cat(pessimistic) if pessimistic else None,
            neighbours=torch.cat(neighbours) if neighbours else None,
        )

    def check_finite(self) -> None:
        """Check that every row holds a score.

        Raises:
            NonFiniteError: One does not.
        """
        bad = tuple((~self.finite).nonzero()[:, 0].tolist())
        if bad:
            raise NonFiniteError(
                "score",
                float(self.score[bad[0]]),
                f"not a finite number; {len(bad)} of {len(self)} conversations have no score, "
                "since the model's hidden states overflow",
                "Load the model in float32 or bfloat16.",
                row=bad[0] + 1,
                positions=bad,
            )

    def by_objective(self, kind: PerObjective) -> dict[str, list[float]]:
        """Return the values of each objective, one for each row."""
        table = getattr(self, kind).T.tolist()
        return dict(zip(self.objectives, table, strict=True))

    def ranking(self, floors: Mapping[str, float] | None = None) -> list[int]:
        """Return the rows from the best to the worst; of equal ones the first comes first.

        They are ranked by their pessimistic scores where there are some.

        Args:
            floors: Least unit reward of some objectives, beside those of the profile or in their
                place. A row below any of them comes after all rows that are not, whatever its
                score.

        Raises:
            InputError: A floor names no objective, or is not a finite number.
        """
        meets = self.meets(floors).tolist()
        scores = (self.score if self.pessimistic is None else self.pessimistic).tolist()
        return sorted(range(len(self)), key=lambda row: (not meets[row], -scores[row]))

    def floors(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return floors with those of the profile that they do not replace."""
        return {**({} if self.profile is None else self.profile.floors), **(given or {})}

    def meets(self, floors: Mapping[str, float] | None = None) -> Bool[Tensor, " n"]:
        """Return, by row, if no reward is below the floor of its objective.

        Args:
            floors: See :meth:`ranking`.

        Raises:
            InputError: A floor names no objective, or is not a finite number.
        """
        floors = self.floors(floors)
        check_floors(floors, self.objectives)
        meets = torch.ones(len(self), dtype=torch.bool)
        for name, floor in floors.items():
            meets &= self.rewards[:, self.objectives.index(name)] >= floor
        return meets

    def shaped_by(self) -> dict[str, Any]:
        """Return the steering and the profile that shaped the scores, as outputs name them."""
        return shaped_by(self.steering, self.profile)

    def as_dicts(self) -> list[dict[str, object]]:
        """Return one JSON-ready record per row.

        It holds ``score``, and ``rewards``, ``gating`` and ``coefficients`` as ``{objective:
        number}``; with uncertainty also ``deviations``, ``epistemic`` and ``half_widths`` per
        objective, ``score_deviation``, ``score_epistemic``, ``novelty`` and ``novel``; under
        steering also ``steering``; with a risk also ``pessimistic``; under a profile also its name
        and hash as ``profile``, and with floors ``meets_floors``.
        """
        more: list[dict[str, object]] = [{} for _ in range(len(self))]
        if self.uncertainty is not None:
            more = self.uncertainty.as_dicts(self.objectives)
        if self.pessimistic is not None:
            prices = self.pessimistic.tolist()
            more = [{"pessimistic": p, **row} for p, row in zip(prices, more, strict=True)]
        if self.floors():
            more = [
                {"meets_floors": m, **row}
                for m, row in zip(self.meets().tolist(), more, strict=True)
            ]
        shaped_by = self.shaped_by()
        tables = (self.rewards, self.gating, self.coefficients)
        per_row = zip(*(table.tolist() for table in (self.score, *tables)), more, strict=True)
        names = self.objectives
        return [
            {
                "score": score,
                "rewards": dict(zip(names, rewards, strict=True)),
                "gating": dict(zip(names, gating, strict=True)),
                "coefficients": dict(zip(names, coefficients, strict=True)),
                **uncertainty,
                **shaped_by,
            }
            for score, rewards, gating, coefficients, uncertainty in per_row
        ]


def shaped_by(steering: Steering | None, profile: SteeringProfile | None) -> dict[str, Any]:
    """Return ``steering``, and ``profile`` by name and hash, as an output names what shaped it."""
    return {
        **({} if steering is None else {"steering": steering.as_dict()}),
        **({} if profile is None else {"profile": profile.reference}),
    }
