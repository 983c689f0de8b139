"""Rewards along a response: after each of its tokens, from one forward pass.

The heads are linear in the state at a token, so they give a reward at every token as well as at the
last one, where the score is read.  What the score changes by at a token is the token's *credit*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt
from armorm.conversations.tracing import TracedResponse
from armorm.errors import NonFiniteError
from armorm.model.answers import RewardUncertainty, finite_or_none, shaped_by
from armorm.model.profiles import SteeringProfile
from armorm.model.steering import Steering

NUMBERS_AT_ONCE = 2**26
"""Numbers of the states that are held at once: 256 MiB."""

Traced = tuple[EncodedPrompt, TracedResponse]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Rewards and score after every token of a response, and before the first.

    The credits of a token are what the rewards and the score change by when the model reads it, so
    ``start`` and all credits sum to the score.  The last tokens close the turn: their credit is
    what the model concludes once the response has ended, and belongs to the whole of it.

    The heads were fitted on complete responses, not on beginnings of them: the numbers on the way
    are extrapolations, as ``novelty`` shows.

    Attributes:
        text: The response, as the chat template writes it.
        token_ids: Ids of its n tokens, those that close the turn included.
        tokens: Text that each token completes: empty for a token that ends inside a character, and
            for those that close the turn. They join to ``text``.
        closing: Number of tokens at the end that close the turn.
        rewards: Unit rewards before the first token and after each, in float64. Shape (n + 1, k).
        coefficients: Weights of the rewards in the score, by the prompt and the steering alone.
            Shape (k,).
        objectives: Names of the columns.
        uncertainty: How sure each row is; ``None`` if it was not asked for.
        steering: The steering that shaped the scores; ``None`` without any.
        profile: The profile that shaped them; ``None`` without any.

    Example:
        >>> from armorm import RewardModel
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> trajectory = model.trajectory([
        ...     {"role": "user", "content": "What is 2 plus 3?"},
        ...     {"role": "assistant", "content": "2 plus 3 is 5."},
        ... ])
        >>> trajectory.tokens
        ('2', ' plus', ' ', '3', ' is', ' ', '5', '.', '')
        >>> trajectory.closing, trajectory.rewards.shape, trajectory.credits.shape
        (1, torch.Size([10, 7]), torch.Size([9]))
        >>> abs(trajectory.start + float(trajectory.credits.sum()) - trajectory.score) < 1e-9
        True
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    closing: int
    rewards: Float[Tensor, "m k"]
    coefficients: Float[Tensor, " k"]
    objectives: tuple[str, ...]
    uncertainty: RewardUncertainty | None = None
    steering: Steering | None = None
    profile: SteeringProfile | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def scores(self) -> Float[Tensor, " m"]:
        """Score before the first token and after each. Shape (n + 1,)."""
        return (self.rewards * self.coefficients).sum(dim=1)

    @property
    def start(self) -> float:
        """Score before the first token."""
        return float(self.scores[0])

    @property
    def score(self) -> float:
        """Score of the response, after its last token."""
        return float(self.scores[-1])

    @property
    def credits(self) -> Float[Tensor, " n"]:
        """Change of the score at each token. Shape (n,)."""
        return self.scores.diff()

    @property
    def objective_credits(self) -> Float[Tensor, "n k"]:
        """Part of each objective in the credits, which it sums to. Shape (n, k)."""
        return self.rewards.diff(dim=0) * self.coefficients

    def check_finite(self, row: int) -> None:
        """Check that every number is one.

        Args:
            row: One-based position of the conversation, for the message.

        Raises:
            NonFiniteError: One is not.
        """
        scores = self.scores
        bad = (~scores.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise NonFiniteError(
                "score",
                float(scores[bad[0]]),
                f"not a finite number after {bad[0]} of {len(self)} tokens of the response, since "
                "the model's hidden states overflow",
                "Load the model in float32 or bfloat16.",
                row=row,
                positions=(row - 1,),
            )

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record.

        It holds ``text``, ``score``, ``start``, ``closing``, ``coefficients`` and, for each token,
        ``id``, ``text``, ``score``, ``credit``, ``rewards`` and ``credits`` by objective; with
        uncertainty also ``novelty``, ``novel`` and ``score_epistemic``.
        """
        names = self.objectives
        scores, changes = self.scores.tolist(), self.credits.tolist()
        rewards, parts = self.rewards.tolist(), self.objective_credits.tolist()
        tokens: list[dict[str, Any]] = [
            {
                "id": token,
                "text": self.tokens[i],
                "score": scores[i + 1],
                "credit": changes[i],
                "rewards": dict(zip(names, rewards[i + 1], strict=True)),
                "credits": dict(zip(names, parts[i], strict=True)),
            }
            for i, token in enumerate(self.token_ids)
        ]
        sure = self.uncertainty
        if sure is not None:
            for i, token in enumerate(tokens, start=1):
                token["novelty"] = finite_or_none(float(sure.novelty[i]))
                token["novel"] = None if sure.usual_novelty is None else bool(sure.novel[i])
                token["score_epistemic"] = finite_or_none(float(sure.score_epistemic[i]))
        record: dict[str, Any] = {
            "text": self.text,
            "score": self.score,
            "start": self.start,
            "closing": self.closing,
            "coefficients": dict(zip(names, self.coefficients.tolist(), strict=True)),
            "tokens": tokens,
        }
        return {**record, **shaped_by(self.steering, self.profile)}


def after_boundary(ids: Sequence[int], boundary: int) -> range:
    """Return the positions of all tokens after the boundary."""
    return range(boundary + 1, len(ids))


def states_along(
    prompt: Float[Tensor, " hidden"], tokens: Float[Tensor, "tokens hidden"], traced: Traced
) -> Float[Tensor, "m hidden"]:
    """Return the states before the first token of a response and after each of its tokens.

    Args:
        prompt: State at the boundary.
        tokens: States at all tokens after it.
        traced: The response.
    """
    encoded, response = traced
    states: Tensor = torch.cat([prompt[None], tokens])[response.first - 1 - encoded.boundary :]
    return states


def in_groups(traced: Iterable[Traced], hidden: int) -> Iterator[list[Traced]]:
    """Yield responses in groups whose states are held in memory together."""
    group: list[Traced] = []
    filled = 0
    for one in traced:
        numbers = one[0].tokens * hidden
        if group and filled + numbers > NUMBERS_AT_ONCE:
            yield group
            group, filled = [], 0
        group.append(one)
        filled += numbers
    if group:
        yield group
