"""Does novelty tell strangers apart, and do intervals hold what they say? On planted data, where
the truth is known, and on the text of a run::

python benchmarks/uncertainty.py planted
python benchmarks/uncertainty.py text runs/quickstart
python benchmarks/uncertainty.py conformal runs/quickstart
python benchmarks/uncertainty.py cost --features 4096
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from armorm import FeatureStore, Recipe, RewardModel, RidgeStatistics, fit_reward_head
from armorm.data import read_rated
from armorm.heads import HeadUncertainty, fit_uncertainty
from armorm.heads.metrics import coverage
from armorm.training.head_stage import load_head
from armorm.training.statistics import HeadStatistics

Array = npt.NDArray[np.float64]
app = typer.Typer(pretty_exceptions_enable=False)

GERMAN = """Der Hund schläft unter dem Tisch, weil es draußen regnet.
Bitte schicken Sie mir die Rechnung bis Ende der Woche.
Im Herbst färben sich die Blätter der Bäume gelb und rot.
Wer früh aufsteht, hat mehr vom Tag, sagte meine Großmutter.
Die Brücke über den Fluss wird im nächsten Jahr erneuert.
Ich habe gestern ein Buch über die Geschichte der Seefahrt gelesen.""".splitlines()
CODE = """for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }
SELECT name, COUNT(*) FROM users GROUP BY name HAVING COUNT(*) > 1;
#include <stdio.h>\\nint main(void) { return puts("x") == EOF; }
{"id": 17, "tags": ["a", "b"], "nested": {"ok": true, "n": null}}
awk -F: '$3 >= 1000 { print $1 }' /etc/passwd | sort -u
fn main() { let v: Vec<u8> = std::env::args().map(|a| a.len() as u8).collect(); }""".splitlines()


@app.command()
def planted(
    rows: int = 4000, features: int = 64, objectives: int = 4, noise: float = 0.2, seed: int = 0
) -> None:
    """Ridge on features whose spectrum decays, as hidden states' does; half the labels missing."""
    generator = np.random.default_rng(seed)
    scale = 1.0 / np.sqrt(1 + np.arange(features))
    truth = generator.normal(size=(features, objectives))

    def draw(number: int) -> Array:
        drawn: Array = scale * generator.normal(size=(number, features))
        return drawn

    def rate(x: Array) -> Array:
        rated: Array = x @ truth + noise * generator.normal(size=(len(x), objectives))
        return rated

    train, test = draw(rows), draw(rows)
    labels = rate(train)
    labels[generator.random(labels.shape) < 0.5] = np.nan
    statistics = RidgeStatistics(features, objectives)
    statistics.update(train, labels, np.arange(rows) % 5)
    head = fit_reward_head(statistics)
    uncertainty = fit_uncertainty(statistics, head)
    size = np.linalg.norm(test, axis=1, keepdims=True)
    strangers = generator.normal(size=test.shape)
    kinds = {
        "same length, any direction": size * strangers / np.linalg.norm(strangers, axis=1)[:, None],
        "twice as far from the mean": 2 * draw(rows),
        "rated rows' own kind": draw(rows),
    }
    held_out = rate(test)
    within = coverage(test @ head.weight.T, uncertainty.deviations(test), held_out)
    # The score of known coefficients, whose noise is independent here.
    weights = generator.dirichlet(np.ones(objectives), len(test))
    epistemic = uncertainty.score_epistemic(uncertainty.leverages(test), weights)
    spread = np.hypot(uncertainty.score_noise(weights), epistemic)
    predicted = (weights * (test @ head.weight.T)).sum(axis=1)
    scores = coverage(
        predicted[:, None], spread[:, None], (weights * held_out).sum(axis=1)[:, None]
    )
    _print(
        {
            "noise planted": noise,
            "noise found": uncertainty.noise.round(4).tolist(),
            "coverage of ratings": {
                level: float(np.mean([one[level] or 0.0 for one in within])) for level in within[0]
            },
            "coverage of scores": scores[0],
            "auroc": {
                name: _auroc(uncertainty.novelty(test), uncertainty.novelty(x))
                for name, x in kinds.items()
            },
        }
    )


