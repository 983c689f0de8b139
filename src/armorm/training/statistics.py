"""The sums of stage 1 by data source, saved beside the head: a head that can learn and forget.

A folder::

    statistics.json          backbone, objectives, folds, held-out rule; the file of each source
    sums-<hash>.safetensors  the sums over one source's training rows, by fold
    rows.parquet             a fingerprint of every row that is in the sums, and of its prompt
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from armorm.data import HeldOut
from armorm.data.licences import combined
from armorm.errors import ArmormError, StoreError
from armorm.features import FeatureStore, PrefixCuts
from armorm.features.store_format import parquet_bytes
from armorm.files import read_json, sha256_of, write_atomically, write_json
from armorm.heads import HeadOptions, RewardHead, RidgeStatistics, fit_reward_head
from armorm.heads.options import Seed
from armorm.heads.statistics import total_statistics
from armorm.objectives import Objective, ObjectiveSet

COLUMNS = ("row", "prompt", "source")
DESCRIPTION = "statistics.json"
CHANGED = "its content is not what was written"

_Value = TypeVar("_Value")


class HeadSettings(BaseModel):
    """Settings that statistics must share to be combined.

    Attributes:
        backbone: Identity of the backbone whose features were summed.
        objectives: The objectives, with the ranges that map their labels to unit rewards.
        folds: Number of folds that penalties are cross-validated on.
        seed: Seed of the folds.
        held_out: Rule by which prompts are kept out of the sums.
        prefixes: Beginnings of each response that were summed too, at most.
        prefix_seed: Seed of their draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: dict[str, Any]
    objectives: tuple[Objective, ...]
    folds: int = Field(ge=2)
    seed: Seed
    held_out: HeldOut
    prefixes: int = 0
    prefix_seed: int = 0

    @property
    def cuts(self) -> PrefixCuts | None:
        """Cut points of the responses whose beginnings were summed."""
        return PrefixCuts(self.prefixes, self.prefix_seed) if self.prefixes else None

    def check_same(self, other: HeadSettings) -> None:
        """Raise StoreError unless statistics with the other settings can be combined with these."""
        names = [tuple(one.name for one in settings.objectives) for settings in (self, other)]
        pairs = {
            "objectives": tuple(names),
            "backbone": (feature_settings(self.backbone), feature_settings(other.backbone)),
            **{
                name: (getattr(self, name), getattr(other, name))
                for name in ("held_out", "folds", "seed", "prefixes", "prefix_seed")
            },
        }
        for name, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise StoreError(
                    f"The statistics of two heads differ in {name} and cannot be combined: {mine} "
                    f"and {theirs}. Fit both with the same recipe settings."
                )
        for one, two in zip(self.objectives, other.objectives, strict=True):
            if one != two:
                raise StoreError(
                    f"The statistics of two heads differ in the scale of {one.name} and cannot be "
                    f"combined: {one.minimum:g} to {one.maximum:g}, and {two.minimum:g} to "
                    f"{two.maximum:g}. Fit both with one scale: where it is taken from the data, "
                    "give minimum and maximum in the recipes."
                )


class _File(BaseModel):
    """One source's entry in ``statistics.json``."""

    model_config = ConfigDict(extra="forbid")

    source: str
    rows: int
    file: str = Field(pattern=r"^sums-[0-9a-f]{16}\.safetensors$")


class _Description(BaseModel):
    """The contents of ``statistics.json``."""

    model_config = ConfigDict(extra="forbid")

    settings: HeadSettings
    sums: list[_File]
    rows_sha256: str
    licences: dict[str, str] = {}
    forgotten: list[str] = []


