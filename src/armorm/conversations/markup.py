"""Parsers of rendered text, for peers that hand over text in their policy's own template.

Some RL frameworks send the text that the policy read and wrote, control tokens included. A reward
model must read the same messages in *its* template, so the text is parsed into messages first, and
what a message holds is text from then on: no control token of the text reaches the model. Only
markups that can be distinguished for certain are known; anything else is refused.

Where prompt and response come apart, a response cannot forge a turn: whatever it spells stays
text. Where both come as one text, a turn that somebody typed looks like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from armorm.conversations.messages import Message
from armorm.errors import InputError

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<pad>")
_DATE = re.compile(r"\ACutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n\n")
"""Lines that Llama 3's templates write into the system turn; nobody said them."""

_ROLES = {"model": "assistant", "human": "user"}


@dataclass(frozen=True, slots=True)
class Markup:
    """Markup of turns in a family of chat templates.

    Attributes:
        name: Name of the family, for messages to people.
        turn: Pattern of a turn's beginning; group 1 is the role.
        end: Text that closes a turn.
        stops: Texts besides it that end a generation.
    """

    name: str
    turn: re.Pattern[str]
    end: str
    stops: tuple[str, ...] = ()

    def parse(self, text: str) -> tuple[list[Message], str | None]:
        """Return the closed turns of a rendered text, and the beginning of an open last one.

        Raises:
            InputError: There is text outside the turns, or a turn before the last is open.
        """
        openings = list(self.turn.finditer(text))
        if without_ends(text[: openings[0].start()], (*BEGIN_TOKENS, *END_TOKENS)).strip():
            raise self._refusal(text, "has text before its first turn")
        stops = [opening.start() for opening in openings[1:]] + [len(text)]
        messages: list[Message] = []
        for opening, stop in zip(openings, stops, strict=True):
            content, closed, rest = text[opening.end() : stop].partition(self.end)
            role = _ROLES.get(opening.group(1), opening.group(1))
            if not closed and stop == len(text):
                if role != "assistant":
                    raise self._refusal(text, f"ends inside a turn of the {role}")
                return messages, content
            if not closed or without_ends(rest, (self.end, *self.stops)).strip():
                raise self._refusal(text, "has text outside its turns")
            if role == "system":
                content = _DATE.sub("", content, count=1)
            if content or role != "system":
                messages.append({"role": role, "content": content})
        return messages, None

    def without_ends(self, response: str) -> str:
        """Return a generated text without the tokens that end it."""
        return without_ends(response, (self.end, *self.stops))

    def _refusal(self, text: str, reason: str) -> InputError:
        return InputError(
            "text", text, f"{reason} ({self.name} markup)", "Send messages in place of text."
        )


_PHI_TURN = re.compile(r"<\|(system|user|assistant)\|>\n")

