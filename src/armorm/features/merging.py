"""Equal prompts and equal conversations, merged so that each is computed once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from armorm.conversations import EncodedPrompt


@dataclass(frozen=True, slots=True)
class MergedPrompts:
    """Encoded prompts in which every prompt and every conversation occurs once.

    Attributes:
        prompts: The distinct prompts, each with its distinct conversations, in the order of their
            first occurrence.
        prompt_numbers: For each prompt that was given, its position in ``prompts``.
        response_numbers: For each response that was given, prompt by prompt, the position of its
            conversation among all conversations of ``prompts``.
        sizes: For each prompt that was given, the number of its responses.
    """

    prompts: list[EncodedPrompt]
    prompt_numbers: list[int]
    response_numbers: list[int]
    sizes: list[int]

    @property
    def owners(self) -> list[int]:
        """For each distinct conversation, the position of its prompt."""
        return [i for i, prompt in enumerate(self.prompts) for _ in prompt.sequences]

    @property
    def tokens(self) -> int:
        """Tokens of all distinct conversations, each counted whole."""
        return sum(prompt.tokens for prompt in self.prompts)


def merge_prompts(encoded: Sequence[EncodedPrompt]) -> MergedPrompts:
    """Merge prompts with equal ids, and their equal conversations.

    Equal conversations thereby get bit-equal states and scores: computed twice, at two positions
    of a batch, they would differ by rounding, and two equal responses would not tie.

    Args:
        encoded: Prompts with their responses.
    """
    conversations: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    keys: list[tuple[int, ...]] = []
    within: list[list[int]] = []  # for each prompt given, positions inside its merged prompt
    for prompt in encoded:
        keys.append(prompt.prompt_ids)
        known = conversations.setdefault(keys[-1], {})
        within.append([known.setdefault(tuple(ids), len(known)) for ids in prompt.sequences])
    number = {key: i for i, key in enumerate(conversations)}
    starts = list(itertools.accumulate(map(len, conversations.values()), initial=0))
    return MergedPrompts(
        [
            EncodedPrompt(tuple(map(list, known)), len(key) - 1)
            for key, known in conversations.items()
        ],
        [number[key] for key in keys],
        [starts[number[key]] + i for key, places in zip(keys, within, strict=True) for i in places],
        list(map(len, within)),
    )
