"""Predictions of the heads, before they are weighed into scores."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Predictions:
    """Rewards and gate of distinct conversations, whatever the steering.

    Attributes:
        features: Features of the conversations. Shape (n, hidden).
        prompts: Features of the distinct prompts. Shape (prompts, hidden).
        rewards: Predicted unit rewards of the conversations. Shape (n, k).
        gating: Output of the gate for each distinct prompt. Shape (prompts, k).
        owners: For each conversation, the position of its prompt.
        responses: For each response that was given, prompt by prompt, its conversation.
        sizes: For each prompt that was given, the number of its responses.
        computed_tokens: For each conversation, the tokens that went through the model for it; those
            of a shared prompt count for one of its conversations. ``None`` if the engine does not
            say.
    """

    features: Float[Tensor, "n hidden"]
    prompts: Float[Tensor, "prompts hidden"]
    rewards: Float[Tensor, "n k"]
    gating: Float[Tensor, "prompts k"]
    owners: tuple[int, ...]
    responses: tuple[int, ...]
    sizes: tuple[int, ...]
    computed_tokens: tuple[int, ...] | None = None

    def split(self) -> list[Predictions]:
        """Return the predictions of each prompt that was given, with its responses.

        A conversation that several of them hold was computed once, and its tokens count for the
        first of them.
        """
        counted: set[int] = set()
        parts = []
        ends = itertools.accumulate(self.sizes, initial=0)
        for start, end in itertools.pairwise(ends):
            numbers = self.responses[start:end]
            rows = list(dict.fromkeys(numbers))
            place = {row: i for i, row in enumerate(rows)}
            tokens = None
            if self.computed_tokens is not None:
                tokens = tuple(0 if row in counted else self.computed_tokens[row] for row in rows)
                counted.update(rows)
            parts.append(
                Predictions(
                    self.features[rows],
                    self.prompts[[self.owners[rows[0]]]],
                    self.rewards[rows],
                    self.gating[[self.owners[rows[0]]]],
                    (0,) * len(rows),
                    tuple(place[number] for number in numbers),
                    (len(numbers),),
                    tokens,
                )
            )
        return parts
