"""Gated reward models as scorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from armorm.conversations import EncodedPrompt
from armorm.evaluation.scorers.base import Answered, Scored, Scorer, score_encoded_rows
from armorm.model import RewardModel, Rewards
from armorm.model.answers import shaped_by
from armorm.model.layout import FIXED_WEIGHTS


class RewardModelScorer(Scorer):
    """A gated reward model: scores with rewards and coefficients of its objectives.

    Args:
        model: The model, steered or not.
        name: Name in tables; default the name it was loaded by. That of a profile is added.
    """

    def __init__(self, model: RewardModel, name: str = "") -> None:
        self.model = model
        self.name = name or getattr(model.backbone, "name", str(model.backbone.folder))
        if model.profile is not None:
            self.name += f" under {model.profile.name} ({model.profile.hash})"
        self.objectives = model.objectives.names

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hash of the model, and the rule for long conversations."""
        encoder = self.model.backbone.encoder
        return {
            "kind": "armorm",
            "fingerprint": self.model.fingerprint(),
            "max_length": encoder.max_length,
            "overlong": encoder.overlong,
        }

    @property
    def account(self) -> Mapping[str, Any]:
        """Steering and profile that shape the scores."""
        steering = None if self.model.steering.is_neutral else self.model.steering
        return shaped_by(steering, self.model.profile)

    @cached_property
    def fixed_coefficients(self) -> tuple[float, ...] | None:
        """Coefficients of the rewards under the fixed weights that were trained beside the gate.

        Their sum with the ``rewards`` of a row is its score as ``fixed:MODEL`` gives it; ``None``
        if the model holds no such weights.
        """
        if FIXED_WEIGHTS not in self.model.heads.training:
            return None
        weights = self.model.heads.training[FIXED_WEIGHTS]
        vector = [weights[name] for name in self.objectives]
        found: list[float] = (
            self.model.heads.transform.double() @ torch.tensor(vector).double()
        ).tolist()
        return tuple(found)

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Score rows, each prompt computed once for all its responses."""
        return score_encoded_rows(self.model.backbone.encoder, rows, self._score)

    def _score(self, encoded: list[EncodedPrompt]) -> list[Scored]:
        rewards = self.model.score_encoded(encoded, keep_nonfinite=True)
        return [_scored(one) for one in rewards.split([len(e.sequences) for e in encoded])]

    def close(self) -> None:
        """Release the backbone."""
        self.model.backbone.close()


def _scored(rewards: Rewards) -> Scored:
    if not rewards.finite.all():
        return Scored.of([float("nan")] * len(rewards))
    return Scored.of(
        rewards.score.tolist(),
        rewards=tuple(map(tuple, rewards.rewards.tolist())),
        gating=tuple(rewards.gating[0].tolist()),
        coefficients=tuple(rewards.coefficients[0].tolist()),
    )
