"""Anthropic's HH-RLHF: two transcripts that differ in their last turn."""

from __future__ import annotations

import re

from armorm.conversations.messages import Message
from armorm.data.catalog.converting import alternating, ending_with, ordered_pair, text_of
from armorm.data.catalog.entry import CatalogEntry, Form, Record
from armorm.errors import InputError

TRANSCRIPT_MARK = re.compile(r"\n\n(Human|Assistant):")


def transcript(record: Record, column: str) -> list[Message]:
    r"""Return the turns of a transcript, each after ``\n\nHuman:`` or ``\n\nAssistant:``.

    Raises:
        SkippedRowError: Turns do not alternate, or one is empty.
        InputError: The text does not start with a turn.
    """
    text = text_of(record, column)
    before, *rest = TRANSCRIPT_MARK.split(text)
    if before.strip() or not rest:
        raise InputError(column, text, "not a transcript of Human and Assistant", "Changed layout?")
    turns: list[Message] = [
        {"role": "user" if speaker == "Human" else "assistant", "content": content.strip()}
        for speaker, content in zip(rest[::2], rest[1::2], strict=True)
    ]
    return alternating(turns, column)


def transcript_parts(record: Record, column: str) -> tuple[list[Message], str]:
    """Return prompt and response of a transcript that ends with the response."""
    messages = ending_with("assistant", transcript(record, column), column)
    return messages[:-1], messages[-1]["content"]


def _hh_rlhf(name: str, data_dir: str | None, rows: int, about: str) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        hub_id="Anthropic/hh-rlhf",
        data_dir=data_dir,
        about=about,
        licence="MIT",
        rows=rows,
        other_splits=("test",),
        columns={"chosen": "a transcript", "rejected": "a transcript with another last turn"},
        preferences=Form(
            convert=ordered_pair(transcript_parts),
            rule="the last turns of two transcripts that share all others",
        ),
        verified=frozenset({"id", "columns", "licence"}),
        defects=("Some transcripts do not alternate or share no prompt: counted and skipped.",),
    )


ENTRIES = (
    _hh_rlhf("hh-rlhf", None, 160_800, "Human preferences for helpful and harmless answers."),
    _hh_rlhf("hh-rlhf-harmless-base", "harmless-base", 42_537, "Its harmless part."),
    _hh_rlhf("hh-rlhf-helpful-base", "helpful-base", 43_835, "Its helpful part."),
    _hh_rlhf("hh-rlhf-helpful-online", "helpful-online", 22_007, "Its helpful part, online."),
    _hh_rlhf(
        "hh-rlhf-helpful-rejection-sampled",
        "helpful-rejection-sampled",
        52_421,
        "Its helpful part, by rejection sampling.",
    ),
)
