"""Credits of a reward model on the tokens of a policy, whatever its tokenizer.

The reward model reads text in its own tokens.  A credit belongs to the character that its token
completes, and goes to the policy's token that completes the same character, so none comes before
the text that earned it, and sums do not change.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from tokenizers.decoders import DecodeStream
from torch import Tensor

from armorm.conversations import located_in, validate_prompt
from armorm.conversations.boundary import shared_length
from armorm.errors import InputError
from armorm.model import RewardModel, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenCredits:
    """Rewards for each token of a policy's responses, which sum to the score.

    Args:
        model: The reward model. A steered model rewards as it is steered.
        tokenizer: The policy's tokenizer.
        closed: See :meth:`armorm.RewardModel.trajectories`.
        start: Add the score before the first token to the first, so that the rewards sum to the
            score. Without it they sum to the score less that of the prompt alone, which is the same
            for all responses to it.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.integrations import TokenCredits
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> tokenizer = model.backbone.tokenizer
        >>> ids = tokenizer.encode("2 plus 3 is 5.", add_special_tokens=False)
        >>> rewards = TokenCredits(model, tokenizer)(["What is 2 plus 3?"], [ids])[0]
        >>> score = model.score_responses("What is 2 plus 3?", ["2 plus 3 is 5."]).score
        >>> rewards.shape, abs(float(rewards.sum() - score[0])) < 1e-5
        (torch.Size([8]), True)
    """

    def __init__(
        self,
        model: RewardModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        closed: bool = True,
        start: bool = True,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.closed = closed
        self.start = start

    def __call__(
        self,
        prompts: Sequence[Any],
        responses: Sequence[Sequence[int]],
        masks: Sequence[Sequence[int]] | None = None,
    ) -> list[Tensor]:
        """Return the rewards of the tokens of ``responses[i]`` to ``prompts[i]``, in float64.

        Args:
            prompts: Messages, or the text of one user turn.
            responses: Token ids of the policy, without padding; its end-of-turn token is one.
            masks: 0 at tokens that the policy did not write (a tool's answer): what they earn
                goes to the next one that it wrote, or else to its last.

        Raises:
            InputError: A response has no token, or is too long to be scored; ``row`` is its
                one-based position.
        """
        traced, texts = [], []
        for row, (prompt, ids) in enumerate(zip(prompts, responses, strict=True), start=1):
            if not len(ids):
                reason = "empty, so that no token could be rewarded"
                raise InputError("responses", [], reason, "Leave the row out.", row=row)
            text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
            assert isinstance(text, str)
            try:
                messages = located_in("prompt", validate_prompt, prompt)
                traced.append(self.model.backbone.encoder.trace(messages, text))
            except InputError as error:
                raise error.at(None, row) from None
            texts.append(text)
        trajectories = self.model.trajectories_traced(traced, closed=self.closed)
        masks = [[1] * len(ids) for ids in responses] if masks is None else masks
        rows = zip(trajectories, texts, responses, masks, strict=True)
        return [self._place(*row, number) for number, row in enumerate(rows, start=1)]

    def _place(
        self,
        trajectory: Trajectory,
        text: str,
        ids: Sequence[int],
        mask: Sequence[int],
        row: int,
    ) -> Float[Tensor, " tokens"]:
        shift = text.find(trajectory.text)
        if shift < 0:
            raise InputError(
                "responses",
                text,
                "rewritten by the reward model's chat template, so its tokens cannot be placed",
                "Use a template that writes the response as it is, or strips it.",
                row=row,
            )
        written = [i for i, real in enumerate(mask) if real]
        if not written:
            raise InputError("masks", 0, "no token of the policy's own", "Check it.", row=row)
        ends = token_ends(self.tokenizer, ids, text)
        own_ends = [ends[i] for i in written]
        places = list(accumulate(map(len, trajectory.tokens), initial=shift))[1:]
        # The response as a whole, which the policy ends with its last token.
        places[len(places) - trajectory.closing :] = [len(text) + 1] * trajectory.closing
        rewards = torch.zeros(len(ids), dtype=torch.float64)
        for place, credit in zip(places, trajectory.credits.tolist(), strict=True):
            number = min(bisect.bisect_left(own_ends, place), len(written) - 1)
            rewards[written[number]] += credit
        if self.start:
            rewards[written[0]] += trajectory.start
        return rewards


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[int]:
    """Return the characters of a decoded text that are complete with each of its tokens.

    Args:
        tokenizer: The tokenizer of the ids.
        ids: Token ids.
        text: Their text, decoded without special tokens.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        stream = DecodeStream(skip_special_tokens=True)
        pieces = [stream.step(backend, int(one)) or "" for one in ids]
        if text.startswith("".join(pieces)):  # all but a character that was never finished
            ends = list(accumulate(map(len, pieces)))
            return [*ends[:-1], len(text)]
    # Slower, for tokenizers that tidy what they decode.
    ends, longest = [], 0
    for count in range(1, len(ids) + 1):
        beginning = tokenizer.decode(list(ids[:count]), skip_special_tokens=True)
        longest = max(longest, shared_length([str(beginning), text]))
        ends.append(longest)
    return [*ends[:-1], len(text)]
