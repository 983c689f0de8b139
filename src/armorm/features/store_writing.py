"""Write access to feature stores: shard by shard, resumable, by several processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from armorm.errors import NonFiniteError, StoreError
from armorm.features.running import BackboneFeatures
from armorm.features.store import FeatureStore
from armorm.features.store_format import (
    INDEX,
    MANIFEST,
    TOO_LONG,
    Manifest,
    parquet_bytes,
    part_file,
    read_manifest,
    shard_file,
)
from armorm.files import open_atomically, sha256_of, write_atomically, write_json
from armorm.finite import nonfinite_rows

SHARDS_OF_A_ROW_GROUP = 32
_HASH_KEY = b"shard_sha256"


class StoreWriter:
    """Write access to a store that is being written, shard by shard, resumable.

    Several processes may write the same store, each its own shards.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def start(cls, path: Path, manifest: Manifest) -> StoreWriter:
        """Start a store, or resume one with the same settings.

        A finished store with damaged shards becomes an unfinished one without them.

        Raises:
            StoreError: The folder holds a store with other settings.
            OutputError: The folder cannot be written.
        """
        existing = read_manifest(path)
        if existing is not None and existing.unusable and existing.differences(manifest):
            _delete_files(path)
            existing = None
        if existing is None:
            writer = cls(path, manifest)
            writer._write_manifest()
            return writer
        if different := existing.differences(manifest):
            raise StoreError(
                f"{path} was made with other settings:\n  "
                + "\n  ".join(different)
                + "\nDelete it, or choose another output folder."
            )
        writer = cls(path, existing)
        if existing.complete and (damaged := FeatureStore(path, existing).damaged_shards()):
            writer._reopen(damaged)
        return writer

    @classmethod
    def join(cls, path: Path) -> StoreWriter:
        """Return write access to a store that another process started.

        Raises:
            StoreError: There is none.
        """
        manifest = read_manifest(path)
        if manifest is None:
            raise StoreError(f"{path} holds no feature store that could be resumed.")
        return cls(path, manifest)

    def is_done(self, shard: int) -> bool:
        """Return True if the shard and its index part exist and agree."""
        recorded = self.recorded_hash(shard)
        return recorded is not None and recorded == sha256_of(self._shard(shard))

    def recorded_hash(self, shard: int) -> str | None:
        """Return the hash of a shard that its index part carries; ``None`` without a whole part."""
        try:
            recorded = (_read_part(self._part(shard)).schema.metadata or {}).get(_HASH_KEY)
        except (pa.ArrowException, OSError):
            return None
        return None if recorded is None else recorded.decode()

    def write_shard(self, shard: int, features: BackboneFeatures, index: pa.Table) -> None:
        """Write one shard, then the index part that marks it as finished.

        Raises:
            NonFiniteError: A state is NaN or infinite; nothing is written but a mark in the
                manifest, by which a run with other settings replaces the store.
            OutputError: The disk is full or cannot be written; nothing is lost.
        """
        dtype = getattr(torch, self.manifest.feature_dtype)
        tensors = {
            "prompts": features.prompts.to(dtype).contiguous(),
            "responses": features.responses.to(dtype).contiguous(),
        }
        if self.manifest.prefixes:
            none = features.responses[:0]
            tensors["prefixes"] = torch.cat([none, *features.tokens]).to(dtype).contiguous()
        try:
            _check_finite(tensors, features, index)
        except NonFiniteError:
            self.mark_unusable()
            raise
        content = save_safetensors(tensors)
        write_atomically(self._shard(shard), content)
        self._write_part(shard, index, hashlib.sha256(content).hexdigest())

    def mark_unusable(self) -> None:
        """Let a run with other settings replace the store; one with the same settings keeps it."""
        self.manifest = self.manifest.model_copy(update={"unusable": True})
        self._write_manifest()

    def finish(self) -> FeatureStore:
        """Join the index parts, mark the store complete, and delete the parts.

        Raises:
            OutputError: The disk is full or cannot be written; nothing is lost.
        """
        if not self.manifest.complete:
            index = self.path / INDEX
            counts = self._join_index(index)
            hashes = [self.recorded_hash(shard) for shard in range(self.manifest.shards)]
            self.manifest = self.manifest.unfinished().model_copy(
                update={
                    "complete": True,
                    "index_sha256": sha256_of(index),
                    "shard_sha256": hashes,
                    **counts,
                }
            )
            self._write_manifest()
        for leftover in [*self.path.glob("index-*.parquet"), *self.path.glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)
        return FeatureStore.open(self.path)

    def _join_index(self, file: Path) -> Counter[str]:
        """Write the parts one after the other, and count their contents."""
        counts = Counter({"skipped_rows": 0, "refused_rows": 0, "responses": 0, "prompts": 0})
        parts = [self._part(shard) for shard in range(self.manifest.shards)]
        schema = pq.read_schema(parts[0]).remove_metadata()
        with (
            open_atomically(file) as joined,
            pq.ParquetWriter(joined, schema, compression="zstd") as writer,
        ):
            for first in range(0, len(parts), SHARDS_OF_A_ROW_GROUP):
                group = parts[first : first + SHARDS_OF_A_ROW_GROUP]
                index = pa.concat_tables(map(_read_part, group))
                writer.write_table(index.combine_chunks())
                counts.update(_counts(index))
        return counts

    def _reopen(self, damaged: Sequence[int]) -> None:
        """Make a finished store unfinished again: the parts of its whole shards, no index."""
        index = FeatureStore(self.path, self.manifest).index
        for shard, digest in enumerate(self.manifest.shard_sha256):
            if shard not in damaged:
                self._write_part(shard, index.filter(pc.equal(index["shard"], shard)), digest)
        self.manifest = self.manifest.unfinished()
        self._write_manifest()

    def _write_part(self, shard: int, index: pa.Table, digest: str) -> None:
        marked = index.replace_schema_metadata({_HASH_KEY: digest.encode()})
        write_atomically(self._part(shard), parquet_bytes(marked))

    def _write_manifest(self) -> None:
        write_json(self.path / MANIFEST, self.manifest.model_dump())

    def _shard(self, shard: int) -> Path:
        return shard_file(self.path, shard, self.manifest.shards)

    def _part(self, shard: int) -> Path:
        return part_file(self.path, shard, self.manifest.shards)