@dataclass(slots=True)
class HeadStatistics:
    """Sums per data source over the rows that a head is fitted on.

    Attributes:
        settings: Settings that statistics must share to be combined.
        sums: The sums of each source, by fold.
        rows: Number of copies of each row (its fingerprint) in the sums of each source.
        prompts: Prompt of each row, both by fingerprint.
        licences: Licence of the rows of each source, also of one whose rows are all held out.
        forgotten: Sources that were removed whole: their held-out rows judge no head either.
    """

    settings: HeadSettings
    sums: dict[str, RidgeStatistics] = field(default_factory=dict)
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    forgotten: frozenset[str] = frozenset()

    @classmethod
    def of_store(
        cls,
        store: FeatureStore,
        *,
        folds: int,
        seed: int,
        held_out: HeldOut,
        licences: Mapping[str, str],
    ) -> HeadStatistics:
        """Sum the rows of a store that are not held out, reading the features once.

        Args:
            store: Features of rated responses.
            folds: Number of folds, drawn by the hash of the prompt.
            seed: Seed of the folds.
            held_out: Rule by which the store's rows were held out; it is recorded.
            licences: Licence of the rows of each source; it is recorded.
        """
        settings = HeadSettings(
            backbone=store.manifest.backbone,
            objectives=tuple(store.objectives),
            folds=folds,
            seed=seed,
            held_out=held_out,
            prefixes=store.manifest.prefixes,
            prefix_seed=store.manifest.prefix_seed,
        )
        statistics = cls(
            settings,
            RidgeStatistics.by_source(store, folds=folds, seed=seed),
            licences=dict(licences),
        )
        lines = store.responses().select(["row_key", "prompt_key", "source", "held_out"])
        for line in lines.to_pylist():
            if not line["held_out"]:
                statistics._note_row(line["row_key"], line["prompt_key"], line["source"])
        return statistics

    def _note_row(self, row: str, prompt: str, source: str) -> None:
        self.rows.setdefault(source, Counter())[row] += 1
        self.prompts[row] = prompt

    @property
    def objectives(self) -> ObjectiveSet:
        """The objectives, with the ranges that map their labels to unit rewards."""
        return ObjectiveSet(self.settings.objectives)

    def total(self) -> RidgeStatistics:
        """Return the sums over all sources."""
        return total_statistics(list(self.sums.values()))

    def fit(self, options: HeadOptions) -> RewardHead:
        """Fit the head of these rows."""
        return fit_reward_head(self.total(), options, names=self.objectives.names)

    def copies(self) -> Counter[str]:
        """Return the number of copies of each row over all sources."""
        return sum(self.rows.values(), Counter[str]())

    def __add__(self, other: HeadStatistics) -> HeadStatistics:
        """Return the statistics of both sets of rows.

        Raises:
            StoreError: their settings differ.
        """
        self.settings.check_same(other.settings)
        total = HeadStatistics(
            self.settings,
            dict(self.sums),
            dict(self.rows),
            {**self.prompts, **other.prompts},
            combined(self.licences, other.licences),
            (self.forgotten | other.forgotten).difference(self.sums, other.sums),
        )
        for source, sums in other.sums.items():
            mine = total.sums.get(source)
            total.sums[source] = sums if mine is None else mine + sums
            total.rows[source] = total.rows.get(source, Counter()) + other.rows[source]
        return total

    def __sub__(self, other: HeadStatistics) -> HeadStatistics:
        """Return the statistics without the other's rows, as if they had never been seen.

        Raises:
            ArmormError: some of those rows are not in these sums.
            StoreError: their settings differ.
        """
        self.settings.check_same(other.settings)
        for source, rows in other.rows.items():
            refuse_missing((rows - self.rows.get(source, Counter())).total(), rows.total())
        rest = replace(self, sums=dict(self.sums), rows=dict(self.rows))
        for source, sums in other.sums.items():
            rest.rows[source] = rest.rows[source] - other.rows[source]
            rest.sums[source] = rest.sums[source] - sums
            if not rest.rows[source]:
                del rest.rows[source], rest.sums[source]
        return rest._without_spare_prompts()

    def without(self, sources: Collection[str]) -> HeadStatistics:
        """Return the statistics without whole sources, as if they had never been read."""

        def others(mapping: Mapping[str, _Value]) -> dict[str, _Value]:
            return {name: value for name, value in mapping.items() if name not in sources}

        return replace(
            self,
            sums=others(self.sums),
            rows=others(self.rows),
            licences=others(self.licences),
            forgotten=self.forgotten.union(sources),
        )._without_spare_prompts()

    def _without_spare_prompts(self) -> HeadStatistics:
        """Return the statistics without the prompts of rows that are gone."""
        kept = {row: self.prompts[row] for rows in self.rows.values() for row in rows}
        return replace(self, prompts=kept)

    def judges(self, store: FeatureStore) -> npt.NDArray[np.bool_]:
        """Return a mask of the responses of a store that the head is measured on."""
        table = store.responses()
        held_out: npt.NDArray[np.bool_] = table["held_out"].to_numpy(zero_copy_only=False)
        forgotten = [source in self.forgotten for source in table["source"].to_pylist()]
        return held_out & ~np.array(forgotten, np.bool_)

    def save(self, folder: Path) -> None:
        """Write the folder; an earlier one is replaced when the new one is whole."""
        files = []
        for source, sums in sorted(self.sums.items()):
            content = sums.to_bytes()
            name = f"sums-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
            write_atomically(folder / name, content)
            files.append(_File(source=source, rows=sums.rows, file=name))
        lines = (
            (key, self.prompts[key], source)
            for source, keys in sorted(self.rows.items())
            for key in sorted(keys.elements())
        )
        table = parquet_bytes(_table(lines))
        write_atomically(folder / "rows.parquet", table)
        description = _Description(
            settings=self.settings,
            sums=files,
            rows_sha256=hashlib.sha256(table).hexdigest(),
            licences=self.licences,
            forgotten=sorted(self.forgotten),
        )
        write_json(folder / DESCRIPTION, description.model_dump(mode="json"))
        for leftover in set(folder.glob("sums-*")) - {folder / file.file for file in files}:
            leftover.unlink()

    @classmethod
    def load(cls, folder: Path) -> HeadStatistics:
        """Read what :meth:`save` wrote.

        Raises:
            StoreError: a file is missing or damaged; the message names it.
        """
        file = folder / DESCRIPTION
        try:
            description = _Description.model_validate(read_json(file))
            statistics = cls(
                description.settings,
                licences=description.licences,
                forgotten=frozenset(description.forgotten),
            )
            for entry in description.sums:
                file = folder / entry.file
                content = file.read_bytes()
                if hashlib.sha256(content).hexdigest()[:16] not in entry.file:
                    raise StoreError(CHANGED)
                statistics.sums[entry.source] = RidgeStatistics.from_bytes(content)
                statistics.rows[entry.source] = Counter()
            file = folder / "rows.parquet"
            if sha256_of(file) != description.rows_sha256:
                raise StoreError(CHANGED)
            for line in pq.read_table(file, columns=list(COLUMNS)).to_pylist():
                statistics._note_row(line["row"], line["prompt"], line["source"])
            if statistics.rows.keys() != statistics.sums.keys():
                raise StoreError("it names other sources than statistics.json")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, StoreError) as error:
            raise StoreError(
                f"{file} is missing or damaged ({error}). Run `armorm fit-head` again."
            ) from error
        return statistics


