"""Rendering through a chat template, and the prompt boundary, for any template.

The gate reads the hidden state at the *prompt boundary*: the token that closes the last user
turn.  It is found from the template itself.  The template is rendered once with marked messages
to learn what it writes after a user turn (the *closing*) and before a response (the *generation
prompt*); in each conversation the boundary is then counted back from the end of the rendered
prompt.  It is never searched for inside the response, so text in a response that looks like a
header cannot move the gate.

For Llama-3 and Gemma-2 this is exactly the released rule: the first token of the last
``<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n`` (Llama-3) or
``<end_of_turn>\\n<start_of_turn>model\\n`` (Gemma-2) of the conversation.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jinja2

from armorm.conversations.messages import Conversation, Message, with_response
from armorm.errors import InputError, TemplateError, shorten

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

OverlongPolicy = Literal["error", "skip", "drop_oldest_turns"]

PINNED_TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day written by templates that ask for today's date (Llama 3.1's own documented default).

A score must be the same tomorrow, so a template never sees the clock.
"""

_USER_MARK = "armormusermark"
_RESPONSE_MARK = "armormresponsemark"
_STRFTIME_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


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
        return tuple(self.sequences[0][: self.boundary + 1])

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))


@dataclass(frozen=True, slots=True)
class _Split:
    """What the template writes around the end of a prompt."""

    with_generation_prompt: bool  # how to render a prompt so that it is a prefix of the whole
    tokens_from_end: int  # boundary = length of the rendered prompt's ids - tokens_from_end
    pattern: tuple[int, ...]  # ids from the boundary to the first token of the response


