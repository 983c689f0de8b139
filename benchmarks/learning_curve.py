"""Held-out accuracy by training pairs or rated rows: gate, fixed weights, linear head.

Needs the features and the head of a run::

    python benchmarks/learning_curve.py runs/quickstart --pairs 300 --pairs 600 --seeds 3
    python benchmarks/learning_curve.py runs/quickstart --rated --rows 300 --rows 600 --seeds 3

Training prompts are drawn anew for every seed, and the gate's seed changes with them.  Where all
pairs or rows are trained on, only the gate's seed changes.  ``--rated`` fits the head anew on some
of the rated rows, of each source its share and at least ten prompts, and stage 2 on all pairs.  An
interval is Wilson's, of the mean accuracy over the seeds; gains are of the gate over each rival,
with McNemar's p of the median seed.  R² and Spearman are means and medians over the objectives with
at least 20 held-out ratings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import typer
from jaxtyping import Float

from armorm import Recipe, fit_gate
from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import RidgeStatistics, fit_fixed_weights, fit_reward_head
from armorm.heads.gating import margins
from armorm.heads.metrics import mcnemar
from armorm.intervals import wilson_interval
from armorm.objectives import ObjectiveSet
from armorm.training.gate_stage import debias, reward_pairs
from armorm.training.head_stage import held_out_fits, load_head, rewards_of_responses
from armorm.training.linear_rival import bradley_terry_head, held_out_margins
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import fitted_objectives

RIVALS = ("fixed_weights", "bradley_terry_head")
LEAST_PROMPTS = 10
LEAST_HELD_OUT = 20
PAIRS, ROWS = [300, 600, 1250, 2500], [300, 600, 1250, 2500, 5000]

Rewards = Float[np.ndarray, "responses objectives"]


def main(
    run: Annotated[Path, typer.Argument(help="Run folder with features and head.")],
    pairs: Annotated[list[int] | None, typer.Option(help="Numbers of training pairs.")] = None,
    rated: Annotated[bool, typer.Option("--rated", help="By rated rows, not by pairs.")] = False,
    rows: Annotated[list[int] | None, typer.Option(help="Numbers of rated rows.")] = None,
    seeds: int = 3,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Recipe keys.")] = None,
) -> None:
    """Print the learning curve as JSON, the last point being all training pairs or rows."""
    folder = RunFolder.of(run)
    recipe = Recipe.load(folder.recipe, overrides or [])
    store = FeatureStore.open(folder.preference_features)
    stage = _Stage(recipe, fitted_objectives(folder.statistics), store)
    if rated:
        ratings = FeatureStore.open(folder.rated_features)
        points = _by_rows(stage, ratings, rows or ROWS, seeds)
    else:
        points = _by_pairs(
            stage, rewards_of_responses(store, load_head(folder.head)[0]), pairs or PAIRS, seeds
        )
    for point in points:
        print(json.dumps(point), flush=True)


@dataclass(frozen=True)
class _Stage:
    """Stage 2 on some pairs and rewards, and the margins of all methods on the held-out pairs."""

    recipe: Recipe
    objectives: ObjectiveSet
    store: FeatureStore

    def measure(self, rewards: Rewards, pairs: PairIndex, seed: int) -> dict[str, Any]:
        debiasing = debias(self.recipe, self.objectives, self.store, rewards, pairs)
        seen = reward_pairs(self.store, pairs, rewards @ debiasing.transform)
        training, held_out = seen.where(~pairs.held_out), seen.where(pairs.held_out)
        trained = fit_gate(training, self.recipe.gate, seed=seed)
        fixed = fit_fixed_weights(training)
        linear_head = bradley_terry_head(self.store, pairs, seed)
        return {
            "gate": margins(trained.gate, held_out).numpy(),
            "fixed_weights": fixed.margins(held_out.differences.double().numpy()),
            "bradley_terry_head": held_out_margins(linear_head, self.store, pairs),
            "share": trained.shrinkage.share if trained.shrinkage else 1.0,
        }


def _by_pairs(
    stage: _Stage, rewards: Rewards, counts: list[int], seeds: int
) -> Iterator[dict[str, Any]]:
    every = stage.store.pairs()
    most = int((~every.held_out).sum())
    for count in [*(n for n in counts if n < most), most]:
        found = [stage.measure(rewards, _subset(every, count, seed), seed) for seed in range(seeds)]
        yield {"pairs": count, **_point(found)}


def _by_rows(
    stage: _Stage, ratings: FeatureStore, counts: list[int], seeds: int
) -> Iterator[dict[str, Any]]:
    pairs, recipe = stage.store.pairs(), stage.recipe
    most = int((~ratings.ratings()[1]).sum())
    for count in [*(n for n in counts if n < most), most]:
        found, fits, rows = [], [], []
        for seed in range(seeds):
            drawn = _DrawnRows(ratings, count, seed)
            statistics = RidgeStatistics.of(drawn, folds=recipe.head.folds, seed=recipe.seed)
            head = fit_reward_head(statistics, recipe.head, names=stage.objectives.names)
            found.append(stage.measure(rewards_of_responses(stage.store, head), pairs, seed))
            fits.append(
                [
                    (fit.r2, fit.spearman)
                    for objective, fit in zip(
                        stage.objectives, held_out_fits(ratings, head), strict=True
                    )
                    if fit.rows >= LEAST_HELD_OUT and not objective.computed
                ]
            )
            rows.append(statistics.rows)
        yield {"rows": rows, **_fit_figures(np.array(fits, np.float64)), **_point(found)}


def _fit_figures(fits: Float[np.ndarray, "seeds objectives 2"]) -> dict[str, Any]:
    figures: dict[str, Any] = {"objectives": fits.shape[1]}
    for column, name in enumerate(("r2", "spearman")):
        for reduce in (np.mean, np.median):
            by_seed = reduce(fits[:, :, column], axis=1)
            figures[f"{reduce.__name__}_{name}"] = [round(float(one), 3) for one in by_seed]
    return figures


class _DrawnRows:
    """A store of ratings with only some of its training rows, whole prompts at a time."""

    def __init__(self, store: FeatureStore, count: int, seed: int) -> None:
        self.objectives, self._store = store.objectives, store
        self.responses, self.response_features = store.responses, store.response_features
        self._rewards, held_out = store.ratings()
        self._hidden = held_out | ~_drawn(store.responses(), ~held_out, count, seed)

    def ratings(self) -> tuple[Rewards, npt.NDArray[np.bool_]]:
        return self._rewards, self._hidden


def _drawn(
    lines: pa.Table, training: npt.NDArray[np.bool_], count: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Return a mask of about ``count`` training rows, of each source its share."""
    generator = np.random.default_rng([seed, 5])
    prompt = np.unique(np.array(lines["prompt_key"].to_pylist()), return_inverse=True)[1]
    place = generator.permutation(int(prompt.max()) + 1)[prompt]
    source = np.array(lines["source"].to_pylist())
    drawn = np.zeros(len(source), bool)
    for name in np.unique(source[training]):
        rows = np.flatnonzero(training & (source == name))
        share = round(len(rows) * count / training.sum())
        drawn[rows[np.argsort(place[rows], kind="stable")[:share]]] = True
        first = np.unique(place[rows])[:LEAST_PROMPTS]  # fewer could all be in one fold
        drawn[rows[np.isin(place[rows], first)]] = True
    return drawn


