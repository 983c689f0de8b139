"""Training rows with the largest influence on a prediction, and their text where it is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from armorm.conversations import (
    Conversation,
    RatedResponse,
    row_key,
    validate_prompt,
    validate_response,
)
from armorm.conversations.messages import Message, Tally
from armorm.data.reading import rated_rows
from armorm.errors import ArmormError
from armorm.features import FeatureStore
from armorm.heads import (
    Influence,
    RewardHead,
    most_influential_rows,
    most_surprising_rows,
)
from armorm.heads.uncertainty import ridge_factor
from armorm.model.loading import load_checkpoint
from armorm.objectives import Objective
from armorm.training.head_stage import load_head
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import load_backbone
from armorm.training.statistics import HeadStatistics


@dataclass(frozen=True, slots=True)
class InfluentialRow:
    """A training row and its effect on a prediction.

    Attributes:
        id: Of the row.
        source: Of the row.
        effect: Prediction with the row minus without it, in the raters' units.
        rating: The row's own rating.
        predicted: What the head predicts for the row.
        copies: Copies of the row in the data, which the effect counts together.
        prompt: Its conversation, where the data can still be read.
        response: Its response, likewise.
    """

    id: str
    source: str
    effect: float
    rating: float
    predicted: float
    copies: int
    prompt: tuple[Message, ...] | None
    response: str | None


@dataclass(frozen=True, slots=True)
class InfluenceReport:
    """The rows that pushed one prediction most.

    Attributes:
        objective: What was predicted.
        prediction: In the raters' units.
        rows: The strongest first, up or down.
        rows_searched: Training rows that rate the objective and were looked at.
        rows_elsewhere: Rows of the head whose features are not in this run folder (it was merged
            from others), so that they could not be looked at.
    """

    objective: str
    prediction: float
    rows: tuple[InfluentialRow, ...]
    rows_searched: int
    rows_elsewhere: int

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return asdict(self)


def head_influence(
    run: str | Path,
    prompt: Conversation | str,
    response: str,
    *,
    objective: str | None = None,
    top: int = 10,
    with_text: bool = True,
) -> InfluenceReport:
    """Find the training rows whose absence would change a prediction most, exactly.

    The stored features of the run are read once; nothing is fitted again.

    Args:
        run: Run folder of ``armorm train``, with its features.
        prompt: Messages, or text.
        response: The response whose prediction is asked about.
        objective: Name of the objective; default the one that adds most to the model's score.
        top: How many rows.
        with_text: Look the rows' texts up in the recipe's data.

    Raises:
        ArmormError: no objective is named and there is no model yet, or the head is singular.
        RecipeError: there is no such objective.
        StoreError: the run has no features or no head.
    """
    run = Path(run)
    recipe = Recipe.load(run / "recipe.yaml")
    _refuse_prefixes(recipe)
    if recipe.trains_head_with_backbone:
        raise ArmormError(
            f"The head of {run} was trained together with its backbone: what one row did to it has "
            "no closed form. Influence needs head.method: ridge."
        )
    statistics = HeadStatistics.load(run / "head" / "statistics")
    objectives = statistics.objectives
    wanted = None if objective is None else objectives.column(objective)
    head, _ = load_head(run / "head")
    feature, at_prompt = _features(recipe, run, prompt, response)
    column = _decisive_objective(run, head, feature, at_prompt) if wanted is None else wanted
    asked = objectives[column]
    factor = ridge_factor(statistics.total(), column, head.alphas[column], asked.name)
    rows = _TrainingRows(run, statistics)
    found = most_influential_rows(feature, rows.blocks(column), factor, head.weight[column], top)
    lines = rows.lines([influence.row for influence in found])
    texts = row_texts(recipe, {line["row_key"] for line in lines}) if with_text else {}
    return InfluenceReport(
        objective=asked.name,
        prediction=asked.to_rating(float(head.weight[column] @ feature)),
        rows=tuple(
            _described(influence, line, texts.get(line["row_key"]), asked)
            for influence, line in zip(found, lines, strict=True)
        ),
        rows_searched=rows.searched,
        rows_elsewhere=rows.elsewhere,
    )


def label_suspects(
    run: str | Path, *, top: int = 5, with_text: bool = True
) -> dict[str, tuple[InfluentialRow, ...]]:
    """Find the training rows of each objective whose rating the other rows contradict most.

    Args:
        run: Run folder of ``armorm train``, with its features.
        top: Rows of each objective.
        with_text: Look the rows' texts up in the recipe's data.

    Returns:
        By objective, the largest distance first. ``effect`` is the row's pull on its own
        prediction, so ``predicted - effect`` is the prediction without it.

    Raises:
        ArmormError: The head was trained together with its backbone, or is singular.
        StoreError: The run has no features or no head.
    """
    run = Path(run)
    recipe = Recipe.load(run / "recipe.yaml")
    _refuse_prefixes(recipe)
    if recipe.trains_head_with_backbone:
        raise ArmormError("A head that was trained with its backbone has no leave-one-out form.")
    head, _ = load_head(run / "head")
    statistics = HeadStatistics.load(run / "head" / "statistics")
    rows, total = _TrainingRows(run, statistics), statistics.total()
    found: dict[str, list[Influence]] = {}
    objectives = statistics.objectives
    for column, objective in enumerate(objectives):
        factor = ridge_factor(total, column, head.alphas[column], objective.name)
        blocks = rows.blocks(column)
        found[objective.name] = most_surprising_rows(blocks, factor, head.weight[column], top)
    lines = {
        name: rows.lines([influence.row for influence in suspects])
        for name, suspects in found.items()
    }
    keys = {line["row_key"] for several in lines.values() for line in several}
    texts = row_texts(recipe, keys) if with_text else {}
    return {
        objective.name: tuple(
            _described(influence, line, texts.get(line["row_key"]), objective)
            for influence, line in zip(found[objective.name], lines[objective.name], strict=True)
        )
        for objective in objectives
    }


def _features(
    recipe: Recipe, run: Path, prompt: Conversation | str, response: str
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, " features"]]:
    """Return the states at the end of the response and of the prompt."""
    backbone = load_backbone(recipe, run)
    encoded = backbone.encoder.encode(validate_prompt(prompt), [validate_response(response)])
    features = backbone.features([encoded])
    return features.responses[0].double().numpy(), features.prompts[0].double().numpy()


def _decisive_objective(
    run: Path,
    head: RewardHead,
    feature: Float[np.ndarray, " features"],
    at_prompt: Float[np.ndarray, " features"],
) -> int:
    """Return the objective that adds most to the score, up or down."""
    if not (run / "model").is_dir():
        raise ArmormError(
            f"{run} has no model yet that would say which objective counts here. Name one with "
            "--objective, or run `armorm fit-gate` first."
        )
    heads = load_checkpoint(run / "model").heads
    with torch.inference_mode():
        gating = heads.gate(torch.from_numpy(at_prompt).float()[None])
    coefficients = (gating @ heads.transform.T)[0].numpy()
    for column, objective in enumerate(heads.objectives):
        if objective.mirrors is not None:  # one quantity with its reverse, at the end
            coefficients[heads.objectives.column(objective.mirrors)] -= coefficients[column]
    return int(np.argmax(np.abs(coefficients[: len(head.weight)] * (head.weight @ feature))))


class _TrainingRows:
    """The rows of the run's feature stores that are in the head's statistics.

    Attributes:
        searched: Rows that rate the objective, once :meth:`blocks` has run.
        elsewhere: Rows of the head that are in none of the stores.
    """

    def __init__(self, run: Path, statistics: HeadStatistics) -> None:
        folders = [run / "features" / "rated", *sorted((run / "features").glob("add-*"))]
        self.stores = [FeatureStore.open(folder) for folder in folders]
        self.searched = 0
        left = statistics.copies()
        used = [_used(store, left) for store in self.stores]
        self.elsewhere = left.total()
        found = statistics.copies() - left
        self.copies = [
            _first_copies(store, rows, found) for store, rows in zip(self.stores, used, strict=True)
        ]

    def blocks(
        self, column: int
    ) -> Iterator[
        tuple[Float[np.ndarray, "_ features"], Float[np.ndarray, " _"], Int[np.ndarray, " _"]]
    ]:
        """Yield features, unit rewards of one objective and copies of each row.

        Rewards are NaN for rows that the head has not seen, and for further copies of a row.
        """
        for store, copies in zip(self.stores, self.copies, strict=True):
            rewards = np.where(copies > 0, store.ratings()[0][:, column], np.nan)
            self.searched += int(copies[~np.isnan(rewards)].sum())
            start = 0
            for shard in store.response_features():
                rows = slice(start, start + len(shard))
                yield shard.float().numpy(), rewards[rows], copies[rows]
                start += len(shard)

    def lines(self, numbers: list[int]) -> list[dict[str, Any]]:
        """Return the index lines of rows, by their number through all blocks."""
        starts = np.cumsum([0, *(len(copies) for copies in self.copies)])
        lines = []
        for number in numbers:
            store = int(np.searchsorted(starts, number, side="right")) - 1
            place = number - int(starts[store])
            lines += self.stores[store].responses().slice(place, 1).to_pylist()
        return lines


def _used(store: FeatureStore, known: Counter[str]) -> npt.NDArray[np.bool_]:
    """Return a mask of the responses in the head, and remove them from ``known``."""
    lines = store.responses()
    used = np.zeros(lines.num_rows, dtype=bool)
    pairs = zip(lines["row_key"].to_pylist(), lines["held_out"].to_pylist(), strict=True)
    for number, (key, held_out) in enumerate(pairs):
        if not held_out and known[key] > 0:
            known[key] -= 1
            used[number] = True
    return used


def _first_copies(
    store: FeatureStore, used: npt.NDArray[np.bool_], found: Counter[str]
) -> npt.NDArray[np.int64]:
    """Return the number of copies of each row: all of them at the first one, 0 at the others."""
    copies = np.zeros(len(used), np.int64)
    keys = store.responses()["row_key"].to_pylist()
    for number in np.flatnonzero(used):
        copies[number] = found.pop(keys[number], 0)
    return copies


def row_texts(recipe: Recipe, keys: Collection[str]) -> dict[str, RatedResponse]:
    """Return the rows with these keys, as far as the recipe's data can still be read."""
    found: dict[str, RatedResponse] = {}
    for source in recipe.data.rated:
        try:
            for row in rated_rows(source, recipe.objective_set(), Tally()):
                if isinstance(row, RatedResponse):
                    key = row_key(row)
                    if key in keys:
                        found[key] = row
                if len(found) == len(keys):
                    return found
        except (ArmormError, OSError):  # moved or deleted: the rows keep their ids
            continue
    return found


def _described(
    influence: Influence, line: dict[str, Any], text: RatedResponse | None, objective: Objective
) -> InfluentialRow:
    return InfluentialRow(
        id=line["id"],
        source=line["source"],
        effect=influence.effect * (objective.unit_one - objective.unit_zero),
        rating=objective.to_rating(influence.rating),
        predicted=objective.to_rating(influence.predicted),
        copies=influence.copies,
        prompt=None if text is None else text.prompt,
        response=None if text is None else text.response,
    )


def _refuse_prefixes(recipe: Recipe) -> None:
    if recipe.head.prefixes:
        raise ArmormError(
            "The head was fitted on beginnings of responses too (head.prefixes), and what a row "
            "did to it is known for complete responses only. Influence needs head.prefixes: false."
        )
