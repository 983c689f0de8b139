"""Separation of training and held-out rows: no prompt is on both sides in any stage."""

from __future__ import annotations

from array import array
from typing import TypeVar

from armorm.conversations import PreferencePair, RatedResponse, prompt_key
from armorm.data.reading import Loaded

Row = TypeVar("Row", RatedResponse, PreferencePair)

LEAK = "training row of a prompt that is held out elsewhere"


def separate_prompts(rated: Loaded[RatedResponse], pairs: Loaded[PreferencePair]) -> None:
    """Drop, and count, the training rows whose prompt is held out in either dataset.

    A split by prompt hash never needs this; a split taken from columns may.
    """
    held_out = held_out_prompts(rated) | held_out_prompts(pairs)
    keep_apart(rated, held_out)
    keep_apart(pairs, held_out)


def held_out_prompts(loaded: Loaded[Row]) -> set[str]:
    """Return the keys of the prompts that are held out."""
    return {prompt_key(row.prompt) for row in loaded.rows if row.held_out}


def keep_apart(loaded: Loaded[Row], held_out: set[str]) -> None:
    """Drop, and count, the training rows of these prompts."""
    numbers = (
        number
        for number, row in enumerate(loaded.rows)
        if row.held_out or prompt_key(row.prompt) not in held_out
    )
    kept = array("q", numbers)
    if len(kept) == len(loaded.rows):
        return
    for _ in range(len(loaded.rows) - len(kept)):
        loaded.tally.skip(LEAK)
    loaded.tally.kept = len(kept)
    loaded.rows = loaded.rows.select(kept)
