"""Sufficient statistics of masked ridge regression: all that stage 1 needs from the rows.

Everything that ridge regression, its held-out errors and its uncertainty need from the data is
X'X, X'R and R'R over the rows that rate an objective.  Rows that carry the same labels share one
X'X, so the sums are kept per *label pattern*: the paper's 19 objectives come in 8 patterns.  The
sums add up over shards, machines and data sets, and subtract again, so the rows are read once and
can be forgotten exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from scipy.linalg import blas

from armorm.errors import ArmormError, StoreError
from armorm.heads.triangles import pack_triangle, unpack_triangle

Pattern = tuple[int, ...]  # columns of the objectives that a row rates, ascending


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
    """

    rows: int
    gram: Float[np.ndarray, "features features"]
    moments: Float[np.ndarray, "features rated"]
    products: Float[np.ndarray, "rated rated"]
    sums: Float[np.ndarray, " rated"]

    @classmethod
    def empty(cls, features: int, rated: int) -> PatternStatistics:
        return cls(
            0,
            np.zeros((features, features), order="F"),
            np.zeros((features, rated)),
            np.zeros((rated, rated)),
            np.zeros(rated),
        )

    def add_rows(
        self,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows rated"],
    ) -> None:
        """Add rows, both in float64."""
        self.rows += len(features)
        # A symmetric update writes one triangle in place: half the work of a general product.
        self.gram = blas.dsyrk(1.0, features.T, beta=1.0, c=self.gram, lower=True, overwrite_c=True)
        # In this order the narrow product reads the features along their rows: three times as fast.
        self.moments += (rewards.T @ features).T
        self.products += rewards.T @ rewards
        self.sums += rewards.sum(axis=0)

    def add(self, other: PatternStatistics, sign: int = 1) -> None:
        """Add, or with ``sign=-1`` take away, the sums over other rows."""
        self.rows += sign * other.rows
        self.gram += sign * other.gram
        self.moments += sign * other.moments
        self.products += sign * other.products
        self.sums += sign * other.sums


@dataclass(slots=True)
class _Waiting:
    """Rows of one pattern that are not yet summed: large blocks make fast products."""

    rows: int = 0
    features: list[npt.NDArray[np.generic]] = field(default_factory=list)
    rewards: list[npt.NDArray[np.float64]] = field(default_factory=list)


