"""SHP: votes on two comments under one post; adjacent records share the post."""

from __future__ import annotations

from armorm.data.catalog.converting import pair_row, text_of, user_turn
from armorm.data.catalog.entry import (
    NOT_STATED,
    CatalogEntry,
    Converted,
    Form,
    Option,
    Reading,
    Record,
    Row,
)
from armorm.errors import InputError, SkippedRowError


def shp_pairs(group: Record, reading: Reading) -> Converted:
    """Yield the comment with more votes, where they differ enough; a few pairs for each post."""
    kept = 0
    for record in group["records"]:
        try:
            row = _shp_pair(record, reading.options["min_ratio"])
        except InputError as error:
            yield error
            continue
        kept += 1
        if kept > reading.options["per_post"]:
            yield SkippedRowError(
                "post_id", group["post_id"], "enough pairs of this post", "An option."
            )
        else:
            yield row


def _shp_pair(record: Record, min_ratio: float) -> Row:
    ratio = record.get("score_ratio")
    if not isinstance(ratio, int | float):
        raise InputError("score_ratio", ratio, "not a number", "Has the layout changed?")
    if not ratio >= min_ratio:
        raise SkippedRowError(
            "score_ratio", ratio, "votes too close (min_ratio)", "Skipped by option."
        )
    label = record.get("labels")
    if label not in (0, 1):
        raise InputError("labels", label, "neither 0 nor 1", "Has the layout changed?")
    first, second = text_of(record, "human_ref_A"), text_of(record, "human_ref_B")
    chosen, rejected = (first, second) if label == 1 else (second, first)
    return pair_row(user_turn("history")(record), chosen, rejected, record.get("domain"))


SHP = CatalogEntry(
    name="shp",
    hub_id="stanfordnlp/SHP",
    about="Pairs of comments on Reddit posts, by votes.",
    licence=f"{NOT_STATED}; subject to Reddit's terms",
    rows=348_718,
    other_splits=("validation", "test"),
    columns={
        "post_id": "the post",
        "domain": "subreddit and split",
        "history": "the post, the user's turn",
        "human_ref_A": "a comment",
        "human_ref_B": "another comment",
        "labels": "1: A is preferred, 0: B is",
        "score_ratio": "votes of the preferred comment over those of the other",
    },
    preferences=Form(
        convert=shp_pairs,
        rule="the comment with more votes, where the ratio is large enough",
        group="post_id",
        options={
            "min_ratio": Option(default=2.0, meaning="Least ratio of votes."),
            "per_post": Option(default=5, meaning="Most pairs of one post."),
        },
    ),
    verified=frozenset({"id"}),
)

ENTRIES = (SHP,)
