"""PRM800K: solutions step by step, each step with alternatives rated -1, 0 or 1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from armorm.data.catalog.converting import pair_or_tie, user_turn
from armorm.data.catalog.entry import CatalogEntry, Converted, Form, Option, Reading, Record
from armorm.errors import SkippedRowError


def prm800k_pairs(record: Record, reading: Reading) -> Converted:
    """Yield, at each step, a right against a wrong continuation of the same solution so far."""
    question = record.get("question") or {}
    prompt = user_turn("problem")(question)
    steps = (record.get("label") or {}).get("steps") or []
    so_far: list[str] = []
    made = 0
    for step in steps:
        completions = step.get("completions") or []
        right, wrong = _step_texts(completions, 1), _step_texts(completions, -1)
        pairs = itertools.islice(itertools.product(right, wrong), reading.options["per_step"])
        for good, bad in pairs:
            made += 1
            yield from pair_or_tie(prompt, "\n".join([*so_far, good]), "\n".join([*so_far, bad]))
        taken = _step_taken(step, completions)
        if taken is None:
            break
        so_far.append(taken)
    if not made:
        yield SkippedRowError(
            "label.steps", len(steps), "no step with a right and a wrong continuation", "No pair."
        )


def _step_texts(completions: list[Record], rating: int) -> Iterator[str]:
    for completion in completions:
        text = completion.get("text")
        if completion.get("rating") == rating and isinstance(text, str) and text.strip():
            yield text


def _step_taken(step: Record, completions: list[Record]) -> str | None:
    chosen = step.get("chosen_completion")
    if isinstance(chosen, int) and 0 <= chosen < len(completions):
        return completions[chosen].get("text")
    human = step.get("human_completion") or {}
    return human.get("text")


PRM800K = CatalogEntry(
    name="prm800k-phase2",
    hub_id="tasksource/PRM800K",
    data_files="phase2_train.jsonl",
    about="Step by step solutions, each step's alternatives labelled right, neutral or wrong.",
    licence="MIT",
    columns={
        "question": "problem, the user's turn",
        "label": "steps, each with completions (text, rating -1, 0 or 1) and the one taken",
    },
    preferences=Form(
        convert=prm800k_pairs,
        rule="at each step a right against a wrong continuation of the same solution so far",
        options={"per_step": Option(default=1, meaning="Most pairs of one step.")},
    ),
    verified=frozenset({"id", "columns", "licence"}),
    defects=("Copy on the hub of the labels in github.com/openai/prm800k.",),
)

ENTRIES = (PRM800K,)
