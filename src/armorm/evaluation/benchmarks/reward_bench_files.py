"""Result files of RewardBench's own program, read and written.

Names and fields are those of the program `rewardbench` 0.1.4: ``<model>_outputs.jsonl`` with a
row per pair, and ``<model>.json`` with the summary.  A tie counts as wrong there as here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from armorm.conversations import PreferencePair, located_in, validate_prompt
from armorm.conversations.encoding import ConversationEncoder
from armorm.conversations.messages import with_response
from armorm.data.sources import file_rows
from armorm.errors import InputError
from armorm.evaluation.scorers.base import Scored, ScoredRow
from armorm.files import json_line, write_atomically, write_json

ScoredPair = ScoredRow[PreferencePair]


def write_rewardbench_results(
    folder: Path, name: str, encoder: ConversationEncoder, scored: Sequence[ScoredPair]
) -> tuple[Path, Path]:
    """Write both result files.

    Args:
        folder: Folder to write into.
        name: The model's name; a path or hub id is shortened to its last part.
        encoder: Renders ``text_chosen`` and ``text_rejected`` as the model read them.
        scored: Pairs with their scores.

    Returns:
        The file of rows and the summary.
    """
    short = Path(name).name
    rows = b"".join(json_line(_output_row(encoder, one)) for one in scored)
    outputs = folder / f"{short}_outputs.jsonl"
    write_atomically(outputs, rows)
    right = sum(one.margin > 0 for one in scored)
    summary = {
        "accuracy": right / len(scored) if scored else None,
        "num_prompts": len(scored),
        "model": name,
        "ref_model": None,
        "tokenizer": name,
        "chat_template": "tokenizer",
        "extra_results": _accuracy_by_subset(scored),
    }
    results = folder / f"{short}.json"
    write_json(results, summary)
    return outputs, results


def read_rewardbench_outputs(file: Path) -> list[ScoredPair]:
    """Return the scored pairs of a ``_outputs.jsonl``, this program's or RewardBench's own.

    Raises:
        InputError: A row has no finite scores, or no prompt.
    """
    scored = []
    for raw in file_rows(file):
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            scored.append(_scored_pair(raw.fields))
        except InputError as error:
            raise error.at(raw.file, raw.row) from None
    return scored


def _output_row(encoder: ConversationEncoder, one: ScoredPair) -> dict[str, Any]:
    pair = one.row
    return {
        "prompt": [dict(message) for message in pair.prompt],
        "results": int(one.margin > 0),
        "scores_chosen": one.scores[0],
        "scores_rejected": one.scores[1],
        "text_chosen": encoder.render(with_response(pair.prompt, pair.chosen)),
        "text_rejected": encoder.render(with_response(pair.prompt, pair.rejected)),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "id": pair.id,
        "subset": pair.subset,
    }


def _accuracy_by_subset(scored: Sequence[ScoredPair]) -> dict[str, float]:
    margins: dict[str, list[float]] = {}
    for one in scored:
        margins.setdefault(one.row.subset, []).append(one.margin)
    return {
        subset: sum(margin > 0 for margin in values) / len(values)
        for subset, values in sorted(margins.items())
    }


def _scored_pair(row: Mapping[str, Any]) -> ScoredPair:
    chosen, rejected = (_score(row, f"scores_{side}") for side in ("chosen", "rejected"))
    pair = PreferencePair(
        prompt=located_in("prompt", validate_prompt, row.get("prompt")),
        chosen=str(row.get("chosen") or row.get("text_chosen") or ""),
        rejected=str(row.get("rejected") or row.get("text_rejected") or ""),
        id="" if row.get("id") is None else str(row["id"]),
        subset="" if row.get("subset") is None else str(row["subset"]),
    )
    return ScoredRow(pair, Scored((chosen, rejected)))


def _score(row: Mapping[str, Any], field: str) -> float:
    value = row.get(field)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        score = float(value)
        if not math.isfinite(score):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            field, value, "not a finite number", "Is this a RewardBench _outputs.jsonl?"
        ) from None
    return score