class ConversationEncoder:
    """Turns prompts and responses into token ids with a known prompt boundary.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        max_length: Most tokens a rendered conversation may have; ``None`` for no limit.
        overlong: What happens to a longer one: ``error``; ``skip`` (:meth:`encode_or_skip`
            returns ``None`` and its caller counts); or ``drop_oldest_turns``, which drops whole
            turns from the front (never the system message or the last user turn) until every
            response to the prompt fits, and skips what still does not.  Text is never cut.

    Raises:
        TemplateError: there is no chat template, or it cannot be split at the end of the prompt.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        overlong: OverlongPolicy = "error",
    ) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no chat template. Set "
                "tokenizer.chat_template, or use a chat model's tokenizer."
            )
        if not isinstance(tokenizer.chat_template, str):
            raise TemplateError(
                "The tokenizer has several named chat templates: "
                f"{', '.join(tokenizer.chat_template)}. Set tokenizer.chat_template to one."
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.overlong: OverlongPolicy = overlong
        self.template = pin_template_date(tokenizer.chat_template)
        try:
            self._split = self._probe()
        except InputError as error:
            raise TemplateError(f"The chat template cannot be used: {error.reason}.") from error

    @property
    def boundary_pattern(self) -> tuple[int, ...]:
        """Ids from the boundary to the start of the response, for input that is only ids.

        Llama-3: 128009 128006 78191 128007 271. Gemma-2: 107 108 106 2516 108.
        """
        return self._split.pattern

    def encode(self, prompt: Conversation, responses: Sequence[str]) -> EncodedPrompt:
        """Return the token ids of each response after the prompt.

        Raises:
            OverlongError: A conversation has more than ``max_length`` tokens.
            InputError: The template refuses these messages, or does not keep the prompt as a
                prefix of the conversation.
        """
        messages = list(prompt)
        dropped = 0
        while True:
            encoded = self._encode(messages, responses, dropped)
            longest = max(map(len, encoded.sequences))
            if self.max_length is None or longest <= self.max_length:
                return encoded
            oldest = 1 if messages[0]["role"] == "system" else 0
            if self.overlong != "drop_oldest_turns" or len(messages) - oldest <= 1:
                raise OverlongError(
                    "messages",
                    messages[-1]["content"],
                    f"{longest} tokens, the model reads {self.max_length}",
                    "Shorten the conversation, raise max_length, or choose another overlong policy "
                    "(skip, drop_oldest_turns).",
                )
            # A turn is a user message with the answer to it: drop both, so that roles alternate.
            turn = next(
                i for i in range(oldest + 1, len(messages)) if messages[i]["role"] == "user"
            )
            del messages[oldest:turn]
            dropped += turn - oldest

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
        """The same encoder, for which nothing is too long."""
        unlimited = copy.copy(self)
        unlimited.max_length = None
        return unlimited

    def from_ids(self, ids: Sequence[int]) -> EncodedPrompt:
        """A conversation that is token ids already, checked for what makes scores silently wrong.

        Raises:
            InputError: two BOS tokens, no boundary, no response after it, or too many ids.
        """
        row = list(ids)
        bos = self.tokenizer.bos_token_id
        if bos is not None and row[:2] == [bos, bos]:
            raise InputError(
                "input_ids",
                row[:8],
                "two BOS tokens",
                "The template writes one: tokenize its text with add_special_tokens=False.",
            )
        if self.max_length is not None and len(row) > self.max_length:
            raise InputError(
                "input_ids", len(row), f"longer than {self.max_length} tokens", "Shorten it."
            )
        boundary = last_occurrence(row, self.boundary_pattern)
        if boundary is None or boundary + len(self.boundary_pattern) >= len(row):
            raise InputError(
                "input_ids",
                row[-8:],
                "no end of a user turn followed by a response (pattern "
                f"{list(self.boundary_pattern)})",
                "Were they cut, rendered by another model's template, or with "
                "add_generation_prompt?",
            )
        return EncodedPrompt((row,), boundary)

    def render(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text, with all special tokens the model needs, BOS included."""
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                "messages",
                roles,
                f"refused by the chat template: {error}",
                "Change these messages.",
            ) from error
        assert isinstance(text, str)
        return text

    def tokenize(self, text: str) -> list[int]:
        """Ids of rendered text. The one place that decides about BOS: the template writes it."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _encode(
        self, messages: list[Message], responses: Sequence[str], dropped: int
    ) -> EncodedPrompt:
        prompt_text = self.render(
            messages, add_generation_prompt=self._split.with_generation_prompt
        )
        prompt_ids = self.tokenize(prompt_text)
        boundary = len(prompt_ids) - self._split.tokens_from_end
        shared = prompt_ids[: boundary + 1]
        sequences = []
        for response in responses:
            text = self.render(with_response(messages, response))
            ids = self.tokenize(text)
            if not text.startswith(prompt_text) or ids[: boundary + 1] != shared:
                raise InputError(
                    "messages",
                    response,
                    "the chat template does not keep the prompt unchanged before this response, "
                    "so the prompt has no boundary",
                    "Change the response's beginning.",
                )
            sequences.append(ids)
        return EncodedPrompt(tuple(sequences), boundary, dropped)

    def _probe(self) -> _Split:
        """Learn from marked messages what the template writes around the end of a prompt."""
        prompt: list[Message] = [{"role": "user", "content": _USER_MARK}]
        bare = self.render(prompt)
        headed = self.render(prompt, add_generation_prompt=True)
        whole = self.render(with_response(prompt, _RESPONSE_MARK))
        if _USER_MARK not in bare or _RESPONSE_MARK not in whole:
            raise TemplateError("The chat template does not write the messages' text.")
        # Prefer the header in the prompt: some templates end a conversation with a final token
        # that is not there when a response follows.
        with_header = whole.startswith(headed)
        if not with_header and not whole.startswith(bare):
            raise TemplateError(
                "The chat template cannot be split: a rendered prompt is not the beginning of "
                f"the rendered conversation ({shorten(bare)} against {shorten(whole)})."
            )
        rendered = headed if with_header else bare
        after_user = [text.partition(_USER_MARK)[2] for text in (bare, whole)]
        closing = _common_beginning(*after_user)
        tokens_from_end = self._tokens_from_end(closing, rendered)
        ids, whole_ids = self.tokenize(rendered), self.tokenize(whole)
        boundary = len(ids) - tokens_from_end
        if whole_ids[: boundary + 1] != ids[: boundary + 1]:
            raise TemplateError(
                "The chat template cannot be split: the tokens that close the user turn change "
                f"with the response ({shorten(whole)})."
            )
        bos = self.tokenizer.bos_token_id
        if bos is not None and whole_ids[:2] == [bos, bos]:
            raise TemplateError("The chat template writes the BOS token twice.")
        header = whole[: whole.rindex(_RESPONSE_MARK)]
        return _Split(with_header, tokens_from_end, tuple(self.tokenize(header)[boundary:]))

    def _tokens_from_end(self, closing: str, rendered_prompt: str) -> int:
        """How far from the end of the rendered prompt's ids the closing token stands."""
        mark_end = rendered_prompt.rindex(_USER_MARK) + len(_USER_MARK)
        control = self._first_control_token(closing)
        if control is not None:
            # Control tokens are split off before all else, so what follows tokenises alone.
            tail = self.tokenize(rendered_prompt[mark_end + closing.index(control) :])
            ids = self.tokenize(rendered_prompt)
            if ids[-len(tail) :] == tail:
                return len(tail)
        elif closing.strip():
            closed = self.tokenize(rendered_prompt[: mark_end + len(closing)])
            return len(self.tokenize(rendered_prompt)) - len(closed) + 1
        elif len(rendered_prompt) > mark_end + len(closing):
            return 1  # nothing closes the turn: the last token of the response's header
        raise TemplateError(
            "The chat template cannot be split: nothing stands between the user turn and the "
            f"response ({shorten(rendered_prompt)})."
        )

    def _first_control_token(self, closing: str) -> str | None:
        present = [token for token in self.tokenizer.get_added_vocab() if token in closing]
        return min(present, key=lambda token: (closing.index(token), -len(token)), default=None)


