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
from armorm.features import FeatureBackbone
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
    ``start`` and all credits sum to the score.

    There are two readings.  At the tokens themselves: the last of them close the turn, and their
    credit is what the model concludes once the response has ended, and belongs to the whole of it.
    Heads that were fitted on complete responses extrapolate there, as ``novelty`` shows.  Or
    ``closed``: the turn is closed after each token before it is read, so every row is the score of
    a response, the one that ends there.

    Attributes:
        text: The response, as the chat template writes it.
        token_ids: Ids of its n tokens; unless ``closed``, with those that close the turn.
        tokens: Text that each token completes: empty for a token that ends inside a character, and
            for those that close the turn. They join to ``text``.
        closing: Number of tokens at the end that close the turn; 0 if ``closed``.
        closed: True if the turn was closed after each token before it was read.
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
    closed: bool
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

        It holds ``text``, ``score``, ``start``, ``closing``, ``closed``, ``coefficients`` and, for
        each token, ``id``, ``text``, ``score``, ``credit``, ``rewards`` and ``credits`` by
        objective; with uncertainty also ``novelty``, ``novel`` and ``score_epistemic``.
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
            "closed": self.closed,
            "coefficients": dict(zip(names, self.coefficients.tolist(), strict=True)),
            "tokens": tokens,
        }
        return {**record, **shaped_by(self.steering, self.profile)}


@dataclass(frozen=True, slots=True)
class ReadStates:
    """States along a response.

    Attributes:
        prompt: State at the prompt boundary. Shape (hidden,).
        states: States before the first token and after each. Shape (n + 1, hidden).
        text: See :class:`Trajectory`.
        token_ids: See :class:`Trajectory`.
        tokens: See :class:`Trajectory`.
        closing: See :class:`Trajectory`.
    """

    prompt: Float[Tensor, " hidden"]
    states: Float[Tensor, "m hidden"]
    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    closing: int


def read_states(
    backbone: FeatureBackbone, traced: Sequence[Traced], *, closed: bool
) -> Iterator[ReadStates]:
    """Yield the states along each response.

    Args:
        backbone: The frozen language model.
        traced: Responses.
        closed: Close the turn before each state is read.
    """
    if closed:
        yield from (_closed(backbone, *one) for one in traced)
        return
    for group in _in_groups(traced, backbone.hidden_size):
        features = backbone.features([encoded for encoded, _ in group], None, _after_boundary)
        rows = zip(group, features.prompts, features.tokens, strict=True)
        for (encoded, response), prompt, tokens in rows:
            states = torch.cat([prompt[None], tokens])[response.first - 1 - encoded.boundary :]
            ids = encoded.sequences[0][response.first :]
            yield ReadStates(
                prompt, states, response.text, tuple(ids), response.pieces, response.closing
            )


def _closed(
    backbone: FeatureBackbone, encoded: EncodedPrompt, response: TracedResponse
) -> ReadStates:
    """Read the response after each of its tokens; those that close it are in every reading."""
    features = backbone.prefix_features(encoded, response.first, response.closing)
    end = len(encoded.sequences[0]) - response.closing
    ids = tuple(encoded.sequences[0][response.first : end])
    tokens = response.pieces[: len(ids)]
    return ReadStates(features.prompts[0], features.responses, response.text, ids, tokens, 0)


def _after_boundary(ids: Sequence[int], boundary: int) -> range:
    return range(boundary + 1, len(ids))


def _in_groups(traced: Iterable[Traced], hidden: int) -> Iterator[list[Traced]]:
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
