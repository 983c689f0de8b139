"""Prompts for which the gate decides most unlike its mean: what it learned, by example."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from armorm.conversations import prompt_key
from armorm.data import DataSource, read_preferences
from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import Gate
from armorm.objectives import ObjectiveSet

LONGEST_TEXT = 300
"""Characters of a prompt that are kept."""


@dataclass(frozen=True, slots=True)
class MovedWeight:
    """The weight of an objective for a prompt, and its mean over the held-out prompts."""

    objective: str
    weight: float
    mean: float


@dataclass(frozen=True, slots=True)
class MovedPrompt:
    """A prompt with the gate's decision.

    Attributes:
        prompt: Beginning of the last user turn.
        source: Source of the prompt's pairs.
        moved: Share of the gate's weight that is elsewhere than on the mean prompt: half the sum
            of the absolute differences.
        weights: The objectives whose weight differs most, largest difference first.
    """

    prompt: str
    source: str
    moved: float
    weights: tuple[MovedWeight, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def moved_prompts(
    store: FeatureStore,
    pairs: PairIndex,
    gate: Gate,
    objectives: ObjectiveSet,
    texts: Path,
    most: int = 6,
) -> list[MovedPrompt]:
    """Return the held-out prompt that is moved most of each source, the most moved first.

    Args:
        store: Features of the pairs.
        pairs: All pairs.
        gate: The gate.
        objectives: Objectives of the gate's weights.
        texts: File of preference rows in which the prompts' texts are looked up; a prompt that it
            does not have is passed over.
        most: Number of prompts.
    """
    rows = read_preferences([DataSource(path=str(texts))], invalid="skip").rows
    text_by_key = {prompt_key(row.prompt): row.prompt[-1]["content"] for row in rows}
    keys = store.prompt_keys()
    held_out = pairs.where(pairs.held_out)
    source_of = dict(zip(held_out.prompt.tolist(), held_out.source, strict=True))
    prompts = np.array(sorted(source_of))
    with torch.inference_mode():
        weights = gate(store.prompt_features()[torch.from_numpy(prompts)].float()).double().numpy()
    mean = weights.mean(axis=0)
    moved = np.abs(weights - mean).sum(axis=1) / 2
    found: dict[str, MovedPrompt] = {}
    for place in np.argsort(-moved, kind="stable"):
        number = int(prompts[place])
        source, text = source_of[number], text_by_key.get(keys[number])
        if source in found or text is None:
            continue
        largest = np.argsort(-np.abs(weights[place] - mean), kind="stable")[:3]
        found[source] = MovedPrompt(
            prompt=text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…",
            source=source,
            moved=float(moved[place]),
            weights=tuple(
                MovedWeight(objectives.names[i], float(weights[place, i]), float(mean[i]))
                for i in largest
            ),
        )
        if len(found) == most:
            break
    return list(found.values())
