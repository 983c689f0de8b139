"""Scored responses from a model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from armorm.conversations import Message
from armorm.errors import InputError
from armorm.workbench.model_facts import facts_of
from armorm.workbench.scored import ScoredResponses

if TYPE_CHECKING:
    from armorm.model import Predictions, RewardModel, Rewards, Steering


@dataclass(frozen=True, slots=True)
class Candidates:
    """Responses to one prompt.

    Attributes:
        prompt: Messages of the prompt.
        responses: The responses.
        source: Name of their source, if they have one.
        row: Number of their row.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    source: str | None = None
    row: int = 1


@dataclass(frozen=True, slots=True)
class Answers:
    """Candidates with what the backbone predicts of them, to be weighed as often as needed.

    Attributes:
        model: The model, unsteered.
        candidates: Responses, prompt by prompt.
        predictions: Their rewards and gates.
    """

    model: RewardModel
    candidates: tuple[Candidates, ...]
    predictions: Predictions

    @classmethod
    def of(cls, model: RewardModel, candidates: Iterable[Candidates]) -> Answers:
        """Run the model on the candidates, once.

        Raises:
            InputError: A conversation is longer than the model can read, at its row.
        """
        candidates = tuple(candidates)
        encoded = []
        for one in candidates:
            try:
                encoded.append(model.backbone.encoder.encode(one.prompt, list(one.responses)))
            except InputError as error:
                raise error.at(None, one.row) from None
        return cls(model, candidates, model.predict(encoded))

    def weigh(self, steering: Steering | None = None) -> Rewards:
        """Return the scores under a steering; default the model's own."""
        model = self.model if steering is None else self.model.steer(steering)
        return model.weigh(self.predictions, uncertainty=self.model.uncertainty is not None)

    def scored(
        self, steering: Steering | None = None, floors: dict[str, float] | None = None
    ) -> ScoredResponses:
        """Return what the pages draw.

        Args:
            steering: See :meth:`weigh`.
            floors: Least unit rewards, which rank the responses.
        """
        rewards, model = self.weigh(steering), self.model
        owners = tuple(place for place, one in enumerate(self.candidates) for _ in one.responses)
        firsts = [owners.index(place) for place in range(len(self.candidates))]
        of_all = [self.candidates[owner] for owner in owners]
        heads = model.heads
        metadata = {"beta": heads.beta, "training": heads.training}
        return ScoredResponses(
            objectives=tuple(model.objectives),
            prompts=tuple(
                tuple((message["role"], message["content"]) for message in one.prompt)
                for one in self.candidates
            ),
            coefficients=rewards.coefficients[firsts].numpy(),
            gating=rewards.gating[firsts].numpy(),
            owners=owners,
            texts=tuple(text for one in self.candidates for text in one.responses),
            scores=rewards.score.numpy(),
            rewards=rewards.rewards.numpy(),
            sources=tuple(one.source for one in of_all),
            rows=tuple(one.row for one in of_all),
            details=tuple(_details(rewards, model.objectives.names)),
            steering={} if rewards.steering is None else rewards.steering.as_dict(),
            floors=floors or {},
            facts=facts_of(metadata, heads.transform.numpy(), tuple(model.objectives)),
        )


def _details(rewards: Rewards, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    if rewards.uncertainty is None:
        return ({} for _ in range(len(rewards)))
    return (
        {
            "deviation": row["score_deviation"],
            "novel": row["novel"],
            "half_widths": row["half_widths"],
        }
        for row in rewards.uncertainty.as_dicts(names)
    )
