"""Scored responses from a model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from armorm.conversations import Message
from armorm.conversations.messages import with_response
from armorm.errors import InputError
from armorm.workbench.model_facts import facts_of
from armorm.workbench.scored import ReferenceSample, ScoredResponses, as_base64

if TYPE_CHECKING:
    from armorm.model import Predictions, RewardModel, Rewards, SteeringProfile, Trajectory


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
        trajectories: Rewards along each response, where they were asked for.
    """

    model: RewardModel
    candidates: tuple[Candidates, ...]
    predictions: Predictions
    trajectories: tuple[Trajectory, ...] = ()

    @classmethod
    def of(
        cls, model: RewardModel, candidates: Iterable[Candidates], *, tokens: bool = False
    ) -> Answers:
        """Run the model on the candidates, once.

        Args:
            model: The model.
            candidates: Responses, prompt by prompt.
            tokens: Also give the rewards along each response, at the price of a second run.

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
        conversations = [
            with_response(one.prompt, text) for one in candidates for text in one.responses
        ]
        along = model.trajectories(conversations) if tokens else []
        return cls(model, candidates, model.predict(encoded), tuple(along))

    def weigh(self, judging: SteeringProfile | None = None) -> Rewards:
        """Return the scores under a profile; default as the model itself judges."""
        model = self._judging(judging)
        known = self.model.uncertainty is not None
        return model.weigh(self.predictions, uncertainty=known, neighbours=True, compared=False)

    def _judging(self, judging: SteeringProfile | None) -> RewardModel:
        return self.model if judging is None else self.model.steer(profile=judging)

    def rows(self, judging: SteeringProfile | None = None) -> Iterator[dict[str, Any]]:
        """Yield a scored row for each response, as ``armorm score`` writes it."""
        texts = ((one, text) for one in self.candidates for text in one.responses)
        for (one, text), scores in zip(texts, self.weigh(judging).as_dicts(), strict=True):
            prompt = [dict(message) for message in one.prompt]
            yield {"prompt": prompt, "response": text, **scores}

    def explained(self, judging: SteeringProfile | None = None) -> dict[str, Any]:
        """Return the explanations of the responses to one prompt, and their ranking, JSON-ready."""
        (one,) = self.candidates
        model, rewards = self._judging(judging), self.weigh(judging)
        each = [model.explanation(part) for part in rewards.split([1] * len(rewards))]
        return {
            "prompt": [dict(message) for message in one.prompt],
            "responses": [
                {"response": text, **explanation.as_dict()}
                for text, explanation in zip(one.responses, each, strict=True)
            ],
            "ranking": model.ranking(rewards).as_dict(),
        }

    def scored(self, judging: SteeringProfile | None = None) -> ScoredResponses:
        """Return what the pages draw; see :meth:`weigh`."""
        rewards, model = self.weigh(judging), self.model
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
            neighbours=None if rewards.neighbours is None else rewards.neighbours[firsts].numpy(),
            details=tuple(self._details(rewards)),
            steering={} if rewards.steering is None else rewards.steering.as_dict(),
            floors={} if rewards.profile is None else dict(rewards.profile.floors),
            facts=facts_of(
                metadata, heads.transform.numpy(), tuple(model.objectives), _sample(model)
            ),
        )

    def _details(self, rewards: Rewards) -> Iterator[dict[str, Any]]:
        sure = rewards.uncertainty
        rows = [] if sure is None else sure.as_dicts(rewards.objectives)
        for row in range(len(rewards)):
            detail: dict[str, Any] = {}
            if rows:
                detail["deviation"] = rows[row]["score_deviation"]
                detail["novel"] = rows[row]["novel"]
                detail["half_widths"] = rows[row]["half_widths"]
            if self.trajectories:
                along = self.trajectories[row]
                changes = along.rewards.diff(dim=0).numpy()
                detail["trajectory"] = {
                    "tokens": along.tokens,
                    "closing": along.closing,
                    "changes": as_base64(changes),
                }
            yield detail


def _sample(model: RewardModel) -> ReferenceSample | None:
    if model.reference is None:
        return None
    sample = model.reference.sample
    return ReferenceSample(sample.gating.numpy(), sample.rewards.numpy(), sample.owners.numpy())
