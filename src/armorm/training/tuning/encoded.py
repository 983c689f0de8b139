"""Rows as tokens on disk, to train a backbone on and to measure it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt, PreferencePair, RatedResponse
from armorm.data.rows_on_disk import DiskList
from armorm.features import Backbone

Row = TypeVar("Row", RatedResponse, PreferencePair)

ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class EncodedRows(Generic[Row]):
    """Rows with their tokens.

    Attributes:
        training: Rows to train on.
        held_out: Rows to measure on.
        too_long: Number of rows in neither, because they are longer than the backbone reads.
    """

    training: DiskList[tuple[Row, EncodedPrompt]]
    held_out: DiskList[tuple[Row, EncodedPrompt]]
    too_long: int


def encode_rows(
    rows: Sequence[Row], kind: type[Row], backbone: Backbone, folder: Path
) -> EncodedRows[Row]:
    """Encode rows.

    Args:
        rows: The rows.
        kind: Their class.
        backbone: Backbone with the encoder.
        folder: Folder for the tokens, in files without a name.
    """

    def read(record: dict[str, Any]) -> tuple[Row, EncodedPrompt]:
        tokens = record["tokens"]
        encoded = EncodedPrompt(**{**tokens, "sequences": tuple(tokens["sequences"])})
        return kind.from_record(record["row"]), encoded

    training: DiskList[tuple[Row, EncodedPrompt]] = DiskList(_record, read, folder)
    held_out: DiskList[tuple[Row, EncodedPrompt]] = DiskList(_record, read, folder)
    too_long = 0
    for row in rows:
        encoded = backbone.encoder.encode_or_skip(row.prompt, row.responses)
        if encoded is None:
            too_long += 1
        else:
            (held_out if row.held_out else training).append((row, encoded))
    return EncodedRows(training, held_out, too_long)


def rewards_of(
    rows: DiskList[tuple[Row, EncodedPrompt]],
    backbone: Backbone,
    weight: Float[Tensor, "outputs hidden"],
) -> Float[Tensor, "responses outputs"]:
    """Return the outputs of a linear head for all responses of the rows, in order, in float64.

    The hidden states are held for a part of the rows at a time.
    """
    head = weight.double().T
    parts = [torch.empty(0, len(weight), dtype=torch.float64)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        prompts = [encoded for _, encoded in rows[start : start + ROWS_AT_ONCE]]
        parts.append(backbone.features(prompts).responses.double() @ head)
    return torch.cat(parts)


def _record(item: tuple[RatedResponse | PreferencePair, EncodedPrompt]) -> dict[str, Any]:
    row, encoded = item
    return {"row": row.as_record(), "tokens": asdict(encoded)}
