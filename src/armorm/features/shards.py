"""Shards of a feature store: planned from the rows, read into tokens, computed and written."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int

from armorm.computed_labels import CountTokens
from armorm.conversations import (
    ConversationEncoder,
    EncodedPrompt,
    OverlongError,
    PreferencePair,
    RatedResponse,
    prompt_key,
    row_key,
)
from armorm.errors import InputError
from armorm.features.engines import FeatureBackbone
from armorm.features.merging import merge_prompts
from armorm.features.store_format import RATING_COLUMN, TOO_LONG, index_table
from armorm.features.store_writing import StoreWriter
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance

Row = RatedResponse | PreferencePair

InvalidRows = Literal["error", "skip"]
"""Treatment of rows that the chat template refuses."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Rows of one shard.

    Attributes:
        rows: Numbers of the rows. Shape (rows,).
        responses: Number of their responses.
    """

    rows: Int[np.ndarray, " rows"]
    responses: int


def plan_shards(rows: Iterable[Row], shard_responses: int) -> list[ShardPlan]:
    """Cut rows into shards, rows of one prompt together, in order of appearance.

    Memory for some hundred bytes per row suffices, however long the texts are.
    """
    prompts, responses = array("Q"), array("q")
    for row in rows:
        prompts.append(int(prompt_key(row.prompt)[:16], 16))
        responses.append(len(row.responses))
    counts = np.array(responses)
    _, first, group = np.unique(np.array(prompts), return_index=True, return_inverse=True)
    order = np.argsort(first[group], kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, len(order))
    done = np.cumsum(counts[order])[ends - 1]  # responses up to the end of each group of rows
    shards: list[ShardPlan] = []
    start = before = 0
    while start < len(order):
        last = min(int(np.searchsorted(done, before + shard_responses)), len(ends) - 1)
        end, after = int(ends[last]), int(done[last])
        shards.append(ShardPlan(order[start:end], after - before))
        start, before = end, after
    return shards


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """Rows of a shard as tokens.

    Attributes:
        members: The rows with their numbers.
        conversations: For each row, its ids, or the reason why it is skipped.
    """

    members: list[tuple[int, Row]]
    conversations: list[EncodedPrompt | str]

    @property
    def responses(self) -> int:
        """Number of responses, those of skipped rows included."""
        return sum(len(row.responses) for _, row in self.members)


def encode_shard(
    members: list[tuple[int, Row]], encoder: ConversationEncoder, invalid: InvalidRows
) -> EncodedShard:
    """Render and tokenise the rows of a shard.

    Raises:
        OverlongError: A row is too long, and the encoder's policy is ``error``.
        InputError: The template refuses a row, and ``invalid`` is ``error``.
    """
    return EncodedShard(members, [_encode(row, encoder, invalid) for _, row in members])


def _encode(row: Row, encoder: ConversationEncoder, invalid: InvalidRows) -> EncodedPrompt | str:
    try:
        return encoder.encode(row.prompt, row.responses)
    except InputError as error:
        too_long = isinstance(error, OverlongError)
        if encoder.overlong == "error" if too_long else invalid == "error":
            named = f"{error.field} of the row {row.id!r}" if row.id else error.field
            raise replace(error, field=named, file=row.source or None) from None
        return TOO_LONG if too_long else error.reason


def extract_shard(
    shard: int,
    encoded: EncodedShard,
    backbone: FeatureBackbone,
    writer: StoreWriter,
    advance: Advance,
) -> Counter[str]:
    """Compute and write one shard; return counts of the work.

    Raises:
        NonFiniteError: A state is NaN or infinite.
    """
    columns = ObjectiveSet(writer.manifest.objectives) if writer.manifest.objectives else None
    count_tokens = backbone.encoder.count_tokens
    present = [one for one in encoded.conversations if isinstance(one, EncodedPrompt)]
    merged = merge_prompts(present)
    cuts = writer.manifest.cuts
    features = backbone.features(
        merged.prompts,
        lambda done: advance(encoded.responses * done / max(merged.tokens, 1), done),
        *([cuts.reader(backbone.encoder)] if cuts is not None else []),
    )
    prompt_numbers, first_response = iter(merged.prompt_numbers), 0
    lines: list[dict[str, object]] = []
    for (number, row), one in zip(encoded.members, encoded.conversations, strict=True):
        prompt = next(prompt_numbers) if isinstance(one, EncodedPrompt) else None
        place = {"row": number, "shard": shard, "prompt": prompt}
        labels = [_labels(row, text, columns, count_tokens) for text in row.responses]
        lines += [{**place, **line} for line in _index_lines(row, one, first_response, labels)]
        first_response += len(one.sequences) if isinstance(one, EncodedPrompt) else 0
    # A prompt's state is stored once, but equal responses one by one: the rows of the features are
    # those lines of the index that have features.
    numbers = merged.response_numbers
    tokens = tuple(features.tokens[i] for i in numbers) if features.tokens else ()
    features = replace(features, responses=features.responses[numbers], tokens=tokens)
    for line, states in zip((one for one in lines if "response" in one), tokens, strict=False):
        line["prefixes"] = len(states)
    writer.write_shard(shard, features, index_table(lines, columns.names if columns else ()))
    return Counter(
        shards=1,
        responses=len(features.responses),
        prompts=len(features.prompts),
        tokens=sum(one.tokens for one in present),
        computed_tokens=features.computed_tokens or 0,
    )


def _labels(
    row: Row, response: str, objectives: ObjectiveSet | None, count_tokens: CountTokens
) -> dict[str, float]:
    """Return the ratings of a response and the labels that are computed from it."""
    if objectives is None:
        return {}
    ratings = row.ratings if isinstance(row, RatedResponse) else {}
    rated = {name: rating for name, rating in ratings.items() if name in objectives.names}
    return {**rated, **objectives.computed_labels(response, count_tokens)}


def _index_lines(
    row: Row,
    encoded: EncodedPrompt | str,
    first_response: int,
    labels: Sequence[Mapping[str, float]],
) -> list[dict[str, object]]:
    """Return the lines of the index for a row, one for each response."""
    key = row_key(row)
    sides: tuple[str, ...] = ("rated",)
    subset = row.source
    if isinstance(row, PreferencePair):
        sides, subset = ("chosen", "rejected"), row.subset
    lines: list[dict[str, object]] = []
    for number, (side, text) in enumerate(zip(sides, row.responses, strict=True)):
        line: dict[str, object] = {
            "side": side,
            "id": row.id,
            "prompt_key": prompt_key(row.prompt),
            "row_key": key,
            "source": row.source,
            "subset": subset,
            "held_out": row.held_out,
            "characters": len(text),
            **{RATING_COLUMN + name: label for name, label in labels[number].items()},
        }
        if isinstance(encoded, EncodedPrompt):
            line["response"] = first_response + number
            line["tokens"] = len(encoded.sequences[number])
            line["dropped_turns"] = encoded.dropped_turns
        else:
            line["skipped"] = encoded
        lines.append(line)
    return lines
