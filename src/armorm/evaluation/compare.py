"""Paired comparison of models that judged the same rows: differences, intervals, tests.

Two models that are right on the same 90 % of the rows are alike, two that are right on different
90 % are not: only a comparison row by row can tell.  Every test here is paired, and the p-values of
all pairs of models are corrected together (Holm 1979).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic

import numpy as np
import numpy.typing as npt
import scipy.stats
from jaxtyping import Float

from armorm.conversations import prompt_key
from armorm.errors import ArmormError
from armorm.evaluation.scorers.base import Row, ScoredRow
from armorm.heads.metrics import holm, mcnemar

EXCHANGES = 9999
"""Random exchanges of a permutation test; its smallest p-value is their reciprocal."""

RESAMPLES = 2000
"""Resamples of a bootstrap interval."""


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Two models on the same rows.

    Attributes:
        a: Name of the first model.
        b: Name of the second one.
        n: Rows that both judged.
        score_a: Mean credit of the first model, such as its accuracy.
        score_b: Mean credit of the second one.
        difference: ``score_a - score_b``.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        only_a: Rows on which the first model has more credit.
        only_b: Rows on which the second one has more.
        p_value: Two-sided p of the hypothesis that both are equally good.
        p_holm: The same, corrected for the number of pairs of models.
        test: ``McNemar`` for rows that are right or wrong, ``permutation`` for other credits.
    """

    a: str
    b: str
    n: int
    score_a: float
    score_b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float
    p_holm: float
    test: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


