"""Features on disk, in formats that can be read without this package.

A store is a folder::

    manifest.json                            what made it: backbone, template, dtype, data
    index.parquet                            one line per response: ids, ratings, place, lengths
    features-00000-of-00012.safetensors      "responses" (n, d) and "prompts" (p, d)

While a store is being made, each finished shard has a part of the index beside it
(``index-00000-of-00012.parquet``), written after the shard and carrying its hash: a shard counts
as done when its part is there and the hash agrees.  The manifest of a finished store holds the
hashes of all files, and every shard is checked against its hash when it is first read.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from armorm.errors import StoreError
from armorm.features.running import BackboneFeatures
from armorm.files import open_atomically, read_json, sha256_of, write_atomically, write_json
from armorm.objectives import Objective, ObjectiveSet

FORMAT_VERSION = 2
RATING_COLUMN = "rating:"
SHARDS_OF_A_ROW_GROUP = 32
_HASH_KEY = b"shard_sha256"

REPAIR = "Run `armorm features` again: it makes this shard anew."

StoreKind = Literal["rated", "preferences"]


# Fields of a manifest that say how far the store is, not what it is made from.
PROGRESS = {"complete", "index_sha256", "shard_sha256", "skipped_rows", "responses", "prompts"}


class Manifest(BaseModel):
    """What a store was made from. Two stores with equal manifests hold equal rows."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    kind: StoreKind
    backbone: dict[str, Any]
    feature_dtype: str
    max_length: int | None
    overlong: str
    data_sha256: str
    rows: int
    shards: int
    shard_responses: int
    objectives: list[Objective] = []
    complete: bool = False
    index_sha256: str | None = None
    shard_sha256: list[str] = []
    skipped_rows: int = 0
    responses: int = 0
    prompts: int = 0

    def differences(self, other: Manifest) -> list[str]:
        """Lines naming each setting in which two stores differ."""
        mine = _flatten(self.model_dump(exclude=PROGRESS))
        theirs = _flatten(other.model_dump(exclude=PROGRESS))
        # Where the weights lie does not change what they compute.
        for place in ("backbone.name", "backbone.revision"):
            mine.pop(place, None)
            theirs.pop(place, None)
        return [
            f"{key}: {mine.get(key)!r} in the store, {theirs.get(key)!r} now"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]


@dataclass(frozen=True, slots=True)
class PairIndex:
    """Where the features of preference pairs stand, one entry per pair, in input order.

    Responses and prompts are numbered through the whole store, shard by shard.

    Attributes:
        chosen: Response number. Shape (pairs,).
        rejected: Response number. Shape (pairs,).
        prompt: Prompt number. Shape (pairs,).
        held_out: Kept out of training. Shape (pairs,).
        chosen_length, rejected_length: Characters of the responses. Shape (pairs,).
        subset: Group of each pair.
        source: Source of each pair.
    """

    chosen: Int[np.ndarray, " pairs"]
    rejected: Int[np.ndarray, " pairs"]
    prompt: Int[np.ndarray, " pairs"]
    held_out: npt.NDArray[np.bool_]
    chosen_length: Int[np.ndarray, " pairs"]
    rejected_length: Int[np.ndarray, " pairs"]
    subset: list[str]
    source: list[str]

    def responses(self, pairs: npt.NDArray[np.bool_]) -> Int[np.ndarray, " responses"]:
        """Return the response numbers of some pairs, each once."""
        numbers: Int[np.ndarray, " responses"] = np.unique(
            np.concatenate([self.chosen[pairs], self.rejected[pairs]])
        )
        return numbers