class RidgeStatistics:
    """All that ridge regression needs from the data, additive over any split of the rows.

    Args:
        features: Length d of a feature.
        objectives: Number k of objectives.
    """

    BLOCK = 4096  # rows of one pattern summed at a time: bounds the memory, not the result

    def __init__(self, features: int, objectives: int) -> None:
        self.features = features
        self.objectives = objectives
        self._patterns: dict[Pattern, PatternStatistics] = {}
        self._waiting: dict[Pattern, _Waiting] = {}

    def update(
        self,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows objectives"],
    ) -> None:
        """Add rows. A missing reward is NaN; a row without any reward is ignored.

        Raises:
            ArmormError: a feature is not finite; none of these rows is added.
        """
        features, rewards = np.asarray(features), np.asarray(rewards, np.float64)
        _check_finite(features)
        rated = ~np.isnan(rewards)
        for rows in _rows_with_equal_labels(rated):
            mask = rated[rows[0]]
            if mask.any():
                pattern = tuple(int(column) for column in np.flatnonzero(mask))
                self._put(pattern, features[rows], rewards[rows][:, mask])

    def _put(
        self,
        pattern: Pattern,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows rated"],
    ) -> None:
        waiting = self._waiting.setdefault(pattern, _Waiting())
        waiting.rows += len(features)
        waiting.features.append(features)
        waiting.rewards.append(rewards)
        if waiting.rows >= self.BLOCK:
            self._sum(pattern)

    def _sum(self, pattern: Pattern) -> None:
        waiting = self._waiting.pop(pattern)
        statistics = self._patterns.setdefault(
            pattern, PatternStatistics.empty(self.features, len(pattern))
        )
        rewards = np.concatenate(waiting.rewards)
        features = np.concatenate(waiting.features)
        for start in range(0, len(features), self.BLOCK):
            block = features[start : start + self.BLOCK].astype(np.float64)
            statistics.add_rows(block, rewards[start : start + self.BLOCK])

    @property
    def patterns(self) -> dict[Pattern, PatternStatistics]:
        """The sums of each label pattern."""
        for pattern in list(self._waiting):
            self._sum(pattern)
        return self._patterns

    def __add__(self, other: RidgeStatistics) -> RidgeStatistics:
        """The statistics of both sets of rows together."""
        return self._combined(other, 1)

    def __sub__(self, other: RidgeStatistics) -> RidgeStatistics:
        """The statistics of these rows without the other ones, which must be among them.

        Raises:
            ArmormError: the other rows are more than these, in some label pattern.
        """
        for pattern, theirs in other.patterns.items():
            mine = self.patterns.get(pattern)
            if mine is None or mine.rows < theirs.rows:
                raise ArmormError(
                    f"{theirs.rows} rows with the labels {pattern} cannot be taken out of "
                    f"{mine.rows if mine else 0}: they were never added."
                )
        return self._combined(other, -1)

    def _combined(self, other: RidgeStatistics, sign: int) -> RidgeStatistics:
        if (self.features, self.objectives) != (other.features, other.objectives):
            raise ArmormError(
                f"Statistics of {self.features} features and {self.objectives} objectives cannot "
                f"be added to those of {other.features} and {other.objectives}."
            )
        total = RidgeStatistics(self.features, self.objectives)
        for pattern in sorted(self.patterns.keys() | other.patterns.keys()):
            both = PatternStatistics.empty(self.features, len(pattern))
            if pattern in self.patterns:
                both.add(self.patterns[pattern])
            if pattern in other.patterns:
                both.add(other.patterns[pattern], sign)
            if both.rows:
                total._patterns[pattern] = both
        return total

    @property
    def rows(self) -> int:
        """Number of rows that rate anything."""
        return sum(pattern.rows for pattern in self.patterns.values())

    def rows_rating(self, objective: int) -> int:
        """Number of rows that rate the objective (a column)."""
        return sum(p.rows for pattern, p in self.patterns.items() if objective in pattern)

    def patterns_rating(self, objective: int) -> tuple[Pattern, ...]:
        """The label patterns in which the objective occurs."""
        return tuple(sorted(pattern for pattern in self.patterns if objective in pattern))

    def gram(self, patterns: Iterable[Pattern]) -> Float[np.ndarray, "features features"]:
        """X'X over the rows of some patterns: its lower triangle, in Fortran order."""
        total = np.zeros((self.features, self.features), order="F")
        for pattern in patterns:
            if pattern in self.patterns:
                total += self.patterns[pattern].gram
        return total

    def moment(self, objective: int) -> Float[np.ndarray, " features"]:
        """X'r over the rows that rate the objective."""
        total = np.zeros(self.features)
        for pattern in self.patterns_rating(objective):
            total += self.patterns[pattern].moments[:, pattern.index(objective)]
        return total

    def squares(self, objective: int) -> float:
        """Sum of squared rewards over the rows that rate the objective."""
        patterns = self.patterns_rating(objective)
        places = {pattern: pattern.index(objective) for pattern in patterns}
        return float(sum(self.patterns[p].products[i, i] for p, i in places.items()))

    def to_bytes(self) -> bytes:
        """A safetensors file: per pattern ``<columns>.gram`` (its lower triangle, row by row),
        ``.moments``, ``.products``, ``.sums`` and ``.rows``, where columns are as in ``0-2-3``."""
        shape = np.array([self.features, self.objectives])
        tensors: dict[str, npt.NDArray[np.generic]] = {"shape": shape}
        for pattern, statistics in sorted(self.patterns.items()):
            name = "-".join(map(str, pattern))
            tensors[f"{name}.rows"] = np.array([statistics.rows])
            tensors[f"{name}.gram"] = pack_triangle(statistics.gram)
            tensors[f"{name}.moments"] = np.ascontiguousarray(statistics.moments)
            tensors[f"{name}.products"] = statistics.products
            tensors[f"{name}.sums"] = statistics.sums
        content: bytes = save_safetensors(tensors)
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> RidgeStatistics:
        """What :meth:`to_bytes` wrote.

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
                    pattern = tuple(int(column) for column in name.split("-"))
                    statistics._patterns[pattern] = PatternStatistics(
                        int(tensors[key][0]),
                        unpack_triangle(tensors[f"{name}.gram"], features),
                        tensors[f"{name}.moments"],
                        tensors[f"{name}.products"],
                        tensors[f"{name}.sums"],
                    )
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"Ridge statistics cannot be read: {error}") from error
        return statistics


def total_statistics(parts: Sequence[RidgeStatistics]) -> RidgeStatistics:
    """The statistics of several sets of rows together."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _rows_with_equal_labels(rated: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Row numbers grouped by their rows of ``rated``, each group in order."""
    if not len(rated):
        return []
    # Sixty-four labels a word: sorting whole numbers is much quicker than sorting rows.
    words = np.zeros((len(rated), -(-rated.shape[1] // 64) * 8), np.uint8)
    bits = np.packbits(rated, axis=1)
    words[:, : bits.shape[1]] = bits
    order = np.lexsort(words.view(np.uint64).T)
    changes = np.flatnonzero((words[order[1:]] != words[order[:-1]]).any(axis=1)) + 1
    return [np.asarray(group) for group in np.split(order, changes)]


def _check_finite(features: Float[np.ndarray, "rows features"]) -> None:
    # One product shows any value that is not finite, at a fraction of the cost of looking.
    with np.errstate(all="ignore"):
        suspicious = ~np.isfinite(features.sum(axis=1, dtype=np.float64))
    if suspicious.any():
        raise ArmormError(
            f"Feature row {int(np.argmax(suspicious))} is not finite. Did the backbone overflow? "
            "Try bfloat16 or float32 instead of float16."
        )
