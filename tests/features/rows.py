"""Rows for feature stores, and the options of the stores that are compared byte by byte."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from armorm import Objective, ObjectiveSet, PreferencePair, RatedResponse
from tests.tiny import WORDS

OBJECTIVES = ObjectiveSet(
    [Objective(name="tone", minimum=0, maximum=4), Objective(name="safe", dataset="panel")]
)
PROMPTS = 400
OPTIONS: dict[str, Any] = {"objectives": OBJECTIVES, "shard_responses": 5}


def make_rated(prompts: int = 20, seed: int = 0) -> list[RatedResponse]:
    """Return rated rows; those of one prompt are scattered."""
    generator = random.Random(seed)
    rows = []
    for number in range(prompts):
        prompt = ({"role": "user", "content": " ".join(generator.choices(WORDS, k=8))},)
        for _ in range(generator.randint(1, 4)):
            response = " ".join(generator.choices(WORDS, k=generator.randint(1, 20)))
            ratings = {"tone": float(generator.randint(0, 4))}
            if generator.random() < 0.5:
                ratings["safe"] = float(generator.random() < 0.5)
            rows.append(
                RatedResponse(prompt, response, ratings, f"r{len(rows)}", "test", number % 5 == 0)
            )
    generator.shuffle(rows)  # rows of one prompt need not be neighbours
    return rows


def make_pairs(pairs: int = 20, seed: int = 1) -> list[PreferencePair]:
    """Return pairs, every fourth held out."""
    generator = random.Random(seed)
    rows = []
    for number in range(pairs):
        prompt = ({"role": "user", "content": f"what is {WORDS[number % 7]} ?"},)
        chosen, rejected = (" ".join(generator.choices(WORDS, k=6)) for _ in range(2))
        rows.append(
            PreferencePair(prompt, chosen, rejected, f"p{number}", "test", "even", number % 4 == 0)
        )
    return rows


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
