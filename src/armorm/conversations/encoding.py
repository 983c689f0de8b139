"""Messages to token ids with a known prompt boundary, for any chat template.

The gate reads the hidden state at the *prompt boundary*: the token that closes the last user
turn (:mod:`armorm.conversations.boundary`). Where the messages are known it is counted from the
end of the prompt rendered with a fixed response, and it must be the token that the rule for bare
ids finds, so that all ways to score a conversation agree.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from armorm.conversations.boundary import RESPONSE, BoundaryRule, check_bos, probe, shared_length
from armorm.conversations.messages import Conversation, with_response
from armorm.conversations.template import ChatTemplate, bounded
from armorm.conversations.tokens import Tokens
from armorm.conversations.tracing import TracedResponse, trace_tokens
from armorm.errors import InputError, TemplateError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

OverlongPolicy = Literal["error", "skip", "drop_oldest_turns"]


class OverlongError(InputError):
    """A conversation of more tokens than the model reads."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt with its responses as token ids.

    Attributes:
        sequences: For each response, the ids of the whole rendered conversation.
        boundary: Index of the token that closes the last user turn; the ids up to and including
            it are the same in every sequence.
        dropped_turns: How many of the oldest messages were dropped to fit the maximum length.
    """

    sequences: tuple[list[int], ...]
    boundary: int
    dropped_turns: int = 0

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Ids up to and including the boundary."""
        return tuple(self.sequences[0][: self.boundary + 1])

    @property
    def tokens(self) -> int:
        """Number of ids of all sequences."""
        return sum(map(len, self.sequences))


