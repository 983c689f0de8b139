"""UltraFeedback: an instruction, and completions with four aspects and an overall score."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from armorm.data.catalog.converting import ordered_pair, ranked_pairs, rated_row, text_of, user_turn
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

ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")


def ultrafeedback_responses(record: Record, reading: Reading) -> Converted:
    """Yield a rated response for each completion."""
    prompt = user_turn("instruction")(record)
    for completion in _completions(record):
        try:
            ratings = reading.ratings_of(_ultrafeedback_values(completion))
            yield rated_row(prompt, text_of(completion, "response"), ratings)
        except InputError as error:
            yield error.within("completions")


def ultrafeedback_pairs(record: Record, reading: Reading) -> Converted:
    """Yield every two completions, ranked by the mean of the aspects or by the overall score."""
    scored: list[tuple[str, float | None]] = []
    for completion in _completions(record):
        try:
            ratings = reading.ratings_of(_ultrafeedback_values(completion))
            response = text_of(completion, "response")
        except InputError as error:
            yield error.within("completions")
            continue
        scored.append((response, _ultrafeedback_score(ratings, reading.options["by"])))
    yield from ranked_pairs(user_turn("instruction")(record), scored)


def _completions(record: Record) -> list[Record]:
    completions = record.get("completions")
    if not isinstance(completions, list):
        raise InputError("completions", completions, "not a list", "Has the layout changed?")
    return completions


def _ultrafeedback_values(completion: Record) -> dict[str, Any]:
    annotations = completion.get("annotations") or {}
    aspects = {aspect: (annotations.get(aspect) or {}).get("Rating") for aspect in ASPECTS}
    return {"overall_score": completion.get("overall_score"), **aspects}


def _ultrafeedback_score(ratings: Mapping[str, float], by: str) -> float | None:
    if by == "overall":
        return ratings.get("ultrafeedback-overall_score")
    aspects = [ratings.get(f"ultrafeedback-{aspect}") for aspect in ASPECTS]
    known = [value for value in aspects if value is not None]
    # A mean over fewer aspects is not comparable with one over all four.
    return fmean(known) if len(known) == len(ASPECTS) else None


ULTRAFEEDBACK = CatalogEntry(
    name="ultrafeedback",
    hub_id="openbmb/UltraFeedback",
    about="Four completions an instruction, each rated by GPT-4 for four aspects and overall.",
    licence="MIT",
    rows=63_967,
    columns={
        "instruction": "the user's turn",
        "completions": "model, response, overall_score and annotations.{aspect}.Rating of each",
    },
    ratings=(
        paper_rating("overall_score", "ultrafeedback-overall_score"),
        *(paper_rating(aspect, f"ultrafeedback-{aspect}") for aspect in ASPECTS),
    ),
    rated=Form(
        convert=ultrafeedback_responses,
        rule="one response a completion; the model's own system prompt is not part of the prompt",
    ),
    preferences=Form(
        convert=ultrafeedback_pairs,
        rule="every two completions of an instruction, the higher one chosen; ties are skipped",
        options={
            "by": Option(
                default="aspects",
                meaning="Rank by the mean of the four aspects, or by the overall score.",
                choices=("aspects", "overall"),
            )
        },
    ),
    verified=frozenset({"id", "columns", "rows", "licence", "scale"}),
    defects=(
        "Its first release had 2,628 completions with an overall score of 10 where 1 was meant; "
        "its authors corrected it in December 2023. Pairs by aspects do not depend on that score.",
    ),
)

ULTRAFEEDBACK_CLEANED = CatalogEntry(
    name="ultrafeedback-cleaned",
    hub_id="argilla/ultrafeedback-binarized-preferences-cleaned",
    about="UltraFeedback's best completion against another, TruthfulQA prompts removed.",
    licence="MIT",
    rows=60_917,
    columns={
        "chosen": "messages",
        "rejected": "messages",
        "chosen-rating": "mean of the four aspects",
        "rejected-rating": "mean of the four aspects",
    },
    preferences=Form(
        convert=ordered_pair(scores=("chosen-rating", "rejected-rating")),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id"}),
)

ENTRIES = (
    ULTRAFEEDBACK,
    ULTRAFEEDBACK_CLEANED,
)
