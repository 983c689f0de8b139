"""Accuracy on a run's held-out pairs by number of training pairs: gate, fixed weights, linear head.

Needs the features and the head of a run::

    python benchmarks/learning_curve.py runs/quickstart --pairs 300 --pairs 600 --seeds 3

Training prompts are drawn anew for every seed, and the gate's seed changes with them.  Where all
pairs are trained on, only the gate's seed changes.  An interval is Wilson's, of the mean accuracy
over the seeds; gains are of the gate over each rival, with McNemar's p of the median seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from jaxtyping import Float

from armorm import Recipe, fit_gate
from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import fit_fixed_weights
from armorm.heads.gating import margins
from armorm.heads.metrics import mcnemar, wilson_interval
from armorm.training.gate_stage import debias, reward_pairs
from armorm.training.head_stage import load_head, rewards_of_responses
from armorm.training.linear_rival import bradley_terry_head, held_out_margins
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import fitted_objectives

RIVALS = ("fixed_weights", "bradley_terry_head")


def main(
    run: Annotated[Path, typer.Argument(help="Run folder with features and head.")],
    pairs: Annotated[list[int] | None, typer.Option(help="Numbers of training pairs.")] = None,
    seeds: int = 3,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Recipe keys.")] = None,
) -> None:
    """Print the learning curve as JSON, the last point being all training pairs."""
    folder = RunFolder.of(run)
    recipe = Recipe.load(folder.recipe, overrides or [])
    store = FeatureStore.open(folder.preference_features)
    rewards = rewards_of_responses(store, load_head(folder.head)[0])
    objectives = fitted_objectives(folder.statistics)
    every = store.pairs()
    most = int((~every.held_out).sum())
    curve = []
    for count in [*(n for n in pairs or [300, 600, 1250, 2500] if n < most), most]:
        found = []
        for seed in range(seeds):
            split = _subset(every, count, seed)
            debiasing = debias(recipe, objectives, store, rewards, split)
            seen = reward_pairs(store, split, rewards @ debiasing.transform)
            training, held_out = seen.where(~split.held_out), seen.where(split.held_out)
            trained = fit_gate(training, recipe.gate, seed=seed)
            fixed = fit_fixed_weights(training)
            linear_head = bradley_terry_head(store, split, seed)
            found.append(
                {
                    "gate": margins(trained.gate, held_out).numpy(),
                    "fixed_weights": fixed.margins(held_out.differences.double().numpy()),
                    "bradley_terry_head": held_out_margins(linear_head, store, split),
                    "share": trained.shrinkage.share if trained.shrinkage else 1.0,
                }
            )
        curve.append({"pairs": count, **_point(found)})
        print(json.dumps(curve[-1]), flush=True)


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
