"""Preference pairs from annotated candidates, for DPO and reward training in TRL's format."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from armorm.conversations import Conversation, located_in, validate_prompt
from armorm.conversations.messages import Tally
from armorm.data.sources import file_rows
from armorm.errors import InputError, RecipeError, SkippedRowError
from armorm.files import exclusive, json_line, open_atomically, refuse_same_file
from armorm.integrations.completions import completion_text

PairChoice = Literal["max_min", "max_max", "max_random", "max_min_p", "random"]
"""Choice of the two candidates that make a pair (the names of Online-RLHF).

``max_min``: best against worst.  ``max_max``: best against second best.  ``max_random``: best
against any other.  ``max_min_p``: best against worst after a penalty per character.  ``random``:
any two, the better one chosen.
"""


@dataclass(frozen=True, slots=True)
class PairsSummary:
    """Counts of :func:`write_pairs`.

    Attributes:
        rows: Prompts read.
        pairs: Pairs written.
        skipped: Prompts left out, by reason.
    """

    rows: int
    pairs: int
    skipped: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-ready."""
        return asdict(self)


def choose_pair(
    values: Sequence[float], choice: PairChoice, generator: random.Random
) -> tuple[int, int]:
    """Return the positions of the chosen and the rejected candidate.

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
        InputError: A row is invalid, unless ``skip_invalid``.
        RecipeError: There is no such file, or an option is not a finite number, 0 or more.
        OutputError: The output cannot be written, or is the input.
    """
    for name, option in (("min_margin", min_margin), ("length_penalty", length_penalty)):
        if not 0 <= option < math.inf:
            raise RecipeError(f"{name} = {option}: must be a finite number, 0 or more.")
    if not source.is_file():
        raise RecipeError(f"There is no file {str(source)!r}.")
    refuse_same_file(source, output)
    tally = Tally()
    generator = random.Random(seed)
    penalty = length_penalty if choice == "max_min_p" else 0.0
    with exclusive(output, "pairs"), open_atomically(output) as lines:
        for raw in file_rows(source):
            tally.read += 1
            try:
                if isinstance(raw.fields, InputError):
                    raise raw.fields
                pair = _pair(*_candidates(raw.fields), penalty, choice, generator)
                if pair["margin"] <= min_margin:
                    raise SkippedRowError(
                        "rewards", pair["margin"], f"margin not above {min_margin:g}", ""
                    )
                lines.write(json_line(pair))
                tally.kept += 1
            except SkippedRowError as error:
                tally.skip(error.reason)
            except InputError as error:
                if not skip_invalid:
                    raise error.at(raw.file, raw.row) from None
                tally.skip(error.reason)
    return PairsSummary(tally.read, tally.kept, dict(sorted(tally.skipped.items())))


def _pair(
    prompt: Conversation,
    texts: Sequence[str],
    rewards: Sequence[float],
    penalty: float,
    choice: PairChoice,
    generator: random.Random,
) -> dict[str, Any]:
    """Return the pair of one row.

    Raises:
        SkippedRowError: The row has fewer than two responses, or the two are equally good.
        InputError: A margin is not finite.
    """
    if len(texts) < 2:
        raise SkippedRowError("responses", len(texts), "fewer than two responses", "")
    values = [r - penalty * len(text) for r, text in zip(rewards, texts, strict=True)]
    chosen, rejected = choose_pair(values, choice, generator)
    margin = values[chosen] - values[rejected]
    if not math.isfinite(margin):
        raise InputError("rewards", rewards, "too large to be subtracted", "Check the rewards.")
    if margin == 0 or texts[chosen] == texts[rejected]:
        raise SkippedRowError("rewards", margin, "a tie", "")
    return {
        "prompt": [dict(message) for message in prompt],
        "chosen": [{"role": "assistant", "content": texts[chosen]}],
        "rejected": [{"role": "assistant", "content": texts[rejected]}],
        "margin": margin,
    }


def _candidates(row: Mapping[str, Any]) -> tuple[Conversation, list[str], list[float]]:
    prompt = located_in("prompt", validate_prompt, row.get("prompt"))
    texts = response_texts(row.get("responses"))
    rewards = row.get("rewards")
    if (
        not isinstance(rewards, list)
        or len(rewards) != len(texts)
        or not all(map(_is_finite_number, rewards))
    ):
        raise InputError(
            "rewards",
            rewards,
            f"not one finite number for each of {len(texts)} responses",
            "Annotate the file with `armorm annotate`.",
        )
    return prompt, texts, [float(reward) for reward in rewards]


def _is_finite_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def response_texts(value: object) -> list[str]:
    """Return the candidates of a row; each text, or a list with one assistant message.

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
