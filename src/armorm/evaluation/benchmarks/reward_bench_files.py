"""Result files of RewardBench's own program, read and written.

Names and fields are those of the program `rewardbench` 0.1.4: ``<model>_outputs.jsonl`` with a
row per pair, and ``<model>.json`` with the summary.  A tie counts as wrong there as here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from armorm.conversations.messages import (
    Conversation,
    located_in,
    validate_conversation,
    validate_prompt,
    with_response,
)
from armorm.data.reading import name_in, row_name
from armorm.data.sources import file_rows
from armorm.errors import ArmormError, InputError
from armorm.evaluation.benchmarks.base import Scores
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.rows import BenchmarkData, BenchmarkRow, response_of
from armorm.evaluation.benchmarks.scores import finite_number
from armorm.evaluation.scorers.base import Scored
from armorm.files import json_line, write_atomically, write_json

Render = Callable[[Conversation], str]


def plain_text(conversation: Conversation) -> str:
    """Return a conversation as text, for scorers that have no chat template."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in conversation)


def has_rewardbench_rows(result: BenchmarkResult) -> bool:
    """Return true if every row is a pair, as RewardBench's files need it."""
    return all(row.right == 1 and len(row.responses) == 2 for row in result.rows)


def write_rewardbench_results(
    folder: Path, file_name: str, result: BenchmarkResult, render: Render = plain_text
) -> tuple[Path, Path]:
    """Write both result files.

    Args:
        folder: Folder to write into.
        file_name: Beginning of the names of both files.
        result: Result on pairs.
        render: Turns a conversation into the text that the model read.

    Returns:
        The file of rows and the summary.
    """
    outputs, summary = folder / f"{file_name}_outputs.jsonl", folder / f"{file_name}.json"
    rows = zip(result.rows, result.scores, strict=True)
    write_atomically(
        outputs, b"".join(json_line(_output_row(row, scores, render)) for row, scores in rows)
    )
    write_json(
        summary,
        {
            "accuracy": float(result.credits.mean()),
            "num_prompts": len(result.rows),
            "model": result.scorer,
            "ref_model": None,
            "tokenizer": result.scorer,
            "chat_template": "tokenizer",
            "extra_results": {name: one.value for name, one in result.whole.subsets.items()},
        },
    )
    return outputs, summary


def is_rewardbench_outputs(file: Path) -> bool:
    """Return true if the first row of a file has the fields of a ``_outputs.jsonl``."""
    first = next(file_rows(file), None)
    return (
        first is not None and isinstance(first.fields, Mapping) and "scores_chosen" in first.fields
    )


def read_rewardbench_outputs(file: Path) -> tuple[BenchmarkData, list[Scored]]:
    """Return the pairs of a ``_outputs.jsonl``, this program's or RewardBench's own, with scores.

    Raises:
        InputError: A row has no finite scores, or no prompt.
        ArmormError: There is no row.
    """
    data, scores = BenchmarkData(), []
    for raw in file_rows(file):
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            row = raw.fields
            pair = BenchmarkRow(
                located_in("prompt", validate_prompt, row.get("prompt")),
                (_text(row, "chosen"), _text(row, "rejected")),
                name_in(row, "id") or row_name(raw),
                name_in(row, "subset"),
            )
            scores.append(Scored((_score(row, "scores_chosen"), _score(row, "scores_rejected"))))
        except InputError as error:
            raise error.at(raw.file, raw.row) from None
        data.rows.append(pair)
        data.places.append((raw.file, raw.row))
        data.read += 1
    if not data.rows:
        raise ArmormError(f"{file}: there is no row.")
    return data, scores


def _output_row(row: BenchmarkRow, scores: Scores, render: Render) -> dict[str, Any]:
    chosen, rejected = scores.tolist()
    return {
        "prompt": [dict(message) for message in row.prompt],
        "results": int(chosen > rejected),
        "scores_chosen": chosen,
        "scores_rejected": rejected,
        "text_chosen": render(with_response(row.prompt, row.responses[0])),
        "text_rejected": render(with_response(row.prompt, row.responses[1])),
        "chosen": row.responses[0],
        "rejected": row.responses[1],
        "id": row.id,
        "subset": row.subset,
    }


def _text(row: Mapping[str, Any], side: str) -> str:
    """Return a response, or the whole conversation as text where the program wrote only that."""
    field = f"text_{side}" if not row.get(side) and row.get(f"text_{side}") else side
    if isinstance(row.get(field), list):
        return located_in(field, validate_conversation, row[field])[1]
    return response_of(row, field)


def _score(row: Mapping[str, Any], field: str) -> float:
    value = row.get(field)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return finite_number(value, field)
