"""The built-in corpus with planted truth; the only entry that needs no hub."""

from __future__ import annotations

from armorm.data.catalog.entry import CatalogEntry, Converted, Form, Option, Rating, Reading, Record
from armorm.quickstart import DECIDING_OBJECTIVE, QUICKSTART_OBJECTIVES, generate_corpus


def _unchanged(record: Record, _: Reading) -> Converted:
    """Yield the record, which is a row already."""
    yield dict(record)


CORPUS_SEED = {"seed": Option(default=0, meaning="Seed that the corpus is made from.")}

QUICKSTART = CatalogEntry(
    name="quickstart",
    hub_id="in the package",
    about="The built-in corpus with planted truth, rated for objectives of its own.",
    licence="Apache-2.0",
    columns={"domain": "topic of the question"},
    ratings=tuple(
        Rating(column=f"ratings.{objective.name}", objective=objective)
        for objective in QUICKSTART_OBJECTIVES
    ),
    rated=Form(
        convert=_unchanged,
        rule="one response a row; use it with objectives: quickstart",
        options=CORPUS_SEED,
        records=lambda options: iter(generate_corpus(options["seed"]).rated),
    ),
    preferences=Form(
        convert=_unchanged,
        rule="as planted",
        options=CORPUS_SEED,
        records=lambda options: iter(generate_corpus(options["seed"]).preferences),
    ),
    planted=DECIDING_OBJECTIVE,
    mislabelled=lambda options: generate_corpus(options["seed"]).mislabelled,
    verified=frozenset({"id", "columns", "splits", "licence", "scale"}),
)

ENTRIES = (QUICKSTART,)
