"""Tokens of a response with the part of its text that each one stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TracedResponse:
    """A response as the model reads it, and the end of each token in it.

    Attributes:
        text: The response as the template writes it; some templates strip it.
        first: Position of its first token in the ids of the conversation.
        ends: For each token from there to the end of the conversation, the characters of ``text``
            that are complete with it.
        closing: Number of tokens at the end that the template writes after the response.
    """

    text: str
    first: int
    ends: tuple[int, ...]
    closing: int

    @property
    def pieces(self) -> tuple[str, ...]:
        """Text that each token completes; together the response.

        It is empty for a token that ends inside a character, which belongs to the token that
        completes it, and for those that close the turn.
        """
        return tuple(self.text[start:end] for start, end in pairwise((0, *self.ends)))


def trace_tokens(offsets: Sequence[Span], start: int, end: int, text: str) -> TracedResponse:
    """Find the tokens of a response.

    Args:
        offsets: Characters of the rendered conversation that each token stands for.
        start: First character of the response.
        end: End of the response.
        text: The rendered conversation.
    """
    count = len(offsets)
    first = next((i for i in range(count) if offsets[i][1] > start), count)
    ends: list[int] = []
    place = start
    for i in range(first, count):
        # Tokens that share a character all cover it: it is complete with the last of them.
        following = offsets[i + 1][0] if i + 1 < count else end
        place = max(place, min(offsets[i][1], max(following, offsets[i][0]), end))
        ends.append(place - start)
    closing = sum(offsets[i][0] >= end for i in range(first, count))
    if len(ends) > closing:  # what the tokenizer drops at the end belongs to the last token
        ends[len(ends) - closing - 1 :] = [end - start] * (closing + 1)
    return TracedResponse(text[start:end], first, tuple(ends), closing)