MARKUPS = (
    Markup(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n"),
        "<|eot_id|>",
        ("<|eom_id|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
    ),
    Markup("ChatML", re.compile(r"<\|im_start\|>(\w+)\n"), "<|im_end|>", ("<|endoftext|>",)),
    Markup("Gemma", re.compile(r"<start_of_turn>(\w+)\n"), "<end_of_turn>", ("<eos>", "<pad>")),
    Markup("Phi", _PHI_TURN, "<|end|>", ("<|endoftext|>",)),
    Markup("Zephyr", _PHI_TURN, "</s>"),
)

END_TOKENS = tuple(
    {one: None for m in MARKUPS for one in (m.end, *m.stops)} | dict.fromkeys(_END_OF_TEXT)
)
"""Tokens that end a turn or a text in some template, and those that pad."""

BEGIN_TOKENS = ("<bos>", "<s>", "<|begin_of_text|>")

_UNREADABLE = {
    "Mistral or Llama 2": "[INST]",
    "DeepSeek": "<｜User｜>",
    "Command R": "<|START_OF_TURN_TOKEN|>",
    "gpt-oss (Harmony)": "<|message|>",
    "Vicuna": "USER:",
    "Alpaca": "### Instruction",
}
"""Templates that can be named, though not parsed for certain."""


@runtime_checkable
class OwnTemplate(Protocol):
    """Parser of text in one model's own template; ``None`` is text of another one."""

    def prompt(self, text: str) -> tuple[list[Message], str] | None:
        """Return the messages of a prompt, and the beginning of the response that it holds."""

    def conversation(self, text: str) -> tuple[list[Message], str] | None:
        """Return the prompt's messages and the response of a whole conversation."""

    def without_ends(self, response: str) -> str:
        """Return a generated text without the tokens that end it."""


def parse_prompt(text: str) -> list[Message]:
    r"""Return the messages of a rendered prompt, without an open assistant turn at its end.

    Raises:
        InputError: The markup is not known, or the text does not end with the user's turn.

    Example:
        >>> from armorm.conversations.markup import parse_prompt
        >>> parse_prompt("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
        [{'role': 'user', 'content': 'hello'}]
    """
    messages, _, _ = _parse_prompt(text)
    return messages


def parse_response(text: str) -> str:
    """Return a generated text without the tokens that end it; those inside it stay text."""
    return without_ends(text, END_TOKENS)


def parse_continuation(
    prompt: str, response: str, own: OwnTemplate | None = None
) -> tuple[list[Message], str]:
    """Return the messages of a rendered prompt and the response that continues it.

    What the template writes at the beginning of the response, such as ``<think>``, is part of it.

    Args:
        prompt: Rendered text that ends where the policy began to write.
        response: Text that the policy wrote.
        own: Parser of the reward model's own template, which is tried first.

    Raises:
        InputError: The markup is not known, or the text does not end with the user's turn.
    """
    found = None if own is None else own.prompt(prompt)
    if own is not None and found is not None:
        messages, beginning = found
        return messages, beginning + own.without_ends(response)
    messages, beginning, markup = _parse_prompt(prompt)
    return messages, beginning + markup.without_ends(response)


def parse_conversation(text: str, own: OwnTemplate | None = None) -> tuple[list[Message], str]:
    """Return the prompt's messages and the response of a rendered conversation.

    Raises:
        InputError: The markup is not known, or the text does not end with the assistant's turn.
    """
    found = None if own is None else own.conversation(text)
    if found is not None:
        return found
    messages, unfinished, markup = _parse(text)
    if unfinished is not None:
        return messages, markup.without_ends(unfinished)
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError(
            "text",
            text,
            f"does not end with the assistant's turn ({markup.name} markup)",
            "Send the whole conversation, the response included.",
        )
    return messages[:-1], messages[-1]["content"]


def without_ends(text: str, ends: Sequence[str]) -> str:
    """Return a text without end tokens at its end, nor the white space around and after them."""
    kept = place = len(text)
    while True:
        while place and text[place - 1].isspace():
            place -= 1
        end = next((one for one in ends if text.endswith(one, 0, place)), None)
        if end is None:
            return text[:kept]
        kept = place = place - len(end)


def _parse_prompt(text: str) -> tuple[list[Message], str, Markup]:
    messages, unfinished, markup = _parse(text)
    if not messages or messages[-1]["role"] != "user":
        raise InputError(
            "prompt",
            text,
            f"does not end with a user turn ({markup.name} markup)",
            "The turn before the response must be the user's.",
        )
    # An empty thought is what a template writes to keep a policy from thinking.
    beginning = re.sub(r"\A\s*<think>\s*</think>\s*\Z", "", unfinished or "")
    return messages, beginning, markup


def _parse(text: str) -> tuple[list[Message], str | None, Markup]:
    """Parse by the first known markup that the whole text follows."""
    refusal: InputError | None = None
    for markup in MARKUPS:
        if markup.turn.search(text):
            try:
                return *markup.parse(text), markup
            except InputError as error:
                refusal = refusal or error
    raise refusal or _unknown(text)


def _unknown(text: str) -> InputError:
    name = next((name for name, sign in _UNREADABLE.items() if sign in text), None)
    reason = (
        "without the markers of a chat template that is known"
        if name is None
        else f"in the chat template of {name}, which cannot be parsed for certain"
    )
    known = ", ".join(markup.name for markup in MARKUPS)
    return InputError(
        "prompt", text, reason, f"Known: {known}, and the served model's own. Send messages."
    )
