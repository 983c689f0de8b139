"""A dataset with an objective of its own, in one file outside the package: see CONTRIBUTING."""

from armorm import Objective
from armorm.data.catalog import CatalogEntry, Form, Rating
from armorm.data.catalog.converting import rated_response, user_turn

POLITENESS = Objective(
    name="acme-politeness", minimum=1, maximum=7, dataset="acme", description="Is it polite?"
)

ENTRY = CatalogEntry(
    name="acme-politeness",
    hub_id="acme/politeness",
    about="Answers rated for politeness.",
    licence="CC-BY-4.0",
    columns={"question": "the user's turn", "answer": "the rated response", "polite": "0 to 100"},
    ratings=(Rating(column="polite", objective=POLITENESS, minimum=0, maximum=100),),
    rated=Form(convert=rated_response(user_turn("question"), "answer"), rule="one response a row"),
)
