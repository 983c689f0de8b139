"""Rendered text to token ids, where only the template may write control tokens.

A tokenizer splits off ``<|eot_id|>`` wherever it stands, also where a user or a policy typed it,
and a response could so forge turns. Such text is tokenised by a twin of the tokenizer, in which
each control token has the spelling of one private character. What the template writes is
respelled, what the messages hold is not, and stays text.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from armorm.conversations.messages import Conversation, Message
from armorm.errors import InputError, TemplateError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_FIRST_PRIVATE = 0x10A000  # the end of a plane for private use, with no known users
_BREAK = chr(0x10FFFD)
_PRIVATE = re.compile(f"[{chr(_FIRST_PRIVATE)}-{_BREAK}]")
_THOUGHT_TAG = re.compile(r"</?think(ing)?>")  # text that responses hold, though one token


class Tokens:
    """A private copy of a fast tokenizer, which no other thread reconfigures.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        TemplateError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TemplateError(
                f"The tokenizer of {tokenizer.name_or_path!r} is not a fast one "
                "(tokenizer.json). Convert it with transformers."
            )
        self._backend = copy.deepcopy(backend)
        self._backend.no_truncation()
        self._backend.no_padding()
        self.added = {t.content: i for i, t in backend.get_added_tokens_decoder().items()}
        self._unknown = tokenizer.unk_token
        self.control = frozenset(
            token.content
            for token in backend.get_added_tokens_decoder().values()
            if token.special and not _THOUGHT_TAG.fullmatch(token.content)
        )

    def reserve(self, written: str) -> None:
        """Count the added tokens in a text of the template's own as control tokens.

        Some publishers do not mark theirs as special (``<｜User｜>`` of DeepSeek-V3).
        """
        self.control |= {
            token
            for token in self.added
            if token in written and token.strip() and not _THOUGHT_TAG.fullmatch(token)
        }

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which every control token counts as one."""
        return _ids(self._backend, text)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the characters that each token of :meth:`encode` stands for."""
        offsets: list[tuple[int, int]] = self._backend.encode(
            text, add_special_tokens=False
        ).offsets
        return offsets

    def spells_control(self, text: str) -> bool:
        """Return True if a text spells a control token."""
        return self._pattern.search(text) is not None

    def units(self, text: str) -> list[str]:
        """Return the text cut before and after each control token."""
        return [unit for unit in re.split(f"({self._pattern.pattern})", text) if unit]

    def encode_rendered(
        self, messages: Conversation, render: Callable[[Sequence[Message]], str]
    ) -> list[int]:
        """Return the ids of rendered messages, whose own text never becomes a control token.

        Raises:
            InputError: The template or the tokenizer does not keep the two apart.
        """
        respelled = self._respelled(messages, render)
        if respelled is None:
            return self.encode(render(messages))
        twin, _, own_ids = self._twin
        ids = _ids(twin, respelled)
        # A vocabulary may hold a control token as a piece of text too, and find it in what stays.
        forbidden = {self.added[token] for token in self.control if token != self._unknown}
        if any(one in forbidden and one not in own_ids for one in ids):
            raise _not_kept_apart(len(messages) - 1, messages[-1]["content"])
        return [own_ids.get(one, one) for one in ids]

    def offsets_rendered(
        self, messages: Conversation, render: Callable[[Sequence[Message]], str]
    ) -> list[tuple[int, int]]:
        """Return the characters of the rendered text that each id of these messages stands for.

        Raises:
            InputError: See :meth:`encode_rendered`.
        """
        respelled = self._respelled(messages, render)
        if respelled is None:
            return self.offsets(render(messages))
        twin, names, _ = self._twin
        widths = {name: len(token) for token, name in names.items()}
        places = list(itertools.accumulate((widths.get(c, 1) for c in respelled), initial=0))
        offsets = twin.encode(respelled, add_special_tokens=False).offsets
        return [(places[start], places[end]) for start, end in offsets]

    def _respelled(
        self, messages: Conversation, render: Callable[[Sequence[Message]], str]
    ) -> str | None:
        """Return the rendered text for the twin; ``None`` if no message spells a control token.

        Raises:
            InputError: The template does not keep text and control tokens apart.
        """
        search = self._pattern.search
        if not any(search(message["content"]) for message in messages):
            return None
        broken = [self._broken(i, message) for i, message in enumerate(messages)]
        text = render(broken)
        if text.replace(_BREAK, "") != render(messages):
            raise _not_kept_apart(len(messages) - 1, messages[-1]["content"])
        names = self._twin[1]
        return self._pattern.sub(lambda found: names[found.group()], text).replace(_BREAK, "")

    @cached_property
    def _ordered(self) -> list[str]:
        return sorted(self.control, key=lambda token: (-len(token), token))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._ordered)) or r"(?!)")

    @cached_property
    def _twin(self) -> tuple[Tokenizer, dict[str, str], dict[int, int]]:
        """Tokenizer with respelled control tokens, their spellings, and the ids that it renamed."""
        content = json.loads(self._backend.to_str())
        names = {token: chr(_FIRST_PRIVATE + i) for i, token in enumerate(self._ordered)}
        for token in content["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        twin = type(self._backend).from_str(json.dumps(content))
        return twin, names, {twin.token_to_id(names.get(t, t)): i for t, i in self.added.items()}

    def _broken(self, position: int, message: Message) -> Message:
        """Break the control tokens of a message by a character that nothing else holds."""
        content = message["content"]
        if _PRIVATE.search(content):
            raise _not_kept_apart(position, content)
        place = 0
        while found := self._pattern.search(content, place):
            place = found.start() + 1
            if len(found.group()) == 1:
                raise _not_kept_apart(position, content)
            content = f"{content[:place]}{_BREAK}{content[place:]}"
        return {"role": message["role"], "content": content}


def _ids(backend: Tokenizer, text: str) -> list[int]:
    # A batch, even of one, lets other threads run meanwhile; fast is without offsets.
    ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


def _not_kept_apart(position: int, content: str) -> InputError:
    return InputError(
        f"messages[{position}].content",
        content,
        "text that cannot be told from a control token of the model",
        "Remove the control tokens from the text.",
    )
