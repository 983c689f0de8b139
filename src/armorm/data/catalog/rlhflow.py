"""RLHFlow's sets: the paper's merged training set, and ready-made pairs in one layout."""

from __future__ import annotations

from armorm.data.catalog.converting import conversation_parts, ordered_pair, rated_row
from armorm.data.catalog.entry import (
    NOT_STATED,
    CatalogEntry,
    Checked,
    Converted,
    Form,
    Rating,
    Reading,
    Record,
)
from armorm.objectives import PAPER_OBJECTIVES, Objective


def merged_response(record: Record, reading: Reading) -> Converted:
    """Yield a conversation with the ratings that exist, as the paper merged them."""
    prompt, response = conversation_parts(record, "messages")
    yield rated_row(prompt, response, reading.ratings_of(record))


def _unit_rating(objective: Objective) -> Rating:
    """Return a rating that the merged set holds as the unit reward it is trained on."""
    return Rating(
        column=objective.name,
        objective=objective,
        minimum=objective.to_reward(objective.minimum),
        maximum=objective.to_reward(objective.maximum),
    )


MERGED = CatalogEntry(
    name="armorm-multi-objective",
    hub_id="RLHFlow/ArmoRM-Multi-Objective-Data-v0.1",
    about="The paper's merged training set: nineteen objectives, most missing in a row.",
    licence=NOT_STATED,
    columns={
        "messages": "the whole conversation",
        **dict.fromkeys(PAPER_OBJECTIVES.names, "a unit reward, or null"),
    },
    ratings=tuple(_unit_rating(objective) for objective in PAPER_OBJECTIVES),
    rated=Form(convert=merged_response, rule="one response a row"),
    verified=frozenset({"id", "columns", "licence", "scale"}),
)


def _standard(
    name: str,
    hub_id: str,
    rows: int | None,
    source: str,
    *,
    checked: tuple[Checked, ...] = ("id", "rows"),
    scored: bool = True,
) -> CatalogEntry:
    """Return an entry for RLHFlow's ready-made layout, two whole conversations."""
    return CatalogEntry(
        name=name,
        hub_id=hub_id,
        about=f"Ready-made pairs of {source}.",
        licence=f"{NOT_STATED}; that of {source}",
        rows=rows,
        columns={"chosen": "messages", "rejected": "messages"},
        preferences=Form(
            convert=ordered_pair(scores=("chosen_score", "rejected_score") if scored else None),
            rule="as its authors ordered them; equal scores, where given, are a tie",
        ),
        verified=frozenset(checked),
    )


STANDARD = (
    _standard(
        "pair-data-v2",
        "RLHFlow/pair_data_v2_80K_wsafety",
        None,
        "a mixture, the published scripts' default for stage 2",
        checked=("id", "columns"),
        scored=False,
    ),
    _standard(
        "preference-700k",
        "hendrydong/preference_700K",
        700_000,
        "a mixture of eight sets",
        checked=("id", "columns", "splits", "rows"),
    ),
    _standard(
        "ultrafeedback-standard",
        "RLHFlow/UltraFeedback-preference-standard",
        340_025,
        "UltraFeedback, the paper's reference set for debiasing",
        checked=("id", "columns"),
    ),
    _standard(
        "helpsteer-standard",
        "RLHFlow/Helpsteer-preference-standard",
        37_131,
        "HelpSteer",
        checked=("id", "columns", "rows"),
    ),
    _standard("hh-rlhf-helpful-standard", "RLHFlow/HH-RLHF-Helpful-standard", 115_000, "HH-RLHF"),
    _standard(
        "hh-rlhf-harmless-standard",
        "RLHFlow/HH-RLHF-Harmless-and-RedTeam-standard",
        42_300,
        "HH-RLHF",
    ),
    _standard("shp-standard", "RLHFlow/SHP-standard", 93_300, "SHP"),
    _standard(
        "pku-saferlhf-30k-standard", "RLHFlow/PKU-SafeRLHF-30K-standard", 26_900, "PKU-SafeRLHF-30K"
    ),
    _standard(
        "argilla-capybara-standard",
        "RLHFlow/Capybara-distibalel-Filter-standard",
        14_811,
        "Capybara-Preferences-Filtered",
        checked=("id", "columns", "splits", "rows"),
    ),
    _standard(
        "argilla-math-standard",
        "RLHFlow/Argilla-Math-DPO-standard",
        2_420,
        "distilabel-math-preference-dpo",
    ),
    _standard(
        "argilla-orca-standard",
        "RLHFlow/Orca-distibalel-standard",
        6_930,
        "distilabel-intel-orca-dpo-pairs",
    ),
    _standard(
        "code-ultrafeedback-standard",
        "RLHFlow/CodeUltraFeedback-standard",
        50_156,
        "CodeUltraFeedback",
    ),
    _standard(
        "preference-collection-standard",
        "RLHFlow/Prometheus2-preference-standard",
        200_000,
        "Preference-Collection",
    ),
    _standard("prm-phase2-standard", "RLHFlow/PRM-Phase2-standard", 80_000, "PRM800K", checked=()),
)

ENTRIES = (MERGED, *STANDARD)
