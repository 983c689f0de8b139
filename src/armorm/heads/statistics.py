"""Sufficient statistics of masked ridge regression: all that stage 1 needs from the rows.

Ridge regression, its cross-validation and its uncertainty need X'X, X'R and R'R over the rows that
rate an objective, and nothing else from the data.  Rows that carry the same labels share one X'X,
so the sums are kept per *label pattern*: the paper's 19 objectives come in 8 patterns.  They are
also kept per *fold*, a part of the prompts drawn by hash, on which penalties are cross-validated.
The sums add up over shards, machines and data sets, and subtract again, so the rows are read once
and can be forgotten exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.linalg
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from scipy.linalg import blas

from armorm.errors import ArmormError, StoreError
from armorm.heads.device import DeviceSums, float64_device
from armorm.heads.triangles import pack_triangle, unpack_triangle

Pattern = tuple[int, ...]  # columns of the objectives that a row rates, ascending
Key = tuple[Pattern, int]  # a label pattern and a fold


@runtime_checkable
class RatedFeatures(Protocol):
    """Features of rated responses as :class:`armorm.FeatureStore` gives them."""

    @property
    def objectives(self) -> Any:
        """Return the objectives, as a sized collection."""

    def responses(self) -> Any:
        """Return an Arrow table with columns source and prompt_key."""

    def ratings(self) -> tuple[Float[np.ndarray, "rows objectives"], npt.NDArray[np.bool_]]:
        """Return unit rewards, NaN if missing, and a mask of held-out rows."""

    def response_features(self) -> Iterator[Any]:
        """Yield tensors of shape (rows, features)."""

    def prefix_features(self) -> Iterator[tuple[Any, npt.NDArray[np.int64]]]:
        """Yield tensors of beginnings, with the number of them of each row; nothing if none are."""


def fold_of(prompt_key: str, folds: int, seed: int) -> int:
    """Return the fold of a prompt, drawn by its hash.

    A row that comes later falls where it would have fallen at the start. The draw is independent
    of the one that holds prompts out.
    """
    digest = hashlib.sha256(f"fold {seed} {prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


@dataclass(slots=True)
class PatternStatistics:
    """Sums over the rows that rate exactly the same objectives, in float64.

    Attributes:
        rows: Number of rows n.
        gram: X'X, its lower triangle in Fortran order as LAPACK reads it; above is zero.  Shape
            (features, features).
        moments: X'R over the pattern's objectives. Shape (features, rated).
        products: R'R: sums of products of rewards. Shape (rated, rated).
        sums: Sum of rewards per objective. Shape (rated,).
        shared: A total refers to these sums, so they may not change any more.
    """

    rows: int
    gram: Float[np.ndarray, "features features"]
    moments: Float[np.ndarray, "features rated"]
    products: Float[np.ndarray, "rated rated"]
    sums: Float[np.ndarray, " rated"]
    shared: bool = False

    @classmethod
    def empty(cls, features: int, rated: int) -> PatternStatistics:
        """Return the sums over no rows."""
        return cls(
            0,
            np.zeros((features, features), order="F"),
            np.zeros((features, rated)),
            np.zeros((rated, rated)),
            np.zeros(rated),
        )

    def add_ratings(
        self,
        rewards: Float[np.ndarray, "rows rated"],
        roots: Float[np.ndarray, " rows"],
        counted: int,
    ) -> None:
        """Add the sums over ratings alone.

        Args:
            rewards: Rewards, each row times its root.
            roots: Square root of the share of a row that each is.
            counted: Number of whole rows among them.
        """
        self.rows += counted
        self.products += blas.dgemm(1.0, rewards.T, rewards.T, trans_b=True)
        self.sums += roots @ rewards

    def add_features(
        self,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows rated"],
    ) -> None:
        """Add to X'X and X'R, both in float64.

        All products are scipy's: numpy brings a BLAS of its own, and the threads of each keep
        spinning for a while after a product, in the way of the other's.
        """
        # A symmetric update writes one triangle in place: half the work of a general product.
        self.gram = blas.dsyrk(1.0, features.T, beta=1.0, c=self.gram, lower=True, overwrite_c=True)
        # In this order the narrow product reads the features along their rows: three times as fast.
        self.moments += blas.dgemm(1.0, rewards.T, features.T, trans_b=True).T

    def add(self, other: PatternStatistics, sign: int = 1) -> None:
        """Add, or with ``sign=-1`` take away, the sums over other rows."""
        self.rows += sign * other.rows
        self.gram += sign * other.gram
        self.moments += sign * other.moments
        self.products += sign * other.products
        self.sums += sign * other.sums


class _Waiting:
    """Rows of one pattern and fold that are not yet summed: large blocks make fast products.

    Args:
        block: Rows to wait for.
        features: Length d of a feature.
        rated: Number of rated objectives.
        dtype: Of the features.
    """

    def __init__(self, block: int, features: int, rated: int, dtype: np.dtype[Any]) -> None:
        # Memory that is used again and again: fresh memory costs more than the copying.
        self._features = np.empty((block, features), dtype)
        self._rewards = np.empty((block, rated))
        self._roots = np.empty(block)
        self.rows = 0
        self.counted = 0

    @property
    def room(self) -> int:
        return len(self._features) - self.rows

    @property
    def features(self) -> Float[np.ndarray, "rows features"]:
        return self._features[: self.rows]

    @property
    def rewards(self) -> Float[np.ndarray, "rows rated"]:
        return self._rewards[: self.rows]

    @property
    def roots(self) -> Float[np.ndarray, " rows"]:
        return self._roots[: self.rows]

    def clear(self) -> None:
        """Forget the rows."""
        self.rows = self.counted = 0

    def take(
        self,
        features: Float[np.ndarray, "all features"],
        rewards: Float[np.ndarray, "all objectives"],
        rows: npt.NDArray[np.intp],
        rated: npt.NDArray[np.intp],
        shares: Float[np.ndarray, " all"] | None,
        counted: bool,
    ) -> None:
        """Copy these rows, and the columns that they rate. The block must have enough free rows."""
        place = slice(self.rows, self.rows + len(rows))
        if features.dtype == self._features.dtype:
            features.take(rows, axis=0, out=self._features[place], mode="clip")
        else:
            self._features[place] = features[rows]
        self._rewards[place] = rewards[np.ix_(rows, rated)]
        self._roots[place] = 1.0
        if shares is not None:
            roots = self._roots[place] = np.sqrt(shares[rows])
            self._features[place] *= roots[:, None].astype(self._features.dtype)
            self._rewards[place] *= roots[:, None]
        self.counted += len(rows) if counted else 0
        self.rows = place.stop


class RidgeStatistics:
    """Sums X'X, X'R and R'R that determine ridge regression; additive over any split of the rows.

    Args:
        features: Length d of a feature.
        objectives: Number k of objectives.
        device: Device that sums, as torch names it (``cuda``); default the CPU.

    Example:
        >>> import numpy as np
        >>> from armorm import RidgeStatistics, fit_reward_head
        >>> generator = np.random.default_rng(0)
        >>> x = generator.normal(size=(100, 3))
        >>> y = x @ [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]
        >>> y[:50, 1] = np.nan  # not rated
        >>> statistics = RidgeStatistics(features=3, objectives=2)
        >>> statistics.update(x, y, folds=np.arange(100) % 5)
        >>> statistics.rows_rating(0), statistics.rows_rating(1)
        (100, 50)
        >>> fit_reward_head(statistics).weight.round(3) + 0.0
        array([[1., 2., 0.],
               [0., 0., 3.]])
    """

    BLOCK = 2048  # rows of one pattern and fold summed at a time: bounds the memory only

    def __init__(self, features: int, objectives: int, device: str | None = None) -> None:
        self.features = features
        self.objectives = objectives
        self.device = device
        # Sums of one key are added up when they are read: a total costs no memory.
        self._sums: dict[Key, list[PatternStatistics]] = {}
        self._waiting: dict[Key, _Waiting] = {}
        self._block: npt.NDArray[np.float64] | None = None
        self._on_device: dict[Key, DeviceSums] = {}

    @classmethod
    def of(cls, store: RatedFeatures, *, folds: int = 5, seed: int = 0) -> RidgeStatistics:
        """Sum the rated responses of a feature store that are not held out.

        Args:
            store: Features of rated responses; they are read once.
            folds: Number of folds that penalties are cross-validated on.
            seed: Seed of the folds.

        Raises:
            ArmormError: the store has no row to fit on.
        """
        return total_statistics(list(cls.by_source(store, folds=folds, seed=seed).values()))

    @classmethod
    def by_source(
        cls, store: RatedFeatures, *, folds: int = 5, seed: int = 0
    ) -> dict[str, RidgeStatistics]:
        """Sum each data source of a store by itself; the arguments are those of :meth:`of`."""
        ratings, held_out = store.ratings()
        lines = store.responses()
        source = np.array(lines["source"].to_pylist())
        keys = lines["prompt_key"].to_pylist()
        fold_by_key = {key: fold_of(key, folds, seed) for key in set(keys)}
        fold = np.array([fold_by_key[key] for key in keys], np.int64)
        ratings = np.where(held_out[:, None], np.nan, ratings)
        found: dict[str, RidgeStatistics] = {}
        prefixes = store.prefix_features()
        start = 0
        for shard in store.response_features():
            features = shard.float().numpy()
            rows = slice(start, start := start + len(features))
            beginnings, counts = next(prefixes, (None, None))
            for name in np.unique(source[rows][~held_out[rows]]):
                if name not in found:
                    found[str(name)] = cls(
                        features.shape[1], len(store.objectives), float64_device()
                    )
                # Rows without a rating are ignored, so no feature is copied for other sources.
                rated = np.where((source[rows] == name)[:, None], ratings[rows], np.nan)
                if beginnings is None or counts is None:
                    found[str(name)].update(features, rated, fold[rows])
                    continue
                # A response and its beginnings have equal shares of one row.
                shares = 1.0 / (1 + counts)
                found[str(name)].update(features, rated, fold[rows], shares)
                owner = np.repeat(np.arange(len(counts)), counts)
                found[str(name)].update(
                    beginnings.float().numpy(),
                    rated[owner],
                    fold[rows][owner],
                    shares[owner],
                    counted=False,
                )
        return found

    def update(
        self,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows objectives"],
        folds: Int[np.ndarray, " rows"] | None = None,
        shares: Float[np.ndarray, " rows"] | None = None,
        *,
        counted: bool = True,
    ) -> None:
        """Add rows. A missing reward is NaN; a row without any reward is ignored.

        Args:
            features: Response features.
            rewards: Unit rewards, NaN where not rated.
            folds: Fold of each row; default fold 0 for all. All rows of one prompt should be in
                one fold.
            shares: Weight of each row, where several stand for one; default 1.
            counted: Count them as rows; off for those that others stand for.

        Raises:
            ArmormError: a feature is not finite; none of these rows is added.
        """
        features, rewards = np.asarray(features), np.asarray(rewards, np.float64)
        _check_finite(features)
        rated = ~np.isnan(rewards)
        fold = np.zeros(len(rewards), np.int64) if folds is None else np.asarray(folds, np.int64)
        for rows in _rows_with_equal_labels(rated, fold):
            columns = np.flatnonzero(rated[rows[0]])
            if len(columns):
                key = (tuple(columns.tolist()), int(fold[rows[0]]))
                self._put(key, features, rewards, rows, shares, counted)

    def _put(
        self,
        key: Key,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows objectives"],
        rows: npt.NDArray[np.intp],
        shares: Float[np.ndarray, " rows"] | None,
        counted: bool,
    ) -> None:
        columns = np.array(key[0])
        if key not in self._waiting:
            self._waiting[key] = _Waiting(self.BLOCK, self.features, len(columns), features.dtype)
        waiting = self._waiting[key]
        while len(rows):
            now, rows = rows[: waiting.room], rows[waiting.room :]
            waiting.take(features, rewards, now, columns, shares, counted)
            if not waiting.room:
                self._sum(key, waiting)

    def _sum(self, key: Key, waiting: _Waiting) -> None:
        sums = self._sums.setdefault(key, [])
        if not sums or sums[-1].shared:
            sums.append(PatternStatistics.empty(self.features, len(key[0])))
        sums[-1].add_ratings(waiting.rewards, waiting.roots, waiting.counted)
        if self.device is not None:
            self._sums_on(self.device, key).add_rows(waiting.features, waiting.rewards)
        else:
            if self._block is None:
                self._block = np.empty((self.BLOCK, self.features))
            block = self._block[: waiting.rows]
            np.copyto(block, waiting.features)
            sums[-1].add_features(block, waiting.rewards)
        waiting.clear()

    def _sums_on(self, device: str, key: Key) -> DeviceSums:
        if key not in self._on_device:
            self._on_device[key] = DeviceSums(self.features, len(key[0]), device)
        return self._on_device[key]

    def finish(self) -> None:
        """Sum the rows that still wait for a full block, and give the memory for blocks back.

        Whatever reads the sums does this first.
        """
        for key, waiting in self._waiting.items():
            if waiting.rows:
                self._sum(key, waiting)
        for key, there in self._on_device.items():
            sums = self._sums[key][-1]
            sums.gram += there.gram()
            sums.moments += there.moments()
        self._waiting.clear()
        self._on_device.clear()
        self._block = None

    def sums(self) -> list[tuple[Pattern, PatternStatistics]]:
        """Return all sums with their label patterns, in order; a pattern may come several times."""
        self.finish()
        return [(key[0], one) for key in sorted(self._sums) for one in self._sums[key]]

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Return the label patterns, in order."""
        self.finish()
        return tuple(sorted({pattern for pattern, _ in self._sums}))

    def folds(self) -> list[RidgeStatistics]:
        """Return the statistics of each fold. They refer to these sums, without a copy."""
        self.finish()
        return [
            self._view(key for key in self._sums if key[1] == fold)
            for fold in sorted({fold for _, fold in self._sums})
        ]

    def _view(self, keys: Iterable[Key]) -> RidgeStatistics:
        """Return the statistics of some keys, referring to these sums."""
        part = RidgeStatistics(self.features, self.objectives, self.device)
        for key in keys:
            part._sums[key] = list(self._sums[key])
            for one in self._sums[key]:
                one.shared = True
        return part

    def _sum_of(self, key: Key) -> PatternStatistics:
        """Return the sums of one key as one object, which belongs to the caller."""
        total = PatternStatistics.empty(self.features, len(key[0]))
        for one in self._sums.get(key, ()):
            total.add(one)
        return total

    def __add__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Return the statistics of both sets of rows together; sums are not copied."""
        self._check_same(other)
        self.finish()
        other.finish()
        total = self._view(self._sums)
        for key, sums in other._view(other._sums)._sums.items():
            total._sums.setdefault(key, []).extend(sums)
        return total

    def __sub__(self, other: RidgeStatistics) -> RidgeStatistics:
        """Return the statistics of these rows without the other ones, which must be among them.

        Raises:
            ArmormError: the other rows are more than these, in some label pattern and fold.
        """
        self._check_same(other)
        self.finish()
        other.finish()
        rest = RidgeStatistics(self.features, self.objectives, self.device)
        rest._sums = {key: [self._sum_of(key)] for key in self._sums}
        for key, sums in other._sums.items():
            mine = rest._sums.get(key, [PatternStatistics.empty(0, 0)])[0]
            theirs = sum(one.rows for one in sums)
            if mine.rows < theirs:
                raise ArmormError(
                    f"{theirs} rows with the labels {key[0]} cannot be taken out of {mine.rows}: "
                    "they were never added."
                )
            for one in sums:
                mine.add(one, -1)
        rest._sums = {key: sums for key, sums in rest._sums.items() if sums[0].rows}
        return rest

    def _check_same(self, other: RidgeStatistics) -> None:
        if (self.features, self.objectives) != (other.features, other.objectives):
            raise ArmormError(
                f"Statistics of {self.features} features and {self.objectives} objectives cannot "
                f"be combined with those of {other.features} and {other.objectives}."
            )

    @property
    def rows(self) -> int:
        """Number of rows that rate anything."""
        return sum(sums.rows for _, sums in self.sums())

    def rows_rating(self, objective: int) -> int:
        """Return the number of rows that rate the objective (a column)."""
        return sum(sums.rows for pattern, sums in self.sums() if objective in pattern)

    def patterns_rating(self, objective: int) -> tuple[Pattern, ...]:
        """Return the label patterns in which the objective occurs."""
        return tuple(pattern for pattern in self.patterns if objective in pattern)

    def gram(self, patterns: Iterable[Pattern]) -> Float[np.ndarray, "features features"]:
        """Return X'X over the rows of some patterns: its lower triangle, in Fortran order.

        It may be the sums' own memory: read it only.
        """
        wanted = set(patterns)
        grams = [sums.gram for pattern, sums in self.sums() if pattern in wanted]
        if len(grams) == 1:
            return grams[0]
        total = grams[0] + grams[1] if grams else np.zeros((self.features,) * 2, order="F")
        for gram in grams[2:]:
            total += gram
        return total

    def moment(self, objective: int) -> Float[np.ndarray, " features"]:
        """Return X'r over the rows that rate the objective."""
        total = np.zeros(self.features)
        for pattern, sums in self.sums():
            if objective in pattern:
                total += sums.moments[:, pattern.index(objective)]
        return total

    def squares(self, objective: int) -> float:
        """Return the sum of squared rewards over the rows that rate the objective."""
        total = 0.0
        for pattern, sums in self.sums():
            if objective in pattern:
                place = pattern.index(objective)
                total += float(sums.products[place, place])
        return total

    def to_bytes(self) -> bytes:
        """Return a safetensors file.

        Per pattern and fold it holds ``<columns>/<fold>.gram`` (the lower triangle, row by row),
        ``.moments``, ``.products``, ``.sums`` and ``.rows``, where columns are as in ``0-2-3``.
        """
        self.finish()
        shape = np.array([self.features, self.objectives])
        tensors: dict[str, npt.NDArray[np.generic]] = {"shape": shape}
        for pattern, fold in sorted(self._sums):
            statistics = self._sum_of((pattern, fold))
            name = f"{'-'.join(map(str, pattern))}/{fold}"
            tensors[f"{name}.rows"] = np.array([statistics.rows])
            tensors[f"{name}.gram"] = pack_triangle(statistics.gram)
            tensors[f"{name}.moments"] = np.ascontiguousarray(statistics.moments)
            tensors[f"{name}.products"] = statistics.products
            tensors[f"{name}.sums"] = statistics.sums
        content: bytes = save_safetensors(tensors)
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> RidgeStatistics:
        """Return the statistics that :meth:`to_bytes` wrote.

        Raises:
            StoreError: it is something else, or damaged.
        """
        try:
            tensors = load_safetensors(content)
            features, objectives = (int(size) for size in tensors["shape"])
            statistics = cls(features, objectives)
            for key in tensors:
                name, _, part = key.partition(".")
                if part == "rows":
                    columns, _, fold = name.partition("/")
                    pattern = tuple(int(column) for column in columns.split("-"))
                    statistics._sums[pattern, int(fold)] = [
                        PatternStatistics(
                            int(tensors[key][0]),
                            unpack_triangle(tensors[f"{name}.gram"], features),
                            tensors[f"{name}.moments"],
                            tensors[f"{name}.products"],
                            tensors[f"{name}.sums"],
                        )
                    ]
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"Ridge statistics cannot be read: {error}") from error
        return statistics


