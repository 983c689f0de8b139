"""The inverse of a model's own chat template: rendered text to the messages it was rendered from.

What the template writes around messages is learned from a few marked ones, and every answer is
verified: the messages found, rendered again, are the text that was given.
"""

from __future__ import annotations

import functools
import os
import re

from armorm.conversations.encoding import ConversationEncoder
from armorm.conversations.markup import without_ends
from armorm.conversations.messages import Message, with_response
from armorm.errors import InputError

_MARKS = (
    "armormmarksystem",
    "armormmarkfirst",
    "armormmarksecond",
    "armormmarkthird",
    "armormmarkend",
)


class TemplateParser:
    """Parser of text in the template of an encoder.

    Roles must alternate after a system message. Text is refused (``None``) if a message holds a
    control token of the model, since a typed one and a turn of another role look the same.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: ConversationEncoder) -> None:
        self._encoder = encoder
        self._bos: str = encoder.tokenizer.bos_token or ""
        system, first, second, third, end = _MARKS
        asked: list[Message] = [{"role": "user", "content": first}]
        once = with_response(asked, second)
        twice = with_response([*once, {"role": "user", "content": third}], end)
        self._heads, self._system = self._learn_heads(system, asked, once)
        whole = self._render(once)
        gap = whole.partition(first)[2].partition(second)[0]
        self._tail = whole.partition(second)[2]
        long = self._render_or_nothing(twice)
        # A template may write more before the last response: what all share is the separator.
        earlier = long.partition(first)[2].partition(second)[0]
        self._answer = os.path.commonprefix([gap, earlier])  # noqa: RUF071 (text, not paths)
        self._written = gap.removeprefix(self._answer)
        self._turn = long.partition(second)[2].partition(third)[0]
        self._opening = self._render_or_nothing(asked, opened=True).partition(first)[2]
        self._beginning = self._opening.removeprefix(gap) if self._opening.startswith(gap) else ""

    def prompt(self, text: str) -> tuple[list[Message], str] | None:
        """Return the messages of a prompt, and the beginning of the response that it holds."""
        if not self._opening or not text.endswith(self._opening):
            return None
        mark = _MARKS[-1]
        asked = text.removesuffix(self._opening)
        found = self.conversation(asked + self._answer + self._written + mark)
        return None if found is None or found[1] != mark else (found[0], self._beginning)

    def conversation(self, text: str) -> tuple[list[Message], str] | None:
        """Return the prompt's messages and the response of a whole conversation."""
        if not self._answer.strip() or not self._turn.strip() or self._answer == self._turn:
            return None
        body = self._body(text)
        for head, system in self._heads:
            if body.startswith(head) and (found := self._split(body[len(head) :], system)):
                *prompt, last = found
                for response in dict.fromkeys(
                    (last["content"].removeprefix(self._written), last["content"])
                ):
                    if self._renders(with_response(prompt, response), body):
                        return prompt, response
        return None

    def without_ends(self, response: str) -> str:
        """Return a generated text without the tokens that end it."""
        eos = self._encoder.tokenizer.eos_token
        ends = [one for one in (self._tail.strip(), eos) if one]
        return without_ends(response, ends) if ends else response

    def _learn_heads(
        self, system: str, asked: list[Message], once: list[Message]
    ) -> tuple[list[tuple[str, bool]], str]:
        """Learn what stands before the first message, and between a system message and a user's."""
        first = asked[0]["content"]
        heads = [(self._render(once).partition(first)[0], False)]
        text = self._render_or_nothing([{"role": "system", "content": system}, *once])
        if system not in text:
            return heads, ""
        head, _, rest = text.partition(system)
        between = rest.partition(first)[0]
        return ([*heads, (head, True)] if between else heads), between

    def _split(self, text: str, system: bool) -> list[Message] | None:
        """Split at the separators, which must come by turns and end with an answer's."""
        messages: list[Message] = []
        if system:
            content, found, text = text.partition(self._system)
            if not found:
                return None
            messages.append({"role": "system", "content": content})
        parts = re.split(f"({re.escape(self._answer)}|{re.escape(self._turn)})", text)
        separators = [self._answer, self._turn] * (len(parts) // 4 + 1)
        if len(parts) % 4 != 3 or parts[1::2] != separators[: len(parts) // 2]:
            return None
        for i, content in enumerate(parts[::2]):
            messages.append({"role": ("user", "assistant")[i % 2], "content": content})
        if any(self._encoder.spells_control(message["content"]) for message in messages):
            return None
        return messages

    def _renders(self, messages: list[Message], body: str) -> bool:
        return self._body(self._render_or_nothing(messages)) == body

    def _render(self, messages: list[Message], *, opened: bool = False) -> str:
        return self._without_bos(self._encoder.render(messages, add_generation_prompt=opened))

    def _render_or_nothing(self, messages: list[Message], *, opened: bool = False) -> str:
        try:
            return self._render(messages, opened=opened)
        except InputError:  # the template refuses such messages
            return ""

    def _body(self, text: str) -> str:
        """Return the text without BOS and without what closes the last turn."""
        text = self._without_bos(text)
        tail = self._tail if text.endswith(self._tail) else self._tail.rstrip()
        return text.removesuffix(tail)

    def _without_bos(self, text: str) -> str:
        while self._bos and text.startswith(self._bos):
            text = text[len(self._bos) :]
        return text


@functools.lru_cache(maxsize=8)
def template_parser(encoder: ConversationEncoder) -> TemplateParser:
    """Return the parser of an encoder's template, learned once."""
    return TemplateParser(encoder)
