"""PKU's safety sets: BeaverTails and PKU-SafeRLHF."""

from __future__ import annotations

from armorm.data.catalog.converting import labelled_pair, rated_response, user_turn
from armorm.data.catalog.entry import CatalogEntry, Form, Option, Reading, Record, paper_rating

BEAVERTAILS = CatalogEntry(
    name="beavertails-30k",
    hub_id="PKU-Alignment/BeaverTails",
    about="Answers to harmful questions, judged safe or not.",
    licence="CC-BY-NC-4.0",
    splits=("30k_train",),
    other_splits=("30k_test", "330k_train", "330k_test"),
    columns={
        "prompt": "the user's turn",
        "response": "the judged response",
        "is_safe": "true or false",
    },
    ratings=(paper_rating("is_safe", "beavertails-is_safe"),),
    rated=Form(convert=rated_response(user_turn("prompt"), "response"), rule="one response a row"),
    verified=frozenset({"id", "splits", "licence", "scale"}),
)


def _by_response_id(record: Record, reading: Reading) -> bool | None:
    preferred = record.get(f"{reading.options['by']}_response_id")
    return preferred == 0 if preferred in (0, 1) else None


PKU_SAFERLHF = CatalogEntry(
    name="pku-saferlhf-30k",
    hub_id="PKU-Alignment/PKU-SafeRLHF-30K",
    about="Two answers to a harmful question, labelled by helpfulness and by safety.",
    licence="CC-BY-NC-4.0",
    other_splits=("test",),
    columns={
        "prompt": "the user's turn",
        "response_0": "the first response",
        "response_1": "the second response",
        "better_response_id": "0 or 1: the more helpful one",
        "safer_response_id": "0 or 1: the safer one",
    },
    preferences=Form(
        convert=labelled_pair(user_turn("prompt"), ("response_0", "response_1"), _by_response_id),
        rule="the better one, or by option the safer one",
        options={
            "by": Option(
                default="better", meaning="Label that decides.", choices=("better", "safer")
            )
        },
    ),
    verified=frozenset({"id", "licence"}),
)

ENTRIES = (
    BEAVERTAILS,
    PKU_SAFERLHF,
)
