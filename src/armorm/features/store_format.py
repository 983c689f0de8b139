"""The format of feature stores: names of files, manifest and index.

A store is a folder that can be read without this package::

    manifest.json                            backbone, template, dtype and data of the store
    index.parquet                            one line per response: ids, labels, place, lengths
    features-00000-of-00012.safetensors      "responses" (n, d) and "prompts" (p, d); "prefixes"
                                             (m, d), states of beginnings of the responses, one
                                             response's after the other's, if there are any

While a store is being written, each finished shard has a part of the index beside it
(``index-00000-of-00012.parquet``), written after the shard and carrying its hash: a shard is
finished if its part exists and the hash agrees.  The manifest of a finished store holds the hashes
of all files, and every shard is compared with its hash when it is first read.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from armorm.errors import DamagedFileError, StoreError
from armorm.features.prefix_cuts import PrefixCuts
from armorm.files import read_json
from armorm.objectives import Objective
from armorm.settings import describe_problems

FORMAT_VERSION = 3
RATING_COLUMN = "rating:"
MANIFEST = "manifest.json"
INDEX = "index.parquet"

TOO_LONG = "too long"
"""Entry of the index column ``skipped`` for a row of too many tokens; a row that the chat template
refuses has the reason, a row with features nothing."""

StoreKind = Literal["rated", "preferences"]

# Fields of a manifest that hold the state of the store, not its settings.
PROGRESS = {
    "complete",
    "unusable",
    "index_sha256",
    "shard_sha256",
    "skipped_rows",
    "refused_rows",
    "responses",
    "prompts",
}


class Manifest(BaseModel):
    """Settings and state of a store. Two finished stores with equal settings hold equal rows.

    Attributes:
        kind: Rows of the store: rated responses or preference pairs.
        backbone: Identity of the backbone.
        feature_dtype: Number format of the features on disk.
        max_length: Maximum number of tokens of a conversation.
        overlong: Treatment of longer ones.
        data_sha256: Hash of the content of all rows.
        rows: Number of rows, skipped ones included.
        shards: Number of shards.
        shard_responses: Responses after which a shard is closed.
        objectives: Objectives whose ratings, or computed labels, are in the index.
        prefixes: Beginnings of each response whose states are stored too, at most.
        prefix_seed: Seed of their draw.
        complete: True once all shards and the index are written.
        unusable: True if the settings gave states that are not finite: other settings replace the
            store.
        index_sha256, shard_sha256: Hashes of the files of a complete store.
        skipped_rows: Rows without features.
        refused_rows: Those of them that the chat template refused; the others are too long.
        responses, prompts: Numbers of features.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    kind: StoreKind
    backbone: dict[str, Any]
    feature_dtype: Literal["float32", "bfloat16", "float16"]
    max_length: int | None
    overlong: str
    data_sha256: str
    rows: int
    shards: int
    shard_responses: int
    objectives: list[Objective] = []
    prefixes: int = 0
    prefix_seed: int = 0
    complete: bool = False
    unusable: bool = False
    index_sha256: str | None = None
    shard_sha256: list[str] = []
    skipped_rows: int = 0
    refused_rows: int = 0
    responses: int = 0
    prompts: int = 0

    @property
    def cuts(self) -> PrefixCuts | None:
        """Cut points of the responses whose beginnings are stored."""
        return PrefixCuts(self.prefixes, self.prefix_seed) if self.prefixes else None

    def differences(self, other: Manifest) -> list[str]:
        """Return a line for each setting in which two stores differ."""
        mine = _flatten(self.model_dump(exclude=PROGRESS))
        theirs = _flatten(other.model_dump(exclude=PROGRESS))
        # The name of a folder does not change what its weights compute.
        for place in ("backbone.name", "backbone.revision"):
            mine.pop(place, None)
            theirs.pop(place, None)
        return [
            f"{key}: {mine.get(key)!r} in the store, {theirs.get(key)!r} now"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]

    def unfinished(self) -> Manifest:
        """Return a manifest of the same settings for a store that is not written yet."""
        return Manifest(**self.model_dump(exclude=PROGRESS))


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of a store, or ``None`` if there is no store.

    Raises:
        StoreError: The file is damaged, or has another format version.
    """
    file = path / MANIFEST
    try:
        found = read_json(file)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        raise _damaged_manifest(file, error) from error
    version = found.get("format_version")
    if version is not None and version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {version}, and this version of armorm writes and reads "
            f"{FORMAT_VERSION}. Delete it and extract the features again."
        )
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise _damaged_manifest(file, "; ".join(describe_problems(error, Manifest))) from error
    if manifest.complete and len(manifest.shard_sha256) != manifest.shards:
        raise _damaged_manifest(file, f"{len(manifest.shard_sha256)} hashes of shards")
    return manifest


def _damaged_manifest(file: Path, reason: object) -> StoreError:
    return StoreError(
        f"{file} is not a feature store manifest: {reason}. Delete {file.parent} and extract the "
        "features again."
    )


def shard_file(path: Path, shard: int, shards: int) -> Path:
    """Return the file of a shard."""
    return path / f"features-{shard:05d}-of-{shards:05d}.safetensors"


def part_file(path: Path, shard: int, shards: int) -> Path:
    """Return the file of a shard's part of the index."""
    return path / f"index-{shard:05d}-of-{shards:05d}.parquet"


def index_table(lines: Sequence[dict[str, Any]], objectives: Sequence[str]) -> pa.Table:
    """Return the index of one shard, with the same column types for every shard."""
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("side", pa.string()),
            ("id", pa.string()),
            ("prompt_key", pa.string()),
            ("row_key", pa.string()),
            ("source", pa.string()),
            ("subset", pa.string()),
            ("held_out", pa.bool_()),
            ("shard", pa.int32()),
            ("response", pa.int32()),
            ("prompt", pa.int32()),
            ("skipped", pa.string()),
            ("tokens", pa.int32()),
            ("characters", pa.int32()),
            ("dropped_turns", pa.int32()),
            ("prefixes", pa.int32()),
            *((RATING_COLUMN + name, pa.float64()) for name in objectives),
        ]
    )
    return pa.Table.from_pylist(list(lines), schema=schema)


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a Parquet file, ready to be written atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
