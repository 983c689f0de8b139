"""Prometheus' collections: the rubric that a response was scored by is part of the question."""

from __future__ import annotations

from armorm.conversations.messages import Message
from armorm.data.catalog.converting import pair_row, rated_row, text_of
from armorm.data.catalog.entry import (
    CatalogEntry,
    Converted,
    Form,
    Option,
    Reading,
    Record,
    paper_rating,
)
from armorm.errors import InputError


def rubric_prompt(record: Record, reading: Reading) -> list[Message]:
    """Return the instruction, with the rubric it was judged by unless an option says otherwise."""
    instruction = text_of(record, "orig_instruction")
    if not reading.options["rubric"]:
        return [{"role": "user", "content": instruction}]
    lines = [instruction, "", f"Judged by: {text_of(record, 'orig_criteria')}"]
    for score in range(1, 6):
        description = record.get(f"orig_score{score}_description")
        if description:
            lines.append(f"{score}: {description}")
    return [{"role": "user", "content": "\n".join(lines)}]


def feedback_collection(record: Record, reading: Reading) -> Converted:
    """Yield a response scored by a rubric."""
    ratings = reading.ratings_of(record)
    yield rated_row(rubric_prompt(record, reading), text_of(record, "orig_response"), ratings)


def preference_collection(record: Record, reading: Reading) -> Converted:
    """Yield two responses to an instruction, the better one named A or B."""
    label = record.get("orig_preference")
    if label not in ("A", "B"):
        raise InputError("orig_preference", label, "neither A nor B", "Has the layout changed?")
    sides = ("A", "B") if label == "A" else ("B", "A")
    chosen, rejected = (text_of(record, f"orig_response_{side}") for side in sides)
    yield pair_row(rubric_prompt(record, reading), chosen, rejected)


RUBRIC_OPTION = {
    "rubric": Option(
        default=True, meaning="Add the rubric that the response was judged by to the prompt."
    )
}

FEEDBACK_COLLECTION = CatalogEntry(
    name="feedback-collection",
    hub_id="prometheus-eval/Feedback-Collection",
    about="Responses scored by rubrics that differ from row to row.",
    licence="CC-BY-4.0",
    rows=99_952,
    columns={
        "orig_instruction": "the user's turn",
        "orig_response": "the scored response",
        "orig_score": "text, 1 to 5",
        "orig_criteria": "what the rubric asks",
        **{f"orig_score{n}_description": f"what a score of {n} means" for n in range(1, 6)},
    },
    ratings=(paper_rating("orig_score", "prometheus-score"),),
    rated=Form(
        convert=feedback_collection,
        rule="one response a row, its rubric added to the prompt",
        options=RUBRIC_OPTION,
    ),
    verified=frozenset({"id", "columns"}),
)

PREFERENCE_COLLECTION = CatalogEntry(
    name="preference-collection",
    hub_id="prometheus-eval/Preference-Collection",
    about="Pairs of responses judged by rubrics that differ from row to row.",
    licence="CC-BY-4.0",
    rows=199_760,
    columns={
        "orig_instruction": "the user's turn",
        "orig_response_A": "the first response",
        "orig_response_B": "the second response",
        "orig_preference": "A or B",
        "orig_criteria": "what the rubric asks",
    },
    preferences=Form(
        convert=preference_collection,
        rule="the one named by orig_preference, the rubric added to the prompt",
        options=RUBRIC_OPTION,
    ),
    verified=frozenset({"id", "columns"}),
)

ENTRIES = (
    FEEDBACK_COLLECTION,
    PREFERENCE_COLLECTION,
)
