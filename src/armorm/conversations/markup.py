"""Parsers of rendered text, for peers that hand over text in their policy's own template.

Some RL frameworks send a prompt as the text that the policy read, control tokens included. A reward
model must read the same messages in *its* template, so the text is parsed into messages first. Only
markups that can be distinguished for certain are known; anything else is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from armorm.conversations.messages import Message
from armorm.errors import InputError

# Tokens that end a turn or a text; a response is what stands before the first of them.
END_TOKENS = (
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<eos>",
    "<|end|>",
    "</s>",
)
ROLES = {"model": "assistant", "human": "user"}


@dataclass(frozen=True, slots=True)
class Markup:
    """Markup of turns in a family of chat templates.

    Attributes:
        name: Name of the family, for messages to people.
        turn: Pattern of a turn's beginning; group 1 is the role.
        end: Text that closes a turn.
    """

    name: str
    turn: re.Pattern[str]
    end: str


MARKUPS = (
    Markup(
        "Llama 3", re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n"), "<|eot_id|>"
    ),
    Markup("ChatML", re.compile(r"<\|im_start\|>(\w+)\n"), "<|im_end|>"),
    Markup("Gemma", re.compile(r"<start_of_turn>(\w+)\n"), "<end_of_turn>"),
    Markup("Phi", re.compile(r"<\|(system|user|assistant)\|>\n"), "<|end|>"),
)


def parse_prompt(text: str) -> list[Message]:
    """Return the messages of a rendered prompt, without an open assistant turn at its end.

    Raises:
        InputError: The markup is not known, or the text does not end with the user's turn.
    """
    for markup in MARKUPS:
        openings = list(markup.turn.finditer(text))
        if openings:
            return _closed_turns(text, markup, openings)
    raise InputError(
        "prompt",
        text,
        "rendered by a chat template that is not known",
        f"Known: {', '.join(m.name for m in MARKUPS)}. Send messages, or pass parse_prompt.",
    )


def parse_response(text: str) -> str:
    """Return a generated text without the tokens that end it."""
    ends = [place for token in END_TOKENS if (place := text.find(token)) >= 0]
    return text[: min(ends, default=len(text))]


def _closed_turns(text: str, markup: Markup, openings: list[re.Match[str]]) -> list[Message]:
    messages: list[Message] = []
    stops = [opening.start() for opening in openings[1:]] + [len(text)]
    for opening, stop in zip(openings, stops, strict=True):
        content, closed, _ = text[opening.end() : stop].partition(markup.end)
        if closed:
            role = opening.group(1)
            messages.append({"role": ROLES.get(role, role), "content": content.strip()})
    if not messages or messages[-1]["role"] != "user":
        raise InputError(
            "prompt",
            text,
            f"does not end with a user turn ({markup.name} markup)",
            "The turn before the response must be the user's.",
        )
    return messages
