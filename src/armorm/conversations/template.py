"""Chat templates, rendered in bounded time with a pinned date."""

from __future__ import annotations

import ctypes
import datetime
import itertools
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import jinja2

from armorm.conversations.messages import Conversation
from armorm.errors import InputError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Made = TypeVar("Made")

PINNED_TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day written by templates that ask for today's date (Llama 3.1's own documented default).

A score must be the same tomorrow, so a template never sees the clock.
"""

MOST_SECONDS = 10.0
"""Time that a template may take for all probes together."""

MOST_CHARACTERS = 1_000_000
"""Longest text that a template may make of a probe's few words."""

_STRFTIME_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: A Hugging Face tokenizer with one chat template.

    Raises:
        TemplateError: There is no template or there are several, or it writes today's date in a
            computed format.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        source = tokenizer.chat_template
        if not source:
            raise TemplateError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no chat template. Set "
                "tokenizer.chat_template, or use a chat model's tokenizer."
            )
        if not isinstance(source, str):
            raise TemplateError(
                "The tokenizer has several named chat templates: "
                f"{', '.join(source)}. Set tokenizer.chat_template to one."
            )
        _refuse_powers(source)
        self.tokenizer = tokenizer
        self.source = pin_template_date(source)

    def render(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as text, with all control tokens, BOS included.

        Raises:
            InputError: The template refuses these messages.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages[:8])
            more = ", …" if len(messages) > 8 else ""
            reason = f"refused by the chat template: {str(error) or type(error).__name__}"
            raise InputError(
                "messages", roles + more, reason, "Change or remove the row."
            ) from error
        assert isinstance(text, str)
        return text

    def render_briefly(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """Render a few words, of which the template may not make endless text.

        Raises:
            InputError: The template refuses these messages.
            TemplateError: The text is longer than :data:`MOST_CHARACTERS`.
        """
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        if len(text) > MOST_CHARACTERS:
            raise TemplateError(
                f"The chat template makes {len(text)} characters of a few words. Use the template "
                "of the model's publisher."
            )
        return text


def bounded(make: Callable[[], Made]) -> Made:
    """Return ``make()``, or raise an error when it takes longer than :data:`MOST_SECONDS`.

    A template comes with the model folder and may loop for as long as it likes. It is run in a
    thread of its own, which nothing else waits for when it has to be stopped.

    Raises:
        TemplateError: It takes too long.
        Exception: Whatever ``make`` raises.
    """
    made: list[Made] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            made.append(make())
        except BaseException as error:  # noqa: BLE001 (raised again by the caller's thread)
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    if thread.is_alive():
        # Ends the loop, so that it does not compete with the caller for the interpreter.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        raise TemplateError(
            f"The chat template takes longer than {MOST_SECONDS:.0f} seconds for a few words. "
            "Use the template of the model's publisher."
        )
    if failed:
        raise failed[0]
    return made[0]


def pin_template_date(template: str) -> str:
    """Return the template with every call of ``strftime_now`` replaced by the pinned date.

    Raises:
        TemplateError: The template computes the format, so the date cannot be pinned.
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


def _refuse_powers(template: str) -> None:
    """Refuse ``10 ** 10 ** 9``: one such operation cannot be stopped from another thread."""
    try:
        tokens = [
            (kind, value)
            for _, kind, value in jinja2.Environment().lex(template)
            if kind != "whitespace"
        ]
    except Exception as error:
        raise TemplateError(f"The chat template cannot be read: {error}.") from error
    for before, token in itertools.pairwise(tokens):
        if token == ("operator", "**") and before[1] not in ("(", ","):
            raise TemplateError("The chat template computes powers, which may never end.")