def unpad(
    input_ids: Tensor | Sequence[Sequence[int]],
    attention_mask: Tensor | Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """The real tokens of each row, wherever its padding stands.

    Raises:
        InputError: a tensor of several rows without a mask, or a mask of another shape.
    """
    rows = _as_lists(input_ids)
    if attention_mask is None:
        if len(rows) > 1 and not isinstance(input_ids, Sequence):
            raise InputError(
                "attention_mask",
                None,
                "missing for a batch of ids",
                "Pass the tokenizer's attention_mask, or a list of unpadded lists.",
            )
        return rows
    mask = _as_lists(attention_mask)
    if list(map(len, rows)) != list(map(len, mask)):
        raise InputError("attention_mask", len(mask), "not of the shape of input_ids", "Check it.")
    return [
        [token for token, real in zip(row, row_mask, strict=True) if real]
        for row, row_mask in zip(rows, mask, strict=True)
    ]


def _as_lists(rows: Tensor | Sequence[Sequence[int]]) -> list[list[int]]:
    lists: list[list[int]] = [
        [int(token) for token in row]
        for row in (rows if isinstance(rows, Sequence) else rows.tolist())
    ]
    return lists


def last_occurrence(ids: Sequence[int], pattern: Sequence[int]) -> int | None:
    """Index of the first token of the last occurrence of ``pattern`` in ``ids``."""
    width = len(pattern)
    wanted = list(pattern)
    for start in range(len(ids) - width, -1, -1):
        if list(ids[start : start + width]) == wanted:
            return start
    return None


def _common_beginning(one: str, other: str) -> str:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in pairs)


def pin_template_date(template: str) -> str:
    """The template with every call of ``strftime_now`` replaced by the pinned date.

    Raises:
        TemplateError: the template computes the format, so the date cannot be pinned.
    """
    pinned = _STRFTIME_NOW.sub(
        lambda call: repr(PINNED_TEMPLATE_DATE.strftime(call.group(2))), template
    )
    if re.search(r"strftime_now\s*\(", pinned):
        raise TemplateError(
            "The chat template writes today's date in a computed format, so its scores would "
            "change from day to day. Replace strftime_now(…) in it by a fixed date."
        )
    return pinned
