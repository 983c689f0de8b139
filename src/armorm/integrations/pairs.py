"""Preference pairs from annotated candidates, for DPO and reward training in TRL's format."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from armorm.conversations import Conversation, located_in, validate_prompt
from armorm.conversations.messages import Tally
from armorm.data.sources import file_rows
from armorm.errors import InputError
from armorm.files import json_line, write_atomically
from armorm.integrations.completions import completion_text

PairChoice = Literal["max_min", "max_max", "max_random", "max_min_p", "random"]
"""Which two candidates make a pair (the names of Online-RLHF).

``max_min``: best against worst.  ``max_max``: best against second best.  ``max_random``: best
against any other.  ``max_min_p``: best against worst after a penalty per character.  ``random``:
any two, the better one chosen.
"""


@dataclass(frozen=True, slots=True)
class PairsSummary:
    """What :func:`write_pairs` did.

    Attributes:
        rows: Prompts read.
        pairs: Pairs written.
        skipped: Prompts left out, by reason.
    """

    rows: int
    pairs: int
    skipped: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose_pair(
    values: Sequence[float], choice: PairChoice, generator: random.Random
) -> tuple[int, int]:
    """Positions of the chosen and the rejected candidate.

    Args:
        values: One per candidate, at least two; the higher the better.
        choice: See :data:`PairChoice`.
        generator: For the random choices.
    """
    # Of equals the first counts as the better one, so that the same file gives the same pairs.
    ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if choice == "max_max":
        return ranked[0], ranked[1]
    if choice == "max_random":
        return ranked[0], generator.choice(ranked[1:])
    if choice == "random":
        better, worse = sorted(generator.sample(ranked, 2), key=ranked.index)
        return better, worse
    return ranked[0], ranked[-1]


def write_pairs(
    source: Path,
    output: Path,
    *,
    choice: PairChoice = "max_min",
    min_margin: float = 0.0,
    length_penalty: float = 0.0,
    seed: int = 0,
    skip_invalid: bool = False,
) -> PairsSummary:
    """Turn annotated candidates into preference pairs.

    Rows in: ``{"prompt", "responses": [text], "rewards": [number]}``, as ``armorm annotate``
    writes them.  Rows out: ``{"prompt": [messages], "chosen": [message], "rejected": [message],
    "margin": number}``, which TRL's DPO and reward trainers read.  The margin is the difference
    of the rewards, under ``max_min_p`` after the penalty; a pair needs one above ``min_margin``,
    and a tie is never a pair.

    Args:
        source: Annotated candidates.
        output: JSON lines.
        choice: See :data:`PairChoice`.
        min_margin: Smallest margin, exclusive.
        length_penalty: Reward taken off per character, for ``max_min_p``.
        seed: For the random choices.
        skip_invalid: Count bad rows instead of stopping.

    Raises:
        InputError: a row is invalid, unless ``skip_invalid``.
    """
    tally = Tally()
    generator = random.Random(seed)
    penalty = length_penalty if choice == "max_min_p" else 0.0
    lines = []
    for prompt, texts, rewards in _annotated_rows(source, tally, skip_invalid):
        values = [r - penalty * len(text) for r, text in zip(rewards, texts, strict=True)]
        chosen, rejected = choose_pair(values, choice, generator)
        margin = values[chosen] - values[rejected]
        if margin == 0 or texts[chosen] == texts[rejected]:
            tally.skip("a tie")
        elif margin <= min_margin:
            tally.skip(f"margin not above {min_margin:g}")
        else:
            tally.kept += 1
            pair = _pair(prompt, texts[chosen], texts[rejected], margin)
            lines.append(json_line(pair))
    write_atomically(output, b"".join(lines))
    return PairsSummary(tally.read, tally.kept, dict(sorted(tally.skipped.items())))


def _annotated_rows(
    source: Path, tally: Tally, skip_invalid: bool
) -> Iterator[tuple[Conversation, list[str], list[float]]]:
    """Prompt, responses and rewards of each row that has at least two responses."""
    for raw in file_rows(source):
        tally.read += 1
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            row = _candidates(raw.fields)
        except InputError as error:
            if not skip_invalid:
                raise error.at(raw.file, raw.row) from None
            tally.skip(error.reason)
            continue
        if len(row[1]) < 2:
            tally.skip("fewer than two responses")
            continue
        yield row


def _pair(prompt: Conversation, chosen: str, rejected: str, margin: float) -> dict[str, Any]:
    return {
        "prompt": [dict(message) for message in prompt],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "margin": margin,
    }


def _candidates(row: Mapping[str, Any]) -> tuple[Conversation, list[str], list[float]]:
    prompt = located_in("prompt", validate_prompt, row.get("prompt"))
    texts = response_texts(row.get("responses"))
    rewards = row.get("rewards")
    if (
        not isinstance(rewards, list)
        or len(rewards) != len(texts)
        or not all(isinstance(r, int | float) and r == r for r in rewards)
    ):
        raise InputError(
            "rewards",
            rewards,
            f"not one number for each of {len(texts)} responses",
            "Annotate the file with `armorm annotate`.",
        )
    return prompt, texts, [float(reward) for reward in rewards]


def response_texts(value: object) -> list[str]:
    """The candidates of a row; each text, or a list with one assistant message.

    Raises:
        InputError: naming the first that is wrong.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(
            "responses", value, "not a list of responses", 'Write {"prompt": …, "responses": […]}.'
        )
    return [
        located_in(f"responses[{i}]", completion_text, response) for i, response in enumerate(value)
    ]
