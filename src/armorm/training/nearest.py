"""Rated rows of a run whose features are nearest to given ones, for the drift monitor's alarms."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from armorm.errors import ArmormError
from armorm.evaluation.monitoring import (
    DriftMonitor,
    DriftReporter,
    MonitorOptions,
    NearRow,
    ReportingOptions,
)
from armorm.features import FeatureStore
from armorm.model import RewardModel
from armorm.objectives import ObjectiveSet
from armorm.training.influence import row_texts
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder

Array = npt.NDArray[np.float64]


def drift_reporter(
    model: RewardModel,
    options: MonitorOptions | None = None,
    reporting: ReportingOptions | None = None,
    **callbacks: Any,
) -> DriftReporter:
    """Return a monitor of what a model scores, with what its alarms do.

    Args:
        model: The model.
        options: Baseline, false alarms, streams.
        reporting: Webhook, saved state, and the run folder with the rated rows.
        **callbacks: ``on_alarm`` and ``on_step`` of
            :class:`~armorm.evaluation.monitoring.DriftReporter`.

    Raises:
        ArmormError: The state belongs to something else, or the rated rows to another backbone.
        StoreError: The run folder has no features.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.evaluation.monitoring import ReportingOptions
        >>> from armorm.training.nearest import drift_reporter
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> with drift_reporter(model, reporting=ReportingOptions(store="runs/quickstart")) as one:
        ...     one.monitor.learning
        True
    """
    reporting = reporting or ReportingOptions()
    rows = None
    if reporting.store is not None:
        rows = RatedRowsOfRun(reporting.store)
        rows.check_features(model.heads.weight.shape[1])
    return DriftReporter(DriftMonitor.of(model, options), reporting, rows, **callbacks)


class RatedRowsOfRun:
    """Rated rows of a run folder, by the likeness of features.

    The likeness is the cosine of the angle between two features, both less the rated rows' mean,
    which all features of a backbone share.

    Args:
        run: Run folder of ``armorm train``, with its features.
        top: Number of rows that a search returns.
        with_text: Look the rows' texts up in the recipe's data.

    Raises:
        StoreError: The run has no features.

    Example:
        >>> from armorm import RewardModel
        >>> from armorm.training.nearest import RatedRowsOfRun
        >>> model = RewardModel.from_pretrained("runs/quickstart/model")
        >>> prompt = [{"role": "user", "content": "What is 2 plus 3?"}]
        >>> encoded = [model.backbone.encoder.encode(prompt, ["2 plus 3 is 5."])]
        >>> features = model.predict(encoded).features.double().numpy()
        >>> rows = RatedRowsOfRun("runs/quickstart", top=2).nearest(features)
        >>> len(rows), rows[0].similarity >= rows[1].similarity > 0.5
        (2, True)
    """

    def __init__(self, run: str | Path, *, top: int = 5, with_text: bool = True) -> None:
        folder = RunFolder.of(run)
        self._folder, self._top, self._with_text = folder, top, with_text
        places = [folder.rated_features, *sorted(folder.features.glob("add-*"))]
        self._stores = [FeatureStore.open(place) for place in places]

    def check_features(self, size: int) -> None:
        """Check that the rows' features have the size of a model's.

        Raises:
            ArmormError: They are another backbone's.
        """
        found = next(shard.shape[1] for _, shard in self._shards())
        if found != size:
            raise ArmormError(
                f"{self._folder.path} holds features of size {found}, and the model's have size "
                f"{size}. Name the run folder that the model comes from."
            )

    def nearest(self, features: Float[np.ndarray, "n d"]) -> tuple[NearRow, ...]:
        """Return the rows nearest to any of n features, the nearest first."""
        wanted = _unit(np.asarray(features, np.float64) - self._mean)
        best: list[tuple[float, int, int]] = []
        start = [0] * len(self._stores)
        for number, shard in self._shards():
            likeness = (_unit(shard - self._mean) @ wanted.T).max(axis=1)
            for place in np.argsort(-likeness)[: self._top]:
                heapq.heappush(best, (float(likeness[place]), number, start[number] + int(place)))
            best = heapq.nlargest(self._top, best)
            heapq.heapify(best)
            start[number] += len(shard)
        found = sorted(best, reverse=True)
        lines = [
            self._stores[number].responses().slice(row, 1).to_pylist()[0]
            for _, number, row in found
        ]
        texts = self._texts({line["row_key"] for line in lines})
        return tuple(
            self._described(similarity, number, row, line, texts)
            for (similarity, number, row), line in zip(found, lines, strict=True)
        )

    @cached_property
    def _mean(self) -> Array:
        total, rows = np.zeros(1), 0
        for _, shard in self._shards():
            total, rows = total + shard.sum(axis=0), rows + len(shard)
        mean: Array = total / max(rows, 1)
        return mean

    def _shards(self) -> Iterator[tuple[int, Array]]:
        """Yield features with the number of their store."""
        for number, store in enumerate(self._stores):
            for shard in store.response_features():
                yield number, shard.double().numpy()

    def _texts(self, keys: set[str]) -> dict[str, Any]:
        if not self._with_text:
            return {}
        return dict(row_texts(Recipe.load(self._folder.recipe), keys))

    def _described(
        self, similarity: float, number: int, row: int, line: dict[str, Any], texts: dict[str, Any]
    ) -> NearRow:
        store = self._stores[number]
        text = texts.get(line["row_key"])
        return NearRow(
            id=line["id"],
            source=line["source"],
            similarity=similarity,
            ratings=_ratings(store.ratings()[0][row], store.objectives),
            prompt=None if text is None else list(text.prompt),
            response=None if text is None else text.response,
        )


def _unit(rows: Array) -> Array:
    """Return the rows with length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Array = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return units


def _ratings(rewards: Float[np.ndarray, " k"], objectives: ObjectiveSet) -> dict[str, float]:
    """Return the ratings that a row has, in the raters' units."""
    return {
        objective.name: objective.to_rating(float(reward))
        for objective, reward in zip(objectives, rewards, strict=True)
        if not np.isnan(reward)
    }