def compare_models(
    credits_of: Mapping[str, npt.ArrayLike],
    *,
    weights: npt.ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> list[ModelComparison]:
    """Compare every pair of models, with p-values corrected for the number of pairs.

    Rows that are simply right or wrong are compared by McNemar's exact test, with the interval of
    Bonett & Price (2012).  Partial credits, weights and groups need resampling: a permutation test
    that exchanges the two models at random, group by group, and a bootstrap interval.

    Args:
        credits_of: Credit of each row by model, mostly 0 or 1, in the same order for all models.
        weights: Weight of each row in the score; default equal ones.
        groups: Group of each row, such as its prompt: rows of a group are not independent and are
            exchanged and drawn together. Default: every row by itself.
        seed: Seed of the resampling.

    Raises:
        ArmormError: The models judged different numbers of rows, or none; or a credit is NaN.

    Example:
        >>> from armorm.evaluation.compare import compare_models
        >>> a, b = [1] * 18 + [0] * 2, [1] * 10 + [0] * 10
        >>> (found,) = compare_models({"gate": a, "length": b})
        >>> found.difference, found.only_a, found.only_b, found.p_value
        (0.4, 8, 0, 0.0078125)
        >>> round(found.low, 3), round(found.high, 3)
        (0.126, 0.601)
    """
    rows = {name: np.asarray(credit, np.float64) for name, credit in credits_of.items()}
    _check(rows)
    weight = None if weights is None else np.asarray(weights, np.float64)
    found = [
        _compare(a, rows[a], b, rows[b], weight, groups, seed)
        for a, b in itertools.combinations(rows, 2)
    ]
    corrected = holm([one.p_value for one in found])
    return [
        ModelComparison(**{**one.as_dict(), "p_holm": p})
        for one, p in zip(found, corrected, strict=True)
    ]


def _check(rows: Mapping[str, Float[np.ndarray, " rows"]]) -> None:
    counts = {name: len(credit) for name, credit in rows.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ArmormError(f"Models are compared on the same rows, at least one; there are: {told}.")
    for name, credit in rows.items():
        if np.isnan(credit).any():
            raise ArmormError(
                f"{name} has no credit (NaN) for row {int(np.isnan(credit).argmax()) + 1}. Compare "
                "the models on the rows that all of them scored."
            )


def _compare(
    name_a: str,
    a: Float[np.ndarray, " rows"],
    name_b: str,
    b: Float[np.ndarray, " rows"],
    weights: Float[np.ndarray, " rows"] | None,
    groups: Sequence[Hashable] | None,
    seed: int,
) -> ModelComparison:
    weight = np.full(len(a), 1 / len(a)) if weights is None else weights / weights.sum()
    difference = float(weight @ (a - b))
    grouped = groups is not None and len(set(groups)) < len(a)
    right_or_wrong = np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()
    only_a, only_b = int((a > b).sum()), int((a < b).sum())
    if weights is None and not grouped and right_or_wrong:
        test, p_value = "McNemar", mcnemar(a, b).p_value
        low, high = _bonett_price(only_a, only_b, len(a))
    else:
        # Rows of a group act as one: their weighted differences are added up.
        part, size = _by_group(weight * (a - b), groups), _by_group(weight, groups)
        test, p_value = "permutation", _exchange_test(part, seed)
        low, high = _bootstrap(part, size, seed)
    return ModelComparison(
        a=name_a,
        b=name_b,
        n=len(a),
        score_a=float(weight @ a),
        score_b=float(weight @ b),
        difference=difference,
        low=low,
        high=high,
        only_a=only_a,
        only_b=only_b,
        p_value=p_value,
        p_holm=p_value,
        test=test,
    )


def _bonett_price(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Return the adjusted Wald interval of a difference of paired shares.

    One row is added to each kind of disagreement, which keeps the coverage near 95 % for small n
    and for shares near 0 and 1, and gives rows without any disagreement an interval too.
    """
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(max(a + b - (a - b) ** 2, 0.0) / (n + 2))
    return max(-1.0, float(a - b - half)), min(1.0, float(a - b + half))


def _by_group(
    values: Float[np.ndarray, " rows"], groups: Sequence[Hashable] | None
) -> Float[np.ndarray, " groups"]:
    if groups is None:
        return values
    numbers: dict[Hashable, int] = {}
    number = [numbers.setdefault(group, len(numbers)) for group in groups]
    return np.bincount(number, weights=values)


def _exchange_test(part: Float[np.ndarray, " groups"], seed: int) -> float:
    """Return the two-sided p of the sum, when each part's sign is a coin's."""
    part = part[part != 0]
    if not len(part):
        return 1.0
    generator = np.random.default_rng([seed, 0])
    reached = 0
    for size in _chunks(EXCHANGES, len(part)):
        bits = generator.integers(0, 256, (size, -(-len(part) // 8)), np.uint8)
        kept = np.unpackbits(bits, axis=1, count=len(part)).astype(np.float64)
        sums = 2 * (kept @ part) - part.sum()
        # The tolerance counts sums that equal the observed one up to rounding.
        reached += int((np.abs(sums) >= abs(part.sum()) * (1 - 1e-12)).sum())
    return (reached + 1) / (EXCHANGES + 1)


def _bootstrap(
    part: Float[np.ndarray, " groups"], size: Float[np.ndarray, " groups"], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(part) / sum(size) over redrawn groups."""
    generator = np.random.default_rng([seed, 1])
    means = []
    for draws in _chunks(RESAMPLES, len(part)):
        drawn = generator.integers(0, len(part), (draws, len(part)))
        means.append(part[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _chunks(draws: int, width: int) -> list[int]:
    """Cut random draws into parts of at most a million numbers."""
    step = max(1, 2**20 // width)
    return [min(step, draws - start) for start in range(0, draws, step)]


@dataclass(frozen=True, slots=True)
class CommonRows(Generic[Row]):
    """Rows that several models scored, in the order of the first model.

    Attributes:
        scored: Scored rows by model, in one order.
        dropped: By model, the number of its scored rows that another model has no scores for.
    """

    scored: dict[str, list[ScoredRow[Row]]]
    dropped: dict[str, int]


def common_rows(scored: Mapping[str, Sequence[ScoredRow[Row]]]) -> CommonRows[Row]:
    """Return the rows that all models have scores for: what is too long for one is left out.

    Rows are the same if their ids, prompts and responses are.

    Raises:
        ArmormError: There is no such row.
    """
    keyed = {name: _keyed(rows) for name, rows in scored.items()}
    tables = list(keyed.values())
    shared = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not shared:
        raise ArmormError(
            f"No row has scores of all models ({', '.join(scored)}), so there is nothing to "
            "compare them on."
        )
    return CommonRows(
        {name: [table[key] for key in shared] for name, table in keyed.items()},
        {name: len(table) - len(shared) for name, table in keyed.items()},
    )


def _keyed(rows: Sequence[ScoredRow[Row]]) -> dict[Hashable, ScoredRow[Row]]:
    seen: defaultdict[Hashable, int] = defaultdict(int)
    keyed: dict[Hashable, ScoredRow[Row]] = {}
    for one in rows:
        key = (one.row.id, prompt_key(one.row.prompt), tuple(one.row.responses))
        keyed[key, seen[key]] = one  # the same row may occur twice
        seen[key] += 1
    return keyed