class FeatureStore:
    """Read access to a finished store.

    Attributes:
        path: The folder.
        manifest: What it was made from.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[int] = set()

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a finished store.

        Raises:
            StoreError: there is none, it is unfinished, or a shard is missing or cut.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise StoreError(f"{path} holds no feature store. Run `armorm features` first.")
        if not manifest.complete:
            raise StoreError(f"{path} is unfinished. Run `armorm features` again: it resumes.")
        store = cls(path, manifest)
        for shard in range(manifest.shards):
            with store._open_shard(shard):
                pass
        return store

    @cached_property
    def index(self) -> pa.Table:
        """The index: one line per response, skipped ones included.

        Raises:
            StoreError: it is missing or damaged.
        """
        file = self.path / "index.parquet"
        if sha256_of(file) != self.manifest.index_sha256:
            raise StoreError(
                f"{file} is missing or damaged. Delete {self.path} and extract the features again."
            )
        return pq.read_table(file)

    @property
    def objectives(self) -> ObjectiveSet:
        return ObjectiveSet(self.manifest.objectives)

    def response_features(self) -> Iterator[Float[Tensor, "responses hidden"]]:
        """Response features shard by shard, in the order of response numbers."""
        yield from self._tensors("responses")

    def prompt_features(self) -> Float[Tensor, "prompts hidden"]:
        """All prompt features, in the order of prompt numbers, in the stored dtype."""
        return torch.cat(list(self._tensors("prompts")))

    def responses(self) -> pa.Table:
        """The lines of the index that have features, in the order of response numbers."""
        table = self._present()
        return table.take(np.argsort(self._numbers(table, "response")))

    def ratings(self) -> tuple[Float[np.ndarray, "responses objectives"], npt.NDArray[np.bool_]]:
        """Unit rewards in the order of response numbers, NaN where missing; and who is held out.

        Raises:
            StoreError: the store holds preferences.
        """
        if self.manifest.kind != "rated":
            raise StoreError(f"{self.path} holds preferences, not ratings.")
        table = self.responses()
        columns = [
            table[RATING_COLUMN + objective.name].to_numpy(zero_copy_only=False).astype(np.float64)
            for objective in self.objectives
        ]
        zeros = np.array([objective.unit_zero for objective in self.objectives])
        ones = np.array([objective.unit_one for objective in self.objectives])
        rewards = (np.stack(columns, axis=1) - zeros) / (ones - zeros)
        return rewards, table["held_out"].to_numpy(zero_copy_only=False)

    def pairs(self) -> PairIndex:
        """The preference pairs whose two responses both have features.

        Raises:
            StoreError: the store holds ratings.
        """
        if self.manifest.kind != "preferences":
            raise StoreError(f"{self.path} holds ratings, not preferences.")
        table = self._present()
        for column in ("response", "prompt"):
            numbers = pa.array(self._numbers(table, column))
            table = table.append_column(f"{column}_number", numbers)
        table = table.sort_by([("row", "ascending"), ("side", "ascending")])
        chosen, rejected = _sides(table)
        return PairIndex(
            chosen=chosen["response_number"].to_numpy(),
            rejected=rejected["response_number"].to_numpy(),
            prompt=chosen["prompt_number"].to_numpy(),
            held_out=chosen["held_out"].to_numpy(zero_copy_only=False),
            chosen_length=chosen["characters"].to_numpy(),
            rejected_length=rejected["characters"].to_numpy(),
            subset=chosen["subset"].to_pylist(),
            source=chosen["source"].to_pylist(),
        )

    def _present(self) -> pa.Table:
        import pyarrow.compute as pc

        return self.index.filter(pc.is_valid(self.index["response"]))

    def _numbers(self, table: pa.Table, column: str) -> npt.NDArray[np.int64]:
        """Numbers through the whole store, from shard and place in the shard."""
        sizes = [self._shard_rows(shard, f"{column}s") for shard in range(self.manifest.shards)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        numbers: npt.NDArray[np.int64] = (
            starts[table["shard"].to_numpy()] + table[column].to_numpy(zero_copy_only=False)
        ).astype(np.int64)
        return numbers

    def _shard_rows(self, shard: int, tensor: str) -> int:
        with self._open_shard(shard) as file:
            rows: int = file.get_slice(tensor).get_shape()[0]
            return rows

    def _tensors(self, name: str) -> Iterator[Tensor]:
        for shard in range(self.manifest.shards):
            self._check_shard(shard)
            with self._open_shard(shard) as file:
                yield file.get_tensor(name)

    def damaged_shards(self) -> list[int]:
        """Numbers of the shards that are not what was written."""
        hashes = self.manifest.shard_sha256
        return [i for i, known in enumerate(hashes) if sha256_of(self._shard(i)) != known]

    def _check_shard(self, shard: int) -> None:
        """Compare a shard with its hash, once."""
        if shard in self._checked:
            return
        file = self._shard(shard)
        if sha256_of(file) != self.manifest.shard_sha256[shard]:
            raise StoreError(f"{file} is missing or damaged. {REPAIR}")
        self._checked.add(shard)

    def _shard(self, shard: int) -> Path:
        return shard_file(self.path, shard, self.manifest.shards)

    def _open_shard(self, shard: int) -> Any:
        file = self._shard(shard)
        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{file} is missing or damaged ({error}). {REPAIR}") from error


def _sides(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The chosen and the rejected lines of a table sorted by row and side."""
    even = np.arange(0, table.num_rows, 2)
    return table.take(even), table.take(even + 1)


