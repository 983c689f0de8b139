"""The statistics of stage 1 by source, saved beside the head: a head that can learn and forget.

A folder::

    statistics.json          backbone, objectives, and which file holds which sums
    sums-<hash>.safetensors  the sums over one source's training or selection rows
    rows.parquet             a fingerprint of every row that is in the sums
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from armorm.errors import ArmormError, StoreError
from armorm.features import FeatureStore
from armorm.features.store import parquet_bytes
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import RewardHead, RidgeStatistics, fit_reward_head
from armorm.heads.device import float64_device
from armorm.heads.statistics import total_statistics

TRAIN, SELECTION = "train", "selection"

Part = tuple[str, str]  # source, and TRAIN or SELECTION


@dataclass(slots=True)
class HeadStatistics:
    """Sums per source, for the rows a head is fitted on and those its penalty is chosen on.

    Attributes:
        backbone: Identity of the backbone whose features were summed.
        objectives: Names of the objectives.
        sums: The sums of each source and part.
        rows: How often each row (its fingerprint) is in each sum.
    """

    backbone: dict[str, Any]
    objectives: tuple[str, ...]
    sums: dict[Part, RidgeStatistics] = field(default_factory=dict)
    rows: dict[Part, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of_store(cls, store: FeatureStore, selection_fraction: float, seed: int) -> HeadStatistics:
        """Sum the rows of a store that are not held out, reading the features once.

        Args:
            store: Features of rated responses.
            selection_fraction: Share of prompts that the penalty is chosen on, drawn by the hash
                of the prompt, so that a row that comes later falls where it would have fallen.
            seed: Draws another share.
        """
        statistics = cls(store.manifest.backbone, store.objectives.names)
        ratings, held_out = store.ratings()
        lines = store.responses()
        source, key = np.array(lines["source"].to_pylist()), lines["content_key"].to_pylist()
        selected = _selected(lines["prompt_key"].to_pylist(), selection_fraction, seed)
        start = 0
        for shard in store.response_features():
            features = shard.float().numpy()
            rows = slice(start, start := start + len(features))
            for name in np.unique(source[rows]):
                for part, chosen in ((TRAIN, ~selected[rows]), (SELECTION, selected[rows])):
                    mask = chosen & ~held_out[rows] & (source[rows] == name)
                    if mask.any():
                        keys = [key[rows.start + i] for i in np.flatnonzero(mask)]
                        # Rows without a rating are passed over, so no feature is copied for it.
                        rated = np.where(mask[:, None], ratings[rows], np.nan)
                        statistics._put((str(name), part), features, rated, keys)
        return statistics

    def _put(
        self,
        part: Part,
        features: npt.NDArray[np.float32],
        ratings: npt.NDArray[np.float64],
        keys: list[str],
    ) -> None:
        if part not in self.sums:
            self.sums[part] = RidgeStatistics(
                features.shape[1], len(self.objectives), float64_device()
            )
            self.rows[part] = Counter()
        self.sums[part].update(features, ratings)
        self.rows[part].update(keys)

    def of_part(self, part: str) -> RidgeStatistics:
        """The sums over all sources of one part, empty where it has no rows."""
        sums = [sums for (_, name), sums in sorted(self.sums.items()) if name == part]
        if not sums:
            return RidgeStatistics(self.backbone["hidden_size"], len(self.objectives))
        return total_statistics(sums)

    def total(self) -> RidgeStatistics:
        """The sums over all sources and both parts."""
        return self.of_part(TRAIN) + self.of_part(SELECTION)

    def fit(self, alphas: Sequence[float]) -> RewardHead:
        """The head of these rows; the selection rows choose each objective's penalty."""
        return fit_reward_head(
            self.of_part(TRAIN), self.of_part(SELECTION), alphas, self.objectives
        )

    def by_source(self) -> dict[str, RidgeStatistics]:
        """The sums of each source, both parts together."""
        names = sorted({source for source, _ in self.sums})
        return {
            name: total_statistics([s for (source, _), s in self.sums.items() if source == name])
            for name in names
        }

    def __add__(self, other: HeadStatistics) -> HeadStatistics:
        """The statistics of both sets of rows.

        Raises:
            StoreError: they belong to different backbones or objectives.
        """
        self._check_same(other)
        total = HeadStatistics(self.backbone, self.objectives, dict(self.sums), dict(self.rows))
        for part, sums in other.sums.items():
            mine = total.sums.get(part)
            total.sums[part] = sums if mine is None else mine + sums
            total.rows[part] = total.rows.get(part, Counter()) + other.rows[part]
        return total

    def __sub__(self, other: HeadStatistics) -> HeadStatistics:
        """The statistics without the other's rows, as if they had never been seen.

        Raises:
            ArmormError: some of those rows are not here.
            StoreError: they belong to different backbones or objectives.
        """
        self._check_same(other)
        missing = sum(
            (keys - self.rows.get(part, Counter())).total() for part, keys in other.rows.items()
        )
        if missing:
            raise ArmormError(
                f"{missing} of {other.row_count} rows are not in the head's statistics (text, "
                "ratings and source must be what they were), so they cannot be taken out."
            )
        rest = HeadStatistics(self.backbone, self.objectives, dict(self.sums), dict(self.rows))
        for part, sums in other.sums.items():
            rest.rows[part] = rest.rows[part] - other.rows[part]
            rest.sums[part] = rest.sums[part] - sums
            if not rest.rows[part]:
                del rest.rows[part], rest.sums[part]
        return rest

    def shared_rows(self, other: HeadStatistics) -> int:
        """How many rows are in both."""
        mine = sum(self.rows.values(), Counter[str]())
        return (mine & sum(other.rows.values(), Counter[str]())).total()

    @property
    def row_count(self) -> int:
        return sum(keys.total() for keys in self.rows.values())

    def _check_same(self, other: HeadStatistics) -> None:
        for what, mine, theirs in (
            ("backbones", essence(self.backbone), essence(other.backbone)),
            ("objectives", self.objectives, other.objectives),
        ):
            if mine != theirs:
                raise StoreError(
                    f"Statistics of different {what} cannot be combined: {mine} and {theirs}."
                )

    def save(self, folder: Path) -> None:
        """Write the folder; what stood there is replaced when the new one is whole."""
        files = {}
        for part, sums in sorted(self.sums.items()):
            content = sums.to_bytes()
            name = f"sums-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
            write_atomically(folder / name, content)
            files[part] = name
        lines = [
            (key, source, part)
            for (source, part), keys in sorted(self.rows.items())
            for key in sorted(keys.elements())
        ]
        columns = list(zip(*lines, strict=True)) or [(), (), ()]
        table = pa.table(
            {
                name: pa.array(list(column), pa.string())
                for name, column in zip(("row", "source", "part"), columns, strict=True)
            }
        )
        write_atomically(folder / "rows.parquet", parquet_bytes(table))
        description = {
            "backbone": self.backbone,
            "objectives": list(self.objectives),
            "sums": [
                {"source": source, "part": part, "rows": self.sums[source, part].rows, "file": name}
                for (source, part), name in files.items()
            ],
        }
        write_json(folder / "statistics.json", description)
        for leftover in set(folder.glob("sums-*")) - {folder / name for name in files.values()}:
            leftover.unlink()

    @classmethod
    def load(cls, folder: Path) -> HeadStatistics:
        """What :meth:`save` wrote.

        Raises:
            StoreError: it is not there, or damaged.
        """
        try:
            content = read_json(folder / "statistics.json")
            lines = pq.read_table(folder / "rows.parquet").to_pylist()
            statistics = cls(content["backbone"], tuple(content["objectives"]))
            for entry in content["sums"]:
                part = (entry["source"], entry["part"])
                sums = RidgeStatistics.from_bytes((folder / entry["file"]).read_bytes())
                statistics.sums[part], statistics.rows[part] = sums, Counter()
        except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"{folder} holds no statistics of a head ({error}). Run `armorm fit-head` first."
            ) from error
        for line in lines:
            statistics.rows[line["source"], line["part"]][line["row"]] += 1
        return statistics


def _selected(prompt_keys: list[str], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    def draw(key: str) -> float:
        # Not the hash that decides what is held out: the two draws must be independent.
        digest = hashlib.sha256(f"selection {seed} {key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    drawn = {key: draw(key) < fraction for key in set(prompt_keys)}
    return np.array([drawn[key] for key in prompt_keys], dtype=bool)


def essence(backbone: dict[str, Any]) -> dict[str, Any]:
    """What decides the features; where the weights lie does not."""
    return {key: value for key, value in backbone.items() if key not in ("name", "revision")}