def _subset(pairs: PairIndex, count: int, seed: int) -> PairIndex:
    """Return the held-out pairs and ``count`` training pairs, whole prompts at a time."""
    training = np.flatnonzero(~pairs.held_out)
    prompts = np.unique(pairs.prompt[training])
    place = np.zeros(int(pairs.prompt.max()) + 1, np.int64)
    place[prompts] = np.random.default_rng([seed, 4]).permutation(len(prompts))
    drawn = training[np.argsort(place[pairs.prompt[training]], kind="stable")[:count]]
    kept = pairs.held_out.copy()
    kept[drawn] = True
    return pairs.where(kept)


def _point(found: list[dict[str, Float[np.ndarray, " held_out"]]]) -> dict[str, object]:
    point: dict[str, object] = {"share": [float(one["share"]) for one in found]}
    right = {name: np.array([one[name] > 0 for one in found]) for name in ("gate", *RIVALS)}
    for name, of_method in right.items():
        shares = of_method.mean(axis=1)
        n = of_method.shape[1]
        point[name] = {
            "accuracy": round(float(shares.mean()), 4),
            "interval": [round(end, 4) for end in wilson_interval(round(shares.mean() * n), n)],
            "over_seeds": round(float(shares.std(ddof=1)), 4) if len(shares) > 1 else None,
        }
    gains = {name: (right["gate"].mean(axis=1) - right[name].mean(axis=1)) for name in RIVALS}
    for name, gain in gains.items():
        median = int(np.argsort(gain)[len(gain) // 2])
        test = mcnemar(right["gate"][median], right[name][median])
        point[f"gain_over_{name}"] = {
            "by_seed": [round(float(one), 4) for one in gain],
            "p": float(f"{test.p_value:.2g}"),
        }
    return point


if __name__ == "__main__":
    typer.run(main)