def total_statistics(parts: Sequence[RidgeStatistics]) -> RidgeStatistics:
    """Return the statistics of several sets of rows together, without a copy.

    Raises:
        ArmormError: there is no part.
    """
    if not parts:
        raise ArmormError("There is no rated row to fit on: all are held out, or there are none.")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _rows_with_equal_labels(
    rated: npt.NDArray[np.bool_], fold: Int[np.ndarray, " rows"]
) -> list[npt.NDArray[np.intp]]:
    """Return row numbers grouped by rows of ``rated`` and by fold, each group in order."""
    if not len(rated):
        return []
    # Sixty-four labels a word: sorting whole numbers is much quicker than sorting rows.
    words = np.zeros((len(rated), -(-rated.shape[1] // 64) * 8), np.uint8)
    bits = np.packbits(rated, axis=1)
    words[:, : bits.shape[1]] = bits
    keys = np.column_stack([words.view(np.uint64), fold.astype(np.uint64)])
    order = np.lexsort(keys.T)
    changes = np.flatnonzero((keys[order[1:]] != keys[order[:-1]]).any(axis=1)) + 1
    return [np.asarray(group) for group in np.split(order, changes)]


def _check_finite(features: Float[np.ndarray, "rows features"]) -> None:
    # One product shows any value that is not finite, at a fraction of the cost of looking.
    with np.errstate(all="ignore"):
        multiply = scipy.linalg.get_blas_funcs("gemv", (features,))
        sums = multiply(1.0, features.T, np.ones(features.shape[1]), trans=1)
        suspicious = ~np.isfinite(sums)
    # A sum may also overflow where every value is finite.
    suspicious[suspicious] = ~np.isfinite(features[suspicious]).all(axis=1)
    if suspicious.any():
        raise ArmormError(
            f"Feature row {int(np.argmax(suspicious))} is not finite. Did the backbone overflow? "
            "Try bfloat16 or float32 instead of float16."
        )
