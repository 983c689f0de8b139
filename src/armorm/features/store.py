"""Read access to feature stores."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from armorm.errors import ArmormError, StoreError
from armorm.features.store_format import (
    INDEX,
    RATING_COLUMN,
    Manifest,
    read_manifest,
    shard_file,
)
from armorm.files import sha256_of
from armorm.objectives import ObjectiveSet

REPAIR = "Run `armorm features` again: it computes this shard again."


@dataclass(frozen=True, slots=True)
class PairIndex:
    """Positions of the features of preference pairs, one entry per pair, in input order.

    Responses and prompts are numbered through the whole store, shard by shard.

    Attributes:
        chosen: Number of the preferred response. Shape (pairs,).
        rejected: Number of the other response. Shape (pairs,).
        prompt: Number of the prompt. Shape (pairs,).
        held_out: True for pairs kept out of training. Shape (pairs,).
        chosen_length, rejected_length: Characters of the responses. Shape (pairs,).
        subset: Group of each pair.
        source: Source of each pair.
        id: Id of each pair; empty where it has none.
    """

    chosen: Int[np.ndarray, " pairs"]
    rejected: Int[np.ndarray, " pairs"]
    prompt: Int[np.ndarray, " pairs"]
    held_out: npt.NDArray[np.bool_]
    chosen_length: Int[np.ndarray, " pairs"]
    rejected_length: Int[np.ndarray, " pairs"]
    subset: list[str]
    source: list[str]
    id: list[str]

    def responses(self, pairs: npt.NDArray[np.bool_]) -> Int[np.ndarray, " responses"]:
        """Return the response numbers of some pairs, each once."""
        numbers: Int[np.ndarray, " responses"] = np.unique(
            np.concatenate([self.chosen[pairs], self.rejected[pairs]])
        )
        return numbers

    def where(self, mask: npt.NDArray[np.bool_]) -> PairIndex:
        """Return the pairs where ``mask`` holds; responses and prompts keep their numbers."""
        kept = np.flatnonzero(mask)
        return PairIndex(
            chosen=self.chosen[kept],
            rejected=self.rejected[kept],
            prompt=self.prompt[kept],
            held_out=self.held_out[kept],
            chosen_length=self.chosen_length[kept],
            rejected_length=self.rejected_length[kept],
            subset=[self.subset[i] for i in kept],
            source=[self.source[i] for i in kept],
            id=[self.id[i] for i in kept],
        )

    def leaving_out(self, sources: Collection[str]) -> PairIndex:
        """Return the pairs with whole sources held out, all of their pairs and no others.

        Training pairs are the others that are trained on now, without those of a prompt that is
        also in a source that is left out.

        Raises:
            ArmormError: A name is no source of the pairs, or none is left to train on.
        """
        source = np.array(self.source, dtype=object)
        if unknown := sorted(set(sources) - set(self.source)):
            raise ArmormError(
                f"data.leave_out: {', '.join(unknown)} is no source of these preference pairs. "
                f"Sources: {', '.join(sorted(set(self.source)))}."
            )
        left_out = np.isin(source, list(sources))
        shared = np.isin(self.prompt, self.prompt[left_out])
        training = ~self.held_out & ~shared
        if not training.any():
            names = ", ".join(sorted(set(sources)))
            raise ArmormError(
                f"data.leave_out: without {names} no pair is left to train on. Leave out fewer "
                "sources, or hold out fewer prompts."
            )
        kept = left_out | training
        return replace(self.where(kept), held_out=left_out[kept])


class FeatureStore:
    """Features of rated responses or preference pairs on disk.

    Every shard is compared with its hash when it is first read.

    Example:
        >>> import tempfile
        >>> from armorm import Backbone, FeatureStore, PreferencePair, extract_features
        >>> backbone = Backbone.from_pretrained("builtin", device="cpu")
        >>> prompt = ({"role": "user", "content": "What is the capital of France?"},)
        >>> rows = [PreferencePair(prompt, chosen="Paris.", rejected="Lyon.")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = extract_features(rows, backbone, folder)
        ...     store = FeatureStore.open(folder)
        ...     [tuple(shard.shape) for shard in store.response_features()]
        ...     store.pairs().chosen, store.pairs().rejected
        [(2, 192)]
        (array([0]), array([1]))

    Attributes:
        path: The folder.
        manifest: Settings and state.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[int] = set()

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a finished store.

        Raises:
            StoreError: There is none, it is unfinished, or a shard is missing or cut.
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
        """Index of the store: one line per response, skipped ones included.

        Raises:
            StoreError: It is missing or damaged.
        """
        file = self.path / INDEX
        if sha256_of(file) != self.manifest.index_sha256:
            raise StoreError(
                f"{file} is missing or damaged. Delete {self.path} and extract the features again."
            )
        return pq.read_table(file)

    @cached_property
    def objectives(self) -> ObjectiveSet:
        """Rated and computed objectives, with all ranges that are taken from the training rows."""
        objectives = ObjectiveSet(self.manifest.objectives)
        if not any(objective.range_from_data for objective in objectives):
            return objectives
        lines = self.responses()
        training = ~lines["held_out"].to_numpy(zero_copy_only=False)
        if not training.any():
            training[:] = True
        return objectives.with_ranges(
            {
                name: lines[RATING_COLUMN + name].to_numpy(zero_copy_only=False)[training]
                for name in objectives.computed
            }
        )

    def response_features(self) -> Iterator[Float[Tensor, "responses hidden"]]:
        """Yield response features shard by shard, in the order of response numbers."""
        yield from self._tensors("responses")

    def prefix_features(self) -> Iterator[tuple[Tensor, npt.NDArray[np.int64]]]:
        """Yield the states of beginnings of responses shard by shard.

        With each shard come the numbers of beginnings of its responses, one response's rows after
        the other's. A store without beginnings yields nothing.
        """
        if not self.manifest.prefixes:
            return
        lines = self.responses()
        counts = lines["prefixes"].to_numpy(zero_copy_only=False).astype(np.int64)
        shards = lines["shard"].to_numpy()
        for shard, states in enumerate(self._tensors("prefixes")):
            yield states, counts[shards == shard]

    def prompt_features(self) -> Float[Tensor, "prompts hidden"]:
        """Return all prompt features, in the order of prompt numbers, in the stored dtype."""
        return torch.cat(list(self._tensors("prompts")))

    def prompt_keys(self) -> list[str]:
        """Return the key of each prompt (:func:`armorm.conversations.prompt_key`), by number."""
        table = self._present()
        numbers, keys = self._numbers(table, "prompt"), table["prompt_key"].to_pylist()
        by_number = dict(zip(numbers.tolist(), keys, strict=True))
        return [by_number[number] for number in range(len(by_number))]

    def responses(self) -> pa.Table:
        """Return the lines of the index that have features, in the order of response numbers."""
        table = self._present()
        return table.take(np.argsort(self._numbers(table, "response")))

    def ratings(self) -> tuple[Float[np.ndarray, "responses objectives"], npt.NDArray[np.bool_]]:
        """Return unit rewards, NaN if missing, and a mask of held-out rows, by response number.

        Raises:
            StoreError: The store holds preferences.
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
        """Return the preference pairs whose two responses both have features.

        Raises:
            StoreError: The store holds ratings.
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
            id=chosen["id"].to_pylist(),
        )

    def _present(self) -> pa.Table:
        return self.index.filter(pc.is_valid(self.index["response"]))

    def _numbers(self, table: pa.Table, column: str) -> npt.NDArray[np.int64]:
        """Return numbers through the whole store, from shard and position in the shard."""
        sizes = [self._shard_rows(shard, f"{column}s") for shard in range(self.manifest.shards)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        numbers: npt.NDArray[np.int64] = (
            starts[table["shard"].to_numpy()] + table[column].to_numpy(zero_copy_only=False)
        ).astype(np.int64)
        return numbers

    def _shard_rows(self, shard: int, tensor: str) -> int:
        with self._open_shard(shard) as file:
            try:
                rows: int = file.get_slice(tensor).get_shape()[0]
            except SafetensorError as error:
                raise StoreError(f"{self._shard(shard)} is damaged ({error}). {REPAIR}") from error
            return rows

    def _tensors(self, name: str) -> Iterator[Tensor]:
        for shard in range(self.manifest.shards):
            self._check_shard(shard)
            with self._open_shard(shard) as file:
                yield file.get_tensor(name)

    def damaged_shards(self) -> list[int]:
        """Return the numbers of the shards that differ from their hashes."""
        hashes = self.manifest.shard_sha256
        return [i for i, known in enumerate(hashes) if sha256_of(self._shard(i)) != known]

    def _check_shard(self, shard: int) -> None:
        """Compare a shard with its hash, once.

        Raises:
            StoreError: It is missing or damaged.
        """
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
    """Return the chosen and the rejected lines of a table sorted by row and side."""
    even = np.arange(0, table.num_rows, 2)
    return table.take(even), table.take(even + 1)