class StoreWriter:
    """Write access to a store that is being made, shard by shard, resumable.

    Several processes may write the same store, each its own shards.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def start(cls, path: Path, manifest: Manifest) -> StoreWriter:
        """Start a store, or take up one that was made with the same settings.

        A finished store with damaged shards becomes an unfinished one that lacks them.

        Raises:
            StoreError: a store made with other settings stands there.
        """
        existing = read_manifest(path)
        if existing is None:
            write_json(path / "manifest.json", manifest.model_dump())
            return cls(path, manifest)
        if different := existing.differences(manifest):
            raise StoreError(
                f"{path} was made with other settings:\n  "
                + "\n  ".join(different)
                + "\nDelete it, or choose another output folder."
            )
        writer = cls(path, existing)
        if existing.complete and (damaged := FeatureStore(path, existing).damaged_shards()):
            writer._take_apart(damaged)
        return writer

    @classmethod
    def join(cls, path: Path) -> StoreWriter:
        """Write access to a store that another process started.

        Raises:
            StoreError: there is none.
        """
        manifest = read_manifest(path)
        if manifest is None:
            raise StoreError(f"{path} holds no feature store that could be gone on with.")
        return cls(path, manifest)

    def is_done(self, shard: int) -> bool:
        """Whether the shard and its index part are there and agree."""
        recorded = self.recorded_hash(shard)
        return recorded is not None and recorded == sha256_of(self._shard(shard))

    def recorded_hash(self, shard: int) -> str | None:
        """The hash of a shard that its index part carries; ``None`` if there is no whole part."""
        try:
            recorded = (pq.read_schema(self._part(shard)).metadata or {}).get(_HASH_KEY)
        except (pa.ArrowInvalid, OSError):
            return None
        return None if recorded is None else recorded.decode()

    def write_shard(self, shard: int, features: BackboneFeatures, index: pa.Table) -> None:
        """Write one shard, then the index part that marks it as done.

        Raises:
            StoreError: the disk is full or cannot be written; nothing is lost.
        """
        dtype = getattr(torch, self.manifest.feature_dtype)
        tensors = {
            "prompts": features.prompts.to(dtype).contiguous(),
            "responses": features.responses.to(dtype).contiguous(),
        }
        content = save_safetensors(tensors)
        try:
            write_atomically(self._shard(shard), content)
            self._write_part(shard, index, hashlib.sha256(content).hexdigest())
        except OSError as error:
            raise cannot_write(self._shard(shard), error) from error

    def finish(self) -> FeatureStore:
        """Join the index parts, mark the store complete, and remove the parts."""
        if not self.manifest.complete:
            try:
                counts = self._join_index(self.path / "index.parquet")
            except OSError as error:
                raise cannot_write(self.path / "index.parquet", error) from error
            hashes = [self.recorded_hash(shard) for shard in range(self.manifest.shards)]
            self.manifest = self.manifest.model_copy(
                update={
                    "complete": True,
                    "index_sha256": sha256_of(self.path / "index.parquet"),
                    "shard_sha256": hashes,
                    **counts,
                }
            )
            write_json(self.path / "manifest.json", self.manifest.model_dump())
        for leftover in [*self.path.glob("index-*.parquet"), *self.path.glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)
        return FeatureStore.open(self.path)

    def _join_index(self, file: Path) -> Counter[str]:
        """Write the parts one after the other, and count what is in them."""
        counts = Counter({"skipped_rows": 0, "responses": 0, "prompts": 0})
        parts = [self._part(shard) for shard in range(self.manifest.shards)]
        schema = pq.read_schema(parts[0]).remove_metadata()
        with (
            open_atomically(file) as joined,
            pq.ParquetWriter(joined, schema, compression="zstd") as writer,
        ):
            for first in range(0, len(parts), SHARDS_OF_A_ROW_GROUP):
                group = parts[first : first + SHARDS_OF_A_ROW_GROUP]
                index = pa.concat_tables([pq.read_table(part) for part in group])
                writer.write_table(index.combine_chunks())
                counts["skipped_rows"] += _rows_without_features(index)
                counts["responses"] += index.num_rows - index["response"].null_count
                counts["prompts"] += _count_prompts(index)
        return counts

    def _take_apart(self, damaged: Sequence[int]) -> None:
        """Make a finished store unfinished again: the parts of its whole shards, no index."""
        import pyarrow.compute as pc

        index = FeatureStore(self.path, self.manifest).index
        for shard, digest in enumerate(self.manifest.shard_sha256):
            if shard not in damaged:
                self._write_part(shard, index.filter(pc.equal(index["shard"], shard)), digest)
        self.manifest = self.manifest.model_copy(
            update={
                name: field.get_default(call_default_factory=True)
                for name, field in Manifest.model_fields.items()
                if name in PROGRESS
            }
        )
        write_json(self.path / "manifest.json", self.manifest.model_dump())

    def _write_part(self, shard: int, index: pa.Table, digest: str) -> None:
        marked = index.replace_schema_metadata({_HASH_KEY: digest.encode()})
        write_atomically(self._part(shard), parquet_bytes(marked))

    def _shard(self, shard: int) -> Path:
        return shard_file(self.path, shard, self.manifest.shards)

    def _part(self, shard: int) -> Path:
        return self.path / f"index-{shard:05d}-of-{self.manifest.shards:05d}.parquet"


def cannot_write(file: Path, error: OSError) -> StoreError:
    """What to raise where a file of an unfinished store could not be written."""
    return StoreError(
        f"{file} cannot be written ({error.strerror}). Shards that are done stay; free some space "
        "and give the same command again."
    )


def shard_file(path: Path, shard: int, shards: int) -> Path:
    return path / f"features-{shard:05d}-of-{shards:05d}.safetensors"


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a store, or ``None`` where there is none.

    Raises:
        StoreError: it is not a manifest, or of another format version.
    """
    file = path / "manifest.json"
    if not file.exists():
        return None
    try:
        found = read_json(file)
        if "format_version" in found and found["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{path} has format {found['format_version']}, and this version of armorm writes "
                f"and reads {FORMAT_VERSION}. Delete it and extract the features again."
            )
        return Manifest.model_validate(found)
    except ValueError as error:
        raise StoreError(f"{file} is not a feature store manifest: {error}") from error


def index_table(lines: Sequence[dict[str, Any]], objectives: Sequence[str]) -> pa.Table:
    """The index of one shard, with one type for every column."""
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("side", pa.string()),
            ("id", pa.string()),
            ("prompt_key", pa.string()),
            ("content_key", pa.string()),
            ("source", pa.string()),
            ("subset", pa.string()),
            ("held_out", pa.bool_()),
            ("shard", pa.int32()),
            ("response", pa.int32()),
            ("prompt", pa.int32()),
            ("tokens", pa.int32()),
            ("characters", pa.int32()),
            ("dropped_turns", pa.int32()),
            *((RATING_COLUMN + name, pa.float64()) for name in objectives),
        ]
    )
    return pa.Table.from_pylist(list(lines), schema=schema)


def _rows_without_features(index: pa.Table) -> int:
    import pyarrow.compute as pc

    return len(pc.unique(index.filter(pc.is_null(index["response"]))["row"]))


def _count_prompts(index: pa.Table) -> int:
    import pyarrow.compute as pc

    present = index.filter(pc.is_valid(index["prompt"]))
    return int(present.group_by(["shard", "prompt"]).aggregate([]).num_rows)


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file, ready to be written atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