def fitted_objectives(folder: Path) -> ObjectiveSet:
    """Return the objectives of the head whose statistics are in a folder, without reading the sums.

    Raises:
        StoreError: The description is missing or damaged.
    """
    return ObjectiveSet(_described(folder).settings.objectives)


def fitted_licences(folder: Path) -> dict[str, str]:
    """Return the licence of each source of the head whose statistics are in a folder.

    Raises:
        StoreError: The description is missing or damaged.
    """
    return _described(folder).licences


def _described(folder: Path) -> _Description:
    file = folder / DESCRIPTION
    try:
        return _Description.model_validate(read_json(file))
    except (OSError, ValueError, StoreError) as error:
        raise StoreError(
            f"{file} is missing or damaged ({error}). Run `armorm fit-head` again."
        ) from error


def refuse_missing(missing: int, rows: int) -> None:
    """Raise ArmormError where rows to remove are not in the head."""
    if missing:
        raise ArmormError(
            f"{missing} of {rows} rows are not in the head's statistics (prompt, response and "
            "ratings must be what they were), so they cannot be removed."
        )


def feature_settings(backbone: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a backbone's identity that decides its features: not where it lies."""
    return {key: value for key, value in backbone.items() if key not in ("name", "revision")}


def _table(lines: Iterable[tuple[str, str, str]]) -> pa.Table:
    columns = list(zip(*lines, strict=True)) or [(), (), ()]
    return pa.table(
        {
            name: pa.array(list(column), pa.string())
            for name, column in zip(COLUMNS, columns, strict=True)
        }
    )