def _check_finite(
    tensors: Mapping[str, Tensor], features: BackboneFeatures, index: pa.Table
) -> None:
    """Raise NonFiniteError for a state that is NaN or infinite, naming the row it belongs to."""
    for name, column in (("responses", "response"), ("prompts", "prompt")):
        bad = nonfinite_rows(tensors[name])
        if not bad:
            continue
        line = index.filter(pc.equal(index[column], bad[0])).slice(0, 1).to_pylist()[0]
        overflows = nonfinite_rows(getattr(features, name))
        reason = (
            f"the hidden state of its {column} is not finite: the model overflows in its number "
            "format"
            if overflows
            else f"the hidden state of its {column} is too large for the number format of the store"
        )
        remedy = (
            "Use dtype float32 or bfloat16 for the backbone (backbone.dtype)."
            if overflows
            else "Use dtype float32 or bfloat16 for the features (features.dtype)."
        )
        count = f"; so are {len(bad) - 1} more of this shard" if len(bad) > 1 else ""
        raise NonFiniteError(
            "id", line["id"], reason + count, remedy, line["source"] or None, line["row"] + 1
        )


def _delete_files(path: Path) -> None:
    """Delete the files of a store, the manifest last, so that a killed process can resume."""
    for pattern in ("features-*.safetensors", "index*.parquet", ".*.tmp", MANIFEST):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)


def _read_part(file: Path) -> pa.Table:
    return pq.read_table(file, page_checksum_verification=True)


def _counts(index: pa.Table) -> dict[str, int]:
    """Return the counts of a manifest for some lines of the index."""
    absent = index.filter(pc.is_null(index["response"]))
    refused = absent.filter(pc.not_equal(absent["skipped"], TOO_LONG))
    present = index.filter(pc.is_valid(index["prompt"]))
    return {
        "skipped_rows": len(pc.unique(absent["row"])),
        "refused_rows": len(pc.unique(refused["row"])),
        "responses": present.num_rows,
        "prompts": present.group_by(["shard", "prompt"]).aggregate([]).num_rows,
    }
