"""Building blocks of converters: readers of columns and makers of rows, each rule once.

Rules that hold for all datasets:

* a row with an empty prompt or response is skipped;
* a row whose turns do not alternate between user and assistant is skipped;
* two responses with equal ratings, or equal texts, are a tie and make no pair;
* a rating given as text is read as a number, N/A as missing; a row without any rating is skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from armorm.conversations.messages import Message
from armorm.data.catalog.entry import Converted, Converter, Reading, Record, Row
from armorm.errors import InputError, SkippedRowError

PromptReader = Callable[[Record], list[Message]]
PartsReader = Callable[[Record, str], tuple[list[Message], str]]
Scored = tuple[str, float | None]
"""Response, and the score it is ranked by, or ``None``."""

TIE = "a tie"
NOT_ALTERNATING = "turns do not alternate between user and assistant"
NO_SHARED_PROMPT = "chosen and rejected share no prompt"

ROLE_NAMES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


# Reading columns


def text_of(record: Record, column: str) -> str:
    """Return the text of a column.

    Raises:
        SkippedRowError: It is missing or empty.
        InputError: It is not text.
    """
    value = record.get(column)
    if isinstance(value, str):
        if value and not value.isspace():
            return value
    elif value is not None:
        raise InputError(column, value, f"{column} is not text", "Has the layout changed?")
    raise SkippedRowError(column, value, f"empty {column}", "There is nothing to judge.")


def user_turn(column: str) -> PromptReader:
    """Return a reader of prompts that are one user turn, the text of a column."""
    return lambda record: [{"role": "user", "content": text_of(record, column)}]


def system_and_user(system: str, column: str) -> PromptReader:
    """Return a reader of a user turn, after a system message where that is not empty."""

    def read(record: Record) -> list[Message]:
        turns: list[Message] = [{"role": "user", "content": text_of(record, column)}]
        instruction = record.get(system)
        if isinstance(instruction, str) and instruction.strip():
            turns.insert(0, {"role": "system", "content": instruction})
        return turns

    return read


def messages_of(value: object, column: str) -> list[Message]:
    """Return a list of messages, with this package's names of roles and alternating turns.

    Raises:
        SkippedRowError: A turn is empty, or turns do not alternate.
        InputError: The value is not a list of messages.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(column, value, "not a list of messages", "Has the layout changed?")
    messages = [_message(message, f"{column}[{i}]") for i, message in enumerate(value)]
    if len(messages) > 1 and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        del messages[0]  # an empty system message says nothing
    return alternating(messages, column)


def messages_in(column: str) -> PromptReader:
    """Return a reader of a column of messages that ends with the user's."""

    def read(record: Record) -> list[Message]:
        return ending_with("user", messages_of(record.get(column), column), column)

    return read


def text_or_messages(column: str) -> PromptReader:
    """Return a reader of text, or of messages that end with the user's."""
    as_text, as_messages = user_turn(column), messages_in(column)

    def read(record: Record) -> list[Message]:
        value = record.get(column)
        return as_text(record) if value is None or isinstance(value, str) else as_messages(record)

    return read


def _message(message: object, where: str) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    known = ROLE_NAMES.get(str(role).lower())
    content = message.get("content") if isinstance(message, dict) else None
    if known is None or not isinstance(content, str):
        raise InputError(where, message, "not a message", "Has the layout changed?")
    return {"role": known, "content": content}


def alternating(messages: list[Message], column: str) -> list[Message]:
    """Return the messages if they alternate user, assistant, … after an optional system message.

    Raises:
        SkippedRowError: They do not alternate, or one of them is empty.
    """
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for position, turn in enumerate(turns):
        if turn["role"] != ("assistant" if position % 2 else "user"):
            raise SkippedRowError(
                f"{column}[{position}].role",
                turn["role"],
                NOT_ALTERNATING,
                "No template renders it.",
            )
        if not turn["content"] or turn["content"].isspace():
            raise SkippedRowError(
                f"{column}[{position}].content",
                "",
                f"empty {turn['role']} turn",
                "Nothing to judge.",
            )
    return messages


def ending_with(role: str, messages: list[Message], column: str) -> list[Message]:
    """Return the messages if the last one is of this role.

    Raises:
        SkippedRowError: The last one is of another role.
    """
    if not messages or messages[-1]["role"] != role:
        last = messages[-1]["role"] if messages else None
        raise SkippedRowError(
            column, last, f"does not end with the {role}'s turn", "Nothing to judge."
        )
    return messages


# Prompt and response of one column


def conversation_parts(record: Record, column: str) -> tuple[list[Message], str]:
    """Return prompt and response of a column of messages that ends with the response."""
    messages = ending_with("assistant", messages_of(record.get(column), column), column)
    return messages[:-1], messages[-1]["content"]


