"""Messages, rated responses and preference pairs, and the rules a conversation must keep.

Words (docs/method.md): the *prompt* is every message up to and including the last user turn; the
*response* is the final assistant turn.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from armorm.errors import InputError

Valid = TypeVar("Valid")
Row = TypeVar("Row")

_as_json = json.JSONEncoder(ensure_ascii=False).encode
"""Encoder of JSON, made once instead of for every prompt."""

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Conversation = Sequence[Message]


class _Row:
    """Base class of rows: dataclasses that can be kept as JSON."""

    __slots__: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """Return a JSON-ready record, for :meth:`from_record`."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_record(cls: type[Row], record: Mapping[str, Any]) -> Row:
        """Build the row from what :meth:`as_record` returned."""
        return cls(**{**record, "prompt": tuple(record["prompt"])})


@dataclass(frozen=True, slots=True)
class RatedResponse(_Row):
    """Response to a prompt with the ratings that exist, in the raters' units.

    Example:
        >>> from armorm import RatedResponse
        >>> prompt = ({"role": "user", "content": "Name a bird."},)
        >>> row = RatedResponse(prompt, "A wren.", {"helpsteer-correctness": 4.0})
        >>> row.responses
        ('A wren.',)

    Attributes:
        prompt: Messages up to and including the last user turn.
        response: Text of the final assistant turn.
        ratings: Objective name to rating; a missing rating is a missing key.
        id: Unique within its source.
        source: The dataset or file the row came from; subsets of reports.
        held_out: Kept out of training, for the reported figures.
    """

    prompt: tuple[Message, ...]
    response: str
    ratings: Mapping[str, float]
    id: str = ""
    source: str = ""
    held_out: bool = False

    @property
    def responses(self) -> tuple[str, ...]:
        """Responses to the prompt that this row needs features of."""
        return (self.response,)


@dataclass(frozen=True, slots=True)
class PreferencePair(_Row):
    """Two responses to one prompt, the first preferred.

    Example:
        >>> from armorm import PreferencePair
        >>> prompt = ({"role": "user", "content": "Name a bird."},)
        >>> pair = PreferencePair(prompt, chosen="A wren.", rejected="A trout.", subset="facts")
        >>> pair.responses
        ('A wren.', 'A trout.')

    Attributes:
        prompt: Messages up to and including the last user turn.
        chosen: Text of the preferred response.
        rejected: Text of the other one.
        id: Unique within its source.
        source: The dataset or file the row came from.
        subset: Group whose accuracy is reported on its own (a domain, a benchmark subset).
        held_out: Kept out of training, for the reported figures.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    id: str = ""
    source: str = ""
    subset: str = ""
    held_out: bool = False

    @property
    def responses(self) -> tuple[str, ...]:
        """Responses to the prompt that this row needs features of: chosen, rejected."""
        return (self.chosen, self.rejected)


def with_response(prompt: Conversation, response: str) -> list[Message]:
    """Return the whole conversation: the prompt followed by an assistant turn."""
    return [*prompt, {"role": "assistant", "content": response}]


def prompt_key(prompt: Conversation) -> str:
    """Return a hash of a prompt, equal for equal messages on every machine and version."""
    canonical = _as_json([[m["role"], m["content"]] for m in prompt])
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def row_key(row: RatedResponse | PreferencePair) -> str:
    """Return a hash of all that training sees of a row: the same for the same row of any source.

    The id, the source, the subset and the side of the split do not count.
    """
    ratings = repr(sorted(row.ratings.items())) if isinstance(row, RatedResponse) else ""
    parts = [part.encode("utf-8", "surrogatepass") for part in (*row.responses, ratings)]
    lengths = b"%d " * len(parts) % tuple(map(len, parts))  # so that no two rows run together
    content = b"".join([prompt_key(row.prompt).encode(), lengths, *parts])
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def validate_text(value: str, field_name: str = "") -> str:
    """Return the text if every file and tokenizer can take it.

    Raises:
        InputError: It holds half a character, a lone surrogate such as scraped JSON has.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            field_name,
            value,
            f"half a character (a lone surrogate) at position {error.start + 1}",
            "Write the text again as valid Unicode, or remove the row.",
        ) from None
    return value


def located_in(field_name: str, validate: Callable[[object], Valid], value: object) -> Valid:
    """Validate the value of a field; an error names the path from that field on."""
    try:
        return validate(value)
    except InputError as error:
        raise error.within(field_name) from None


def validate_conversation(value: object) -> tuple[tuple[Message, ...], str]:
    """Split a conversation into its prompt and its response, checking both.

    Raises:
        InputError: The first field that is wrong, by name.
    """
    messages = _validate_messages(value)
    if messages[-1]["role"] != "assistant":
        raise InputError(
            f"[{len(messages) - 1}].role",
            messages[-1]["role"],
            "the conversation does not end with the assistant's response",
            "End it with the assistant message to be judged.",
        )
    prompt = _check_prompt(messages[:-1])
    return prompt, messages[-1]["content"]


def validate_prompt(value: object) -> tuple[Message, ...]:
    """Return a prompt: a list of messages ending with the user's, or the text of one user turn.

    Raises:
        InputError: The first field that is wrong, by name.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return _check_prompt(_validate_messages(value))


def validate_response(value: object) -> str:
    """Return a response, given as text or as a list with one assistant message.

    Raises:
        InputError: The first field that is wrong, by name.
    """
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    messages = _validate_messages(value)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise InputError(
            "",
            [message["role"] for message in messages],
            "a response is one assistant message",
            "Put the earlier turns into the prompt.",
        )
    return messages[0]["content"]


def _check_prompt(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1]["role"] != "user":
        raise InputError(
            "" if not messages else f"[{len(messages) - 1}].role",
            None if not messages else messages[-1]["role"],
            "the prompt does not end with a user turn",
            "The message before the response must be the user's.",
        )
    return messages


def _validate_messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(
            "", value, "not a list of messages", 'Write [{"role": …, "content": …}, …].'
        )
    return tuple(_validate_message(i, message) for i, message in enumerate(value))


def _validate_message(position: int, message: object) -> Message:
    where = f"[{position}]"
    if not isinstance(message, (dict, Mapping)):  # dict first: the usual and quicker answer
        raise InputError(where, message, "not a message", 'Write {"role": …, "content": …}.')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(
            f"{where}.role",
            role,
            "missing role" if role is None else "unknown role",
            f"Use one of {', '.join(ROLES)}.",
        )
    if role == "system" and position > 0:
        raise InputError(
            f"{where}.role", role, "a system message after the first turn", "Move it to the front."
        )
    if not isinstance(content, str):
        raise InputError(
            f"{where}.content",
            content,
            "missing content" if content is None else "content is not text",
            "Only text conversations can be judged.",
        )
    if not content or content.isspace():
        raise InputError(
            f"{where}.content", content, f"empty {role} message", "Remove the row, or fill it in."
        )
    return {"role": str(role), "content": validate_text(content, f"{where}.content")}


@dataclass(slots=True)
class Tally:
    """Count of rows read, kept and skipped, with reasons. Nothing is dropped without a count.

    Attributes:
        read: Rows that came in.
        kept: Rows that went on.
        skipped: Rows that did not go on, by reason.
        notes: Values repaired on the way, by rule (a rating stored as text, say).
    """

    read: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        """Count a row that does not go on."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        counts = {
            "read": self.read,
            "kept": self.kept,
            "skipped": dict(sorted(self.skipped.items())),
        }
        return {**counts, "notes": dict(sorted(self.notes.items()))} if self.notes else counts
