"""Argilla's sets: Capybara, Orca pairs, and mathematical preferences."""

from __future__ import annotations

from armorm.data.catalog.converting import (
    TIE,
    PromptReader,
    column_parts,
    conversation_parts,
    ordered_pair,
    pair_row,
    rated_pair,
    rated_row,
    system_and_user,
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


def orca_responses(prompt: PromptReader) -> Converter:
    """Return a converter to two rated responses, the lists in the order of generation."""

    def convert(record: Record, reading: Reading) -> Converted:
        generations, ratings = record.get("generations") or [], record.get("rating") or []
        if len(generations) != len(ratings) or not generations:
            raise SkippedRowError(
                "rating", ratings, "not one rating a generation", "Cannot be told apart."
            )
        turns = prompt(record)
        for generation, rating in zip(generations, ratings, strict=True):
            try:
                response = text_of({"generations": generation}, "generations")
                yield rated_row(turns, response, reading.ratings_of({"rating": rating}))
            except InputError as error:
                yield error

    return convert


def orca_pairs(prompt: PromptReader) -> Converter:
    """Return a converter to the pair as the dataset's authors ordered it by rating."""

    def convert(record: Record, reading: Reading) -> Converted:
        if record.get("status") == "tie":
            raise SkippedRowError("status", "tie", TIE, "It says nothing about which is better.")
        if reading.options["leave_out_gsm8k"] and record.get("in_gsm8k_train"):
            raise SkippedRowError(
                "in_gsm8k_train", True, "a question of GSM8K", "Skipped by option."
            )
        yield pair_row(prompt(record), text_of(record, "chosen"), text_of(record, "rejected"))

    return convert


CAPYBARA = CatalogEntry(
    name="argilla-capybara",
    hub_id="argilla/Capybara-Preferences-Filtered",
    about="Multi-turn conversations, the last response rated by GPT-4.",
    licence="Apache-2.0",
    rows=14_811,
    columns={
        "chosen": "messages",
        "rejected": "messages",
        "chosen_rating": "1 to 5",
        "rejected_rating": "1 to 5",
    },
    ratings=(paper_rating("rating", "argilla-overall_quality"),),
    rated=Form(
        convert=rated_pair(
            conversation_parts, {"chosen": "chosen_rating", "rejected": "rejected_rating"}
        ),
        rule="both responses of a row",
    ),
    preferences=Form(
        convert=ordered_pair(scores=("chosen_rating", "rejected_rating")),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)

ORCA_PROMPT = system_and_user("system", "input")

ORCA = CatalogEntry(
    name="argilla-orca",
    hub_id="argilla/distilabel-intel-orca-dpo-pairs",
    about="Two answers to an Orca question, rated by a judge.",
    licence="Apache-2.0",
    rows=12_859,
    columns={
        "system": "the system message, may be empty",
        "input": "the user's turn",
        "chosen": "the better answer",
        "rejected": "the other one",
        "generations": "both answers, in the order of the ratings",
        "rating": "1 to 10 of each generation",
        "status": "tie, swapped or unchanged",
        "in_gsm8k_train": "the question is one of GSM8K's training questions",
    },
    ratings=(paper_rating("rating", "argilla-judge_lm"),),
    rated=Form(convert=orca_responses(ORCA_PROMPT), rule="both generations of a row"),
    preferences=Form(
        convert=orca_pairs(ORCA_PROMPT),
        rule="as its authors ordered them; status tie is skipped",
        options={
            "leave_out_gsm8k": Option(
                default=False, meaning="Skip questions of GSM8K's training set."
            )
        },
    ),
    verified=frozenset({"id", "licence"}),
)

MATH_PARTS = column_parts(user_turn("instruction"))

MATH = CatalogEntry(
    name="argilla-math",
    hub_id="argilla/distilabel-math-preference-dpo",
    about="Two answers to a mathematical instruction, rated for instruction following.",
    licence="Apache-2.0",
    rows=2_418,
    columns={
        "instruction": "the user's turn",
        "chosen_response": "the better answer",
        "rejected_response": "the other one",
        "chosen_rating": "1 to 5",
        "rejected_rating": "1 to 5",
    },
    ratings=(paper_rating("rating", "ultrafeedback-instruction_following"),),
    rated=Form(
        convert=rated_pair(
            MATH_PARTS,
            {"chosen_response": "chosen_rating", "rejected_response": "rejected_rating"},
        ),
        rule="both responses of a row",
    ),
    preferences=Form(
        convert=ordered_pair(
            MATH_PARTS,
            scores=("chosen_rating", "rejected_rating"),
            columns=("chosen_response", "rejected_response"),
        ),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)

ENTRIES = (
    CAPYBARA,
    ORCA,
    MATH,
)