class ConversationEncoder:
    """Encoder of prompts and responses as token ids with a known prompt boundary.

    It may be used by several threads at once.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        max_length: Most tokens a rendered conversation may have; ``None`` for no limit.
        overlong: Treatment of a longer one: ``error``; ``skip`` (:meth:`encode_or_skip` returns
            ``None`` and its caller counts); or ``drop_oldest_turns``, which drops whole turns
            from the front (never the system message or the last user turn) until every response
            to the prompt fits, and skips what still does not. Text is never cut.

    Raises:
        TemplateError: There is no chat template, or it cannot be split at the end of the prompt.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from armorm.conversations import ConversationEncoder
        >>> from armorm.quickstart import BACKBONE
        >>> encoder = ConversationEncoder(AutoTokenizer.from_pretrained(BACKBONE))
        >>> prompt = [{"role": "user", "content": "What is 3 plus 4?"}]
        >>> encoded = encoder.encode(prompt, ["7", "It is 7."])
        >>> len(encoded.sequences)
        2
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        overlong: OverlongPolicy = "error",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.overlong: OverlongPolicy = overlong
        self._template = ChatTemplate(tokenizer)
        self._tokens = Tokens(tokenizer)
        try:
            self._split = bounded(
                lambda: probe(self._template.render_briefly, self._tokens, tokenizer.bos_token_id)
            )
        except InputError as error:
            raise TemplateError(f"The chat template cannot be used: {error.reason}.") from error

    @property
    def template(self) -> str:
        """Source of the chat template, with its date pinned."""
        return self._template.source

    @property
    def rule(self) -> BoundaryRule:
        """Rule that finds the boundary where the input is only ids."""
        return self._split.rule

    @property
    def boundary_pattern(self) -> tuple[int, ...]:
        """Ids around the boundary; see :class:`BoundaryRule`.

        Llama-3: 128009 128006 78191 128007 271. Gemma-2: 107 108 106 2516 108.
        """
        return self.rule.pattern

    def encode(self, prompt: Conversation, responses: Sequence[str]) -> EncodedPrompt:
        """Return the token ids of each response after the prompt.

        Raises:
            OverlongError: A conversation has more than ``max_length`` tokens.
            InputError: The template refuses these messages, does not keep the prompt before a
                response, or their text spells the template's own markers.
        """
        encoded = self._encode(prompt, responses)
        if self._fits(encoded):
            return encoded
        system = 1 if prompt[0]["role"] == "system" else 0
        # A turn is a user message with the answer to it: both go, so that roles alternate.
        turns = [i for i in range(system + 1, len(prompt)) if prompt[i]["role"] == "user"]
        if self.overlong == "drop_oldest_turns" and turns:
            shortest = self._without(prompt, responses, system, turns[-1])
            if self._fits(shortest):
                # The fewer turns the shorter: bisect, since each try encodes all that is left.
                number = bisect.bisect_left(
                    turns[:-1],
                    True,
                    key=lambda turn: self._fits(self._without(prompt, responses, system, turn)),
                )
                return self._without(prompt, responses, system, turns[number])
            encoded = shortest
        raise OverlongError(
            "messages",
            max(responses, key=len),
            f"{max(map(len, encoded.sequences))} tokens, the model reads {self.max_length}",
            "Shorten the conversation, raise max_length, or choose another overlong policy "
            "(skip, drop_oldest_turns).",
        )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text by itself."""
        return len(self._tokens.encode(text))

    def encode_or_skip(
        self, prompt: Conversation, responses: Sequence[str]
    ) -> EncodedPrompt | None:
        """Return :meth:`encode`'s result, or ``None`` for what is too long and may be skipped.

        Raises:
            OverlongError: A conversation is too long under the policy ``error``.
            InputError: See :meth:`encode`.
        """
        try:
            return self.encode(prompt, responses)
        except OverlongError:
            if self.overlong == "error":
                raise
            return None

    def without_limit(self) -> ConversationEncoder:
        """Return the same encoder, for which nothing is too long."""
        unlimited = copy.copy(self)
        unlimited.max_length = None
        return unlimited

    def trace(self, prompt: Conversation, response: str) -> tuple[EncodedPrompt, TracedResponse]:
        """Return the token ids of one response after the prompt, and the text of each of them.

        Raises:
            OverlongError: See :meth:`encode`.
            InputError: See :meth:`encode`.
        """
        encoded = self.encode(prompt, [response])
        system = 1 if prompt[0]["role"] == "system" else 0
        read = [*prompt[:system], *prompt[system + encoded.dropped_turns :]]
        before, _, after = self._turns(with_response(read, RESPONSE)).rpartition(RESPONSE)
        messages = with_response(read, response)
        text = self._turns(messages)
        # Some templates write more before a response that begins with a thought, or strip it.
        start = shared_length([before, text])
        end = len(text) - shared_length([after[::-1], text[start:][::-1]])
        offsets = self._tokens.offsets_rendered(messages, self._turns)
        return encoded, trace_tokens(offsets, start, end, text)

    def response_start(self, boundary: int) -> int:
        """Return the position of a response's first token, from the prompt boundary.

        It is where the template's header ends, whatever the response begins with.
        """
        return boundary - self.rule.offset + len(self.rule.pattern) + self.rule.lead

    def from_ids(self, ids: Sequence[int]) -> EncodedPrompt:
        """Return a conversation that is token ids already, with its boundary.

        Ids are taken as they are: a control token that somebody typed into a text, and that a
        tokenizer made one of, is one. Where the messages are known, :meth:`encode` keeps text text.

        Raises:
            InputError: Two BOS tokens, no boundary, no response after it, a text that spells the
                template's own markers, or too many ids.
        """
        row = self.rule.without_trailing(ids)
        check_bos(row, self.tokenizer.bos_token_id)
        if self.max_length is not None and len(row) > self.max_length:
            raise OverlongError(
                "input_ids",
                len(row),
                f"{len(row)} tokens, the model reads {self.max_length}",
                "Shorten the conversation.",
            )
        return EncodedPrompt((row,), self.rule.find(row))

    def render(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as text, with all control tokens, BOS included.

        Raises:
            InputError: The template refuses these messages.
        """
        return self._template.render(messages, add_generation_prompt=add_generation_prompt)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of rendered text. BOS is the template's to write, and not added."""
        return self._tokens.encode(text)

    def spells_control(self, text: str) -> bool:
        """Return True if a text spells a control token of the model."""
        return self._tokens.spells_control(text)

    def _fits(self, encoded: EncodedPrompt) -> bool:
        return self.max_length is None or max(map(len, encoded.sequences)) <= self.max_length

    def _without(
        self, prompt: Conversation, responses: Sequence[str], first: int, following: int
    ) -> EncodedPrompt:
        """Encode the prompt without its messages from ``first`` to before ``following``."""
        shortened = [*prompt[:first], *prompt[following:]]
        return self._encode(shortened, responses, following - first)

    def _ids(self, messages: Conversation) -> list[int]:
        return self._tokens.encode_rendered(messages, self._turns)

    def _turns(self, messages: Conversation) -> str:
        """Render messages, without the header of a turn that is not there."""
        return self.render(messages).removesuffix(self._split.appended)

    def _encode(
        self, prompt: Conversation, responses: Sequence[str], dropped: int = 0
    ) -> EncodedPrompt:
        marked = self._ids(with_response(prompt, RESPONSE))
        boundary = len(marked) - self._split.from_end
        shared = marked[: boundary + 1]
        sequences = []
        for response in responses:
            ids = self._ids(with_response(prompt, response))
            # Without an end of responses, ids alone cannot tell turns apart, but messages can.
            found = boundary if self.rule.answer_end == -1 else self.rule.find(ids)
            if ids[: boundary + 1] != shared or found != boundary:
                raise InputError(
                    "messages",
                    response,
                    "the chat template does not keep the prompt unchanged before this response, "
                    "so the prompt has no boundary",
                    "Change the beginning of the response.",
                )
            sequences.append(ids)
        return EncodedPrompt(tuple(sequences), boundary, dropped)


def unpad(
    input_ids: Tensor | Sequence[Any],
    attention_mask: Tensor | Sequence[Any] | None = None,
) -> list[list[int]]:
    """Return the real tokens of each row, wherever its padding stands.

    Raises:
        InputError: A value that is no integer, a tensor of several rows without a mask, or a mask
            of another shape or with other values than 0 and 1.
    """
    rows = _as_lists("input_ids", input_ids)
    for number, row in enumerate(rows, start=1):
        for token in row:
            if type(token) is not int:  # bool is a subclass, but true is no token
                raise InputError(
                    "input_ids", token, "not a whole number", "Pass token ids.", row=number
                )
    if attention_mask is None:
        if len(rows) > 1 and not isinstance(input_ids, Sequence):
            raise InputError(
                "attention_mask",
                None,
                "missing for a batch of ids",
                "Pass the tokenizer's attention_mask, or a list of unpadded lists.",
            )
        return rows
    mask = _as_lists("attention_mask", attention_mask)
    if list(map(len, rows)) != list(map(len, mask)):
        raise InputError("attention_mask", len(mask), "not of the shape of input_ids", "Check it.")
    for number, row in enumerate(mask, start=1):
        for real in row:
            if real not in (0, 1):
                raise InputError(
                    "attention_mask", real, "neither 0 nor 1", "1 marks real tokens.", row=number
                )
    return [
        [token for token, real in zip(row, row_mask, strict=True) if real]
        for row, row_mask in zip(rows, mask, strict=True)
    ]


def _as_lists(field: str, rows: Any) -> list[list[Any]]:
    """Return rows as lists of Python's own numbers, given as a tensor, an array or sequences."""
    lists = _as_list(rows)
    if lists is None:
        raise InputError(field, rows, "not a list of rows", "Pass one list of ids per row.")
    found = []
    for number, row in enumerate(lists, start=1):
        values = _as_list(row)
        if values is None:
            reason = "not a row of token ids"
            raise InputError(field, row, reason, "Pass one list of ids per row.", row=number)
        found.append(values)
    return found


def _as_list(values: Any) -> list[Any] | None:
    if hasattr(values, "tolist"):  # a tensor or an array
        converted = values.tolist()
        return converted if isinstance(converted, list) else None
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return None
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]
