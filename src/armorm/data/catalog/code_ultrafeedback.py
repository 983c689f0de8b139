"""CodeUltraFeedback: responses and annotations are two lists, joined by the model's name."""

from __future__ import annotations

from armorm.data.catalog.converting import ranked_pairs, rated_row, text_of, user_turn
from armorm.data.catalog.entry import CatalogEntry, Converted, Form, Reading, Record, paper_rating
from armorm.errors import InputError

CODE_PREFERENCES = ("complexity", "style", "explanation", "instruction-following", "readability")


def code_responses(record: Record, reading: Reading) -> Converted:
    """Yield a rated response for each model, on the one preference that was annotated."""
    prompt = user_turn("instruction")(record)
    for response, rating in _code_answers(record):
        try:
            yield rated_row(
                prompt, text_of(response, "response"), _code_rating(record, rating, reading)
            )
        except InputError as error:
            yield error.within("responses")


def code_pairs(record: Record, reading: Reading) -> Converted:
    """Yield every two responses, ranked by their rating."""
    scored: list[tuple[str, float | None]] = []
    for response, rating in _code_answers(record):
        try:
            (score,) = _code_rating(record, rating, reading).values()
            scored.append((text_of(response, "response"), score))
        except InputError as error:
            yield error.within("responses")
    preference = str(record.get("preference"))
    yield from ranked_pairs(user_turn("instruction")(record), scored, preference)


def _code_answers(record: Record) -> list[tuple[Record, object]]:
    annotations = {note["model"]: note.get("rating") for note in record.get("annotations") or []}
    return [
        (response, annotations.get(response.get("model")))
        for response in record.get("responses") or []
    ]


def _code_rating(record: Record, value: object, reading: Reading) -> dict[str, float]:
    preference = str(record.get("preference"))
    known = {rating.column for rating in reading.ratings}
    if preference not in known:
        raise InputError(
            "preference", preference, "unknown preference", f"Known: {', '.join(sorted(known))}."
        )
    return reading.ratings_of({preference: value})


CODE_ULTRAFEEDBACK = CatalogEntry(
    name="code-ultrafeedback",
    hub_id="coseal/CodeUltraFeedback",
    about="Four responses a programming instruction, rated for one of five coding preferences.",
    licence="MIT",
    rows=10_000,
    columns={
        "instruction": "the user's turn",
        "preference": "which of the five preferences the ratings are about",
        "responses": "model and response",
        "annotations": "model, rating (text, 1 to 5) and rationale",
    },
    ratings=tuple(paper_rating(name, f"code-{name}") for name in CODE_PREFERENCES),
    rated=Form(
        convert=code_responses, rule="one response a model, annotations joined by the model's name"
    ),
    preferences=Form(
        convert=code_pairs,
        rule="every two responses to an instruction, the higher rating chosen; ties are skipped",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
    defects=("The spelling of the values of `preference` is from memory; others are refused.",),
)

ENTRIES = (CODE_ULTRAFEEDBACK,)
