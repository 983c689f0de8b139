"""The extraction loop: conversations in, a feature store out, resumable at any instant.

The work is cut into shards before it starts, by the data alone, so an interrupted run that
resumes writes the same bytes as one that was never interrupted.  All responses to one prompt fall
into one shard, so each prompt's feature is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from armorm.conversations import EncodedPrompt, PreferencePair, RatedResponse, prompt_key
from armorm.features.backbone import Backbone
from armorm.features.store import (
    RATING_COLUMN,
    FeatureStore,
    Manifest,
    StoreWriter,
    index_table,
)
from armorm.files import sha256_of_json
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance, progress_bar

Row = RatedResponse | PreferencePair
Rows = Sequence[Row]


def extract_features(
    rows: Rows,
    backbone: Backbone,
    path: str | Path,
    *,
    objectives: ObjectiveSet | None = None,
    feature_dtype: str = "float32",
    shard_responses: int = 2048,
    show_progress: bool = False,
) -> FeatureStore:
    """Compute and store the features of rated responses or preference pairs.

    Args:
        rows: All of one kind.
        backbone: The frozen model.
        path: Folder of the store.  A finished one is returned as it is; an unfinished one is
            taken up after its last whole shard.
        objectives: The objectives of rated rows; their ratings go into the index.
        feature_dtype: ``float32``, ``bfloat16`` or ``float16`` on disk.
        shard_responses: A shard is closed when it holds this many responses.
        show_progress: Draw a progress bar on standard error.

    Raises:
        StoreError: the folder holds a store of another backbone, template, dtype or data.
        OverlongError: a conversation is too long and the backbone's policy is ``error``.
    """
    kind = "preferences" if rows and isinstance(rows[0], PreferencePair) else "rated"
    plan = plan_shards(rows, shard_responses)
    manifest = Manifest(
        kind=kind,
        backbone=backbone.identity,
        feature_dtype=feature_dtype,
        max_length=backbone.encoder.max_length,
        overlong=backbone.encoder.overlong,
        data_sha256=hash_rows(rows),
        rows=len(rows),
        shards=len(plan),
        shard_responses=shard_responses,
        objectives=list(objectives or ()),
    )
    writer = StoreWriter(Path(path), manifest)
    if writer.manifest.complete:
        return writer.finish()
    names = objectives.names if objectives else ()
    responses = sum(len(row.responses) for row in rows)
    with progress_bar(f"features ({kind})", responses, "responses", show_progress) as advance:
        for shard, members in enumerate(plan):
            if writer.is_done(shard):
                advance(sum(len(rows[i].responses) for i in members))
            else:
                _extract_shard(shard, members, rows, backbone, writer, names, advance)
    return writer.finish()


def plan_shards(rows: Rows, shard_responses: int) -> list[list[int]]:
    """Positions of the rows of each shard, rows of one prompt together, in order of appearance."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(prompt_key(row.prompt), []).append(i)
    shards: list[list[int]] = []
    filled = shard_responses
    for members in groups.values():
        if filled >= shard_responses:
            shards.append([])
            filled = 0
        shards[-1].extend(members)
        filled += sum(len(rows[i].responses) for i in members)
    return shards


def hash_rows(rows: Rows) -> str:
    """A fingerprint of everything in the rows that ends up in a store."""
    digest = hashlib.sha256()
    for row in rows:
        ratings = sorted(row.ratings.items()) if isinstance(row, RatedResponse) else None
        fields = [row.prompt, row.responses, row.id, row.source, row.held_out, ratings]
        subset = row.subset if isinstance(row, PreferencePair) else None
        line = json.dumps([*fields, subset], ensure_ascii=False)
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def content_key(prompt: str, response: str, ratings: Mapping[str, float]) -> str:
    """What a rated row is known by: a hash of its prompt's key, its response and its ratings."""
    return sha256_of_json([prompt, response, dict(ratings)])[:32]


def _extract_shard(
    shard: int,
    members: Sequence[int],
    rows: Rows,
    backbone: Backbone,
    writer: StoreWriter,
    objectives: Sequence[str],
    advance: Advance,
) -> None:
    encoded = [backbone.encoder.encode(rows[i].prompt, rows[i].responses) for i in members]
    prompts, numbers = _merge_prompts(encoded)
    tokens = sum(prompt.tokens for prompt in prompts)
    responses = sum(len(rows[i].responses) for i in members)
    features = backbone.features(prompts, lambda done: advance(responses * done / max(tokens, 1)))
    lines = []
    for member, conversation, (prompt, first) in zip(members, encoded, numbers, strict=True):
        lines += _index_lines(shard, member, rows[member], conversation, prompt, first, objectives)
    writer.write_shard(shard, features, index_table(lines, objectives))


def _merge_prompts(
    encoded: Sequence[EncodedPrompt | None],
) -> tuple[list[EncodedPrompt], list[tuple[int, int]]]:
    """Rows that share a prompt become one prompt with all their responses.

    Returns:
        The merged prompts, and for each row its prompt number and first response number (both
        -1 for a skipped row).  A row's responses stay next to each other.
    """
    sequences: dict[tuple[int, ...], list[list[int]]] = {}
    places: list[tuple[tuple[int, ...], int] | None] = []
    for conversation in encoded:
        if conversation is None:
            places.append(None)
            continue
        mine = sequences.setdefault(conversation.prompt_ids, [])
        places.append((conversation.prompt_ids, len(mine)))
        mine.extend(conversation.sequences)
    number: dict[tuple[int, ...], int] = {}
    start: dict[tuple[int, ...], int] = {}
    merged: list[EncodedPrompt] = []
    total = 0
    for key, all_responses in sequences.items():
        number[key], start[key] = len(merged), total
        total += len(all_responses)
        merged.append(EncodedPrompt(tuple(all_responses), len(key) - 1))
    numbers = [
        (-1, -1) if place is None else (number[place[0]], start[place[0]] + place[1])
        for place in places
    ]
    return merged, numbers


def _index_lines(
    shard: int,
    member: int,
    row: Row,
    encoded: EncodedPrompt | None,
    prompt: int,
    first_response: int,
    objectives: Sequence[str],
) -> list[dict[str, object]]:
    key = prompt_key(row.prompt)
    sides: tuple[str, ...] = ("rated",)
    subset, ratings = row.source, {}
    if isinstance(row, PreferencePair):
        sides, subset = ("chosen", "rejected"), row.subset
    else:
        ratings = dict(row.ratings)
    lines: list[dict[str, object]] = []
    for number, (side, text) in enumerate(zip(sides, row.responses, strict=True)):
        lines.append(
            {
                "row": member,
                "side": side,
                "id": row.id,
                "prompt_key": key,
                "content_key": content_key(key, text, ratings),
                "source": row.source,
                "subset": subset,
                "held_out": row.held_out,
                "shard": shard,
                "response": None if encoded is None else first_response + number,
                "prompt": None if encoded is None else prompt,
                "tokens": None if encoded is None else len(encoded.sequences[number]),
                "characters": len(text),
                "dropped_turns": None if encoded is None else encoded.dropped_turns,
                **{RATING_COLUMN + name: ratings.get(name) for name in objectives},
            }
        )
    return lines