def column_parts(prompt: PromptReader) -> PartsReader:
    """Return a reader of a column that holds the response alone, the prompt standing elsewhere."""
    return lambda record, column: (prompt(record), text_of(record, column))


# Rated responses


def rated_response(prompt: PromptReader, response: str) -> Converter:
    """Return a converter of records with one response and a column for each rating."""

    def convert(record: Record, reading: Reading) -> Converted:
        yield rated_row(prompt(record), text_of(record, response), reading.ratings_of(record))

    return convert


def rated_pair(read: PartsReader, sides: dict[str, str]) -> Converter:
    """Return a converter of records with two rated responses.

    Args:
        read: Reads prompt and response of the named column.
        sides: Column of a response to the column that holds its rating.
    """

    def convert(record: Record, reading: Reading) -> Converted:
        (rating,) = {rating.column for rating in reading.ratings}
        for side, column in sides.items():
            try:
                ratings = reading.ratings_of({rating: record.get(column)})
                yield rated_row(*read(record, side), ratings)
            except InputError as error:
                yield replace(error, field=column) if error.field == rating else error

    return convert


def rated_row(prompt: list[Message], response: str, ratings: dict[str, float]) -> Row:
    """Return a rated response in the form of docs/data.md."""
    return {"messages": [*prompt, {"role": "assistant", "content": response}], "ratings": ratings}


# Preference pairs


def ordered_pair(
    read: PartsReader = conversation_parts,
    scores: tuple[str, str] | None = None,
    columns: tuple[str, str] = ("chosen", "rejected"),
) -> Converter:
    """Return a converter of records with the better response in one column, the worse in another.

    Args:
        read: Reads prompt and response of the named column; the prompts must be the same.
        scores: Columns of their scores: equal scores are a tie.
        columns: The better and the worse response.
    """

    def convert(record: Record, _: Reading) -> Converted:
        if scores is not None:
            check_no_tie(record, *scores)
        prompt, chosen = read(record, columns[0])
        other, rejected = read(record, columns[1])
        if prompt != other:
            raise SkippedRowError(
                columns[1], other[-1]["content"], NO_SHARED_PROMPT, "Not comparable."
            )
        yield pair_row(prompt, chosen, rejected)

    return convert


def labelled_pair(
    prompt: PromptReader,
    responses: tuple[str, str],
    first_is_better: Callable[[Record, Reading], bool | None],
    subset: str | None = None,
) -> Converter:
    """Return a converter of two responses with a label that says if the first is better.

    A label of ``None`` is a tie.
    """

    def convert(record: Record, reading: Reading) -> Converted:
        first_wins = first_is_better(record, reading)
        if first_wins is None:
            raise SkippedRowError("label", None, TIE, "It says nothing about which is better.")
        first, second = (text_of(record, column) for column in responses)
        chosen, rejected = (first, second) if first_wins else (second, first)
        yield pair_row(prompt(record), chosen, rejected, subset and record.get(subset))

    return convert


def check_no_tie(record: Record, chosen: str, rejected: str) -> None:
    """Check that the two scores of a record differ, or are not given.

    Raises:
        SkippedRowError: Both columns hold the same score.
    """
    if record.get(chosen) is not None and record.get(chosen) == record.get(rejected):
        raise SkippedRowError(
            chosen, record.get(chosen), TIE, "It says nothing about which is better."
        )


def ranked_pairs(
    prompt: list[Message], scored: Sequence[Scored], subset: str | None = None
) -> Converted:
    """Yield every two responses of unequal score, the higher one chosen; ties are skipped."""
    known = [(text, score) for text, score in scored if score is not None]
    for _ in range(len(scored) - len(known)):
        yield SkippedRowError(
            "score", None, "a response without the score to rank by", "Not comparable."
        )
    for (text, score), (other, other_score) in itertools.combinations(known, 2):
        if score == other_score:
            yield SkippedRowError("score", score, TIE, "It says nothing about which is better.")
        elif score > other_score:
            yield from pair_or_tie(prompt, text, other, subset)
        else:
            yield from pair_or_tie(prompt, other, text, subset)


def pair_or_tie(
    prompt: list[Message], chosen: str, rejected: str, subset: object = None
) -> Converted:
    """Yield the pair, or the error that it is a tie, so that the record's other pairs go on."""
    try:
        yield pair_row(prompt, chosen, rejected, subset)
    except SkippedRowError as error:
        yield error


def pair_row(prompt: list[Message], chosen: str, rejected: str, subset: object = None) -> Row:
    """Return a preference pair in the form of docs/data.md.

    Raises:
        SkippedRowError: Both texts are the same.
    """
    if chosen == rejected:
        raise SkippedRowError("rejected", rejected, "the same text as chosen", "A tie.")
    row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {**row, "subset": str(subset)} if subset else row