@app.command()
def text(run: Annotated[Path, typer.Argument(metavar="RUN")], seed: int = 0) -> None:
    """Held-out rated rows of a run against text unlike them, through its backbone."""
    generator = np.random.default_rng(seed)
    recipe = Recipe.load(run / "recipe.yaml")
    rated = read_rated(recipe.data.rated, recipe.objective_set(), held_out=recipe.data.held_out)
    rows = [row for row in rated.rows if row.held_out]
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    words = [word for response in responses for word in response.split()]
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    others = [responses[i] for i in generator.permutation(len(responses))]
    kinds = {
        "random letters": ["".join(generator.choice(letters, len(r))) for r in responses],
        "random words of the corpus": [
            " ".join(generator.choice(words, len(r.split()))) for r in responses
        ],
        "its own words, shuffled": [" ".join(generator.permutation(r.split())) for r in responses],
        "German": list(generator.choice(GERMAN, len(rows))),
        "code": list(generator.choice(CODE, len(rows))),
        "another prompt's response": others,
    }
    model = RewardModel.from_pretrained(run / "model", device="cpu", dtype="float32")

    def novelty(answers: list[str]) -> tuple[Array, float]:
        conversations = [
            [*prompt, {"role": "assistant", "content": str(answer)}]
            for prompt, answer in zip(prompts, answers, strict=True)
            if str(answer).strip()
        ]
        found = model.score(conversations, uncertainty=True).uncertainty
        assert found is not None
        return found.novelty.double().numpy(), float(found.novel.double().mean())

    usual, flagged = novelty(responses)
    strangers = {name: novelty(answers) for name, answers in kinds.items()}
    _print(
        {
            "held-out rated rows": len(rows),
            "median novelty": float(np.median(usual)),
            "flagged": flagged,
            "strangers": {
                name: {
                    "auroc": _auroc(usual, found),
                    "flagged": share,
                    "median novelty": float(np.median(found)),
                }
                for name, (found, share) in strangers.items()
            },
        }
    )


@app.command()
def conformal(
    run: Annotated[Path, typer.Argument(metavar="RUN")], splits: int = 200, seed: int = 0
) -> None:
    """Coverage of 90 % intervals on half of the held-out prompts, calibrated on the others."""
    generator = np.random.default_rng(seed)
    head, _ = load_head(run / "head")
    uncertainty = fit_uncertainty(HeadStatistics.load(run / "head" / "statistics").total(), head)
    store = FeatureStore.open(run / "features" / "rated")
    ratings, held_out = store.ratings()
    features = np.concatenate([shard.double().numpy() for shard in store.response_features()])
    keys = np.array(store.responses()["prompt_key"].to_pylist())[held_out]
    ratings, features = ratings[held_out], features[held_out]
    predicted, deviations = head.rewards(features), uncertainty.deviations(features)
    prompts = np.unique(keys)
    found: dict[str, list[Array]] = {"normal": [], "conformal": []}
    for _ in range(splits):
        first = np.isin(keys, generator.permutation(prompts)[: len(prompts) // 2])
        sure = uncertainty.with_conformal(predicted[first], deviations[first], ratings[first])
        assert sure.conformal is not None
        rest, rated = ~first, ~np.isnan(ratings[~first])
        distance = np.abs(ratings[rest] - predicted[rest]) / deviations[rest]
        for name, factor in (("normal", norm.ppf(0.95)), ("conformal", sure.conformal)):
            covered = np.where(rated, distance <= factor, np.nan)
            # An objective without ratings on one side of the split has no figure of this split.
            judged = rated.any(axis=0) & ~np.isnan(sure.conformal)
            sums = np.nansum(covered, axis=0) / np.maximum(rated.sum(axis=0), 1)
            found[name].append(np.where(judged, sums, np.nan))
    names = store.objectives.names
    _print(
        {
            "held-out rows and prompts": [len(keys), len(prompts)],
            **{
                name: dict(zip(names, np.nanmean(covered, axis=0).tolist(), strict=True))
                for name, covered in found.items()
            },
            "standard deviation of one split": dict(
                zip(names, np.nanstd(found["conformal"], axis=0).tolist(), strict=True)
            ),
            "splits with a figure": dict(
                zip(names, (~np.isnan(found["normal"])).sum(axis=0).tolist(), strict=True)
            ),
        }
    )


@app.command()
def cost(features: int = 4096, groups: int = 8, rows: int = 64, seed: int = 0) -> None:
    """Time and room of a model's uncertainty, at full size."""
    generator = np.random.default_rng(seed)
    factor = np.tril(generator.normal(size=(features, features)) / features)
    factor[np.diag_indices(features)] = 1.0
    uncertainty = HeadUncertainty(
        np.broadcast_to(factor, (groups, features, features)),
        np.arange(groups),
        np.ones(groups),
        np.eye(groups),
        np.eye(groups),
        factor,
        1.0,
        64 * "0",
    )
    started = time.perf_counter()
    content = uncertainty.to_bytes()
    written = time.perf_counter()
    loaded = HeadUncertainty.from_bytes(content)
    read = time.perf_counter()
    asked = generator.normal(size=(rows, features))
    leverages = loaded.leverages(asked)
    loaded.with_noise(loaded.epistemic(leverages))
    loaded.score_epistemic(leverages, np.ones((rows, groups)))
    loaded.novelty(asked)
    done = time.perf_counter()
    _print(
        {
            "megabytes": len(content) / 1e6,
            "seconds to write": written - started,
            "seconds to read": read - written,
            "milliseconds a response": 1e3 * (done - read) / rows,
        }
    )


def _auroc(usual: Array, strange: Array) -> float:
    labels = np.repeat([0, 1], [len(usual), len(strange)])
    return float(roc_auc_score(labels, np.concatenate([usual, strange])))


def _print(result: dict[str, object]) -> None:
    def short(value: object) -> object:
        if isinstance(value, dict):
            return {name: short(inner) for name, inner in value.items()}
        return float(f"{value:.3g}") if isinstance(value, float) else value

    print(json.dumps(short(result), indent=2))


if __name__ == "__main__":
    app()
