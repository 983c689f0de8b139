"""NVIDIA's HelpSteer sets: rated responses, and pairs with a strength of preference."""

from __future__ import annotations

import re
from collections.abc import Callable

from armorm.conversations.messages import Message
from armorm.data.catalog.converting import (
    PromptReader,
    alternating,
    ending_with,
    labelled_pair,
    messages_in,
    ranked_pairs,
    rated_response,
    text_of,
    user_turn,
)
from armorm.data.catalog.entry import (
    CatalogEntry,
    Converted,
    Converter,
    Form,
    Option,
    Reading,
    Record,
    paper_rating,
)
from armorm.errors import InputError, SkippedRowError

HELPSTEER_COLUMNS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HELPSTEER_RATINGS = tuple(
    paper_rating(column, f"helpsteer-{column}") for column in HELPSTEER_COLUMNS
)
HELPSTEER_MEANINGS = {
    "prompt": "the user's turn",
    "response": "the rated response",
    **dict.fromkeys(HELPSTEER_COLUMNS, "0 to 4, mean of the annotators, rounded"),
}


def _helpsteer_rated(prompt: PromptReader) -> Form:
    return Form(convert=rated_response(prompt, "response"), rule="one response a row")


def _helpsteer_pairs(prompt: PromptReader) -> Form:
    return Form(
        convert=prompt_group_pairs(prompt, "response"),
        rule="every two adjacent responses to a prompt, the higher rating chosen; ties are skipped",
        group="prompt",
        options={
            "by": Option(
                default="helpfulness",
                meaning="Rating that ranks the responses.",
                choices=HELPSTEER_COLUMNS,
            )
        },
    )


def _by_sign(column: str) -> Callable[[Record, Reading], bool | None]:
    """Return a label: below zero the first response is better, above zero the second, 0 a tie."""

    def first_is_better(record: Record, _: Reading) -> bool | None:
        strength = record.get(column)
        if not isinstance(strength, int | float) or not (strength < 0 or strength > 0):
            return None
        return strength < 0

    return first_is_better


def prompt_group_pairs(prompt: PromptReader, response: str) -> Converter:
    """Return a converter of records with one prompt to every two responses, ranked by a rating."""

    def convert(group: Record, reading: Reading) -> Converted:
        records = group["records"]
        by = reading.options["by"]
        (rating,) = (rating for rating in reading.ratings if rating.column == by)
        scored: list[tuple[str, float | None]] = []
        for record in records:
            try:
                scored.append(
                    (text_of(record, response), rating.read(record.get(by), reading.notes))
                )
            except InputError as error:
                yield error
        if len(records) == 1:
            yield SkippedRowError(
                by, None, "the only response to its prompt", "Nothing to compare."
            )
            return
        yield from ranked_pairs(prompt(records[0]), scored)

    return convert


MULTI_TURN_MARK = re.compile(r"<extra_id_1>(User|Assistant)\n")


def marked_turns(column: str) -> PromptReader:
    """Return a reader of turns marked ``<extra_id_1>Assistant`` and ``<extra_id_1>User``.

    The text before the first mark is the first user turn.  A mark of the assistant at the very
    end only announces the response.
    """

    def read(record: Record) -> list[Message]:
        first, *rest = MULTI_TURN_MARK.split(text_of(record, column))
        if not rest:
            return [{"role": "user", "content": first}]
        turns: list[Message] = [{"role": "user", "content": first.removesuffix("\n")}]
        for speaker, content in zip(rest[::2], rest[1::2], strict=True):
            turns.append({"role": speaker.lower(), "content": content.removesuffix("\n")})
        if len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
            turns.pop()
        return ending_with("user", alternating(turns, column), column)

    return read


HELPSTEER = CatalogEntry(
    name="helpsteer",
    hub_id="nvidia/HelpSteer",
    about="Responses rated by annotators for five qualities.",
    licence="CC-BY-4.0",
    rows=35_331,
    other_splits=("validation",),
    columns=HELPSTEER_MEANINGS,
    ratings=HELPSTEER_RATINGS,
    rated=_helpsteer_rated(user_turn("prompt")),
    preferences=_helpsteer_pairs(user_turn("prompt")),
    verified=frozenset({"id", "columns", "rows", "licence", "scale"}),
)

HELPSTEER2 = CatalogEntry(
    name="helpsteer2",
    hub_id="nvidia/HelpSteer2",
    about="As HelpSteer, two responses a prompt; prompts may have several turns.",
    licence="CC-BY-4.0",
    rows=20_324,
    other_splits=("validation",),
    columns={**HELPSTEER_MEANINGS, "prompt": "turns, later ones marked by <extra_id_1>"},
    ratings=HELPSTEER_RATINGS,
    rated=_helpsteer_rated(marked_turns("prompt")),
    preferences=_helpsteer_pairs(marked_turns("prompt")),
    verified=frozenset({"id", "columns", "splits", "rows", "licence", "scale"}),
)

HELPSTEER2_PREFERENCE = CatalogEntry(
    name="helpsteer2-preference",
    hub_id="nvidia/HelpSteer2",
    data_dir="preference",
    about="HelpSteer2's pairs with a strength of preference.",
    licence="CC-BY-4.0",
    columns={
        "prompt": "turns, later ones marked by <extra_id_1>",
        "response_1": "the first response",
        "response_2": "the second response",
        "preference_strength": "-3 (the first is much better) to 3 (the second is)",
    },
    preferences=Form(
        convert=labelled_pair(
            marked_turns("prompt"), ("response_1", "response_2"), _by_sign("preference_strength")
        ),
        rule="by the sign of the strength; 0 is a tie",
    ),
    verified=frozenset({"id", "columns", "licence"}),
    defects=("Which sign prefers which response is from memory.",),
)

HELPSTEER3 = CatalogEntry(
    name="helpsteer3",
    hub_id="nvidia/HelpSteer3",
    config="preference",
    about="Pairs of responses to multi-turn contexts in four domains; it has no ratings.",
    licence="CC-BY-4.0",
    rows=38_459,
    other_splits=("validation",),
    columns={
        "domain": "general, stem, code or multilingual",
        "context": "messages up to the last user turn",
        "response1": "the first response",
        "response2": "the second response",
        "overall_preference": "-3 (the first is much better) to 3 (the second is)",
    },
    preferences=Form(
        convert=labelled_pair(
            messages_in("context"),
            ("response1", "response2"),
            _by_sign("overall_preference"),
            subset="domain",
        ),
        rule="by the sign of the preference; 0 is a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)

ENTRIES = (
    HELPSTEER,
    HELPSTEER2,
    HELPSTEER2_PREFERENCE,
    HELPSTEER3,
)
