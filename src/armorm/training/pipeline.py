"""The paper's two stages, from a recipe to a model folder.

Each stage reads what the one before left in the run folder, so each can be run alone::

    features_stage   ->  features/rated, features/preferences, held_out_pairs.jsonl, data.json
    fit_head_stage   ->  head/
    fit_gate_stage   ->  model/, metrics.json
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from armorm.conversations import PreferencePair, RatedResponse
from armorm.conversations.messages import with_response
from armorm.data import Loaded, generate_corpus, read_preferences, read_rated, separate_prompts
from armorm.errors import ArmormError, StoreError
from armorm.features import (
    Backbone,
    ExtractionSummary,
    FeatureBackbone,
    FeatureStore,
    Process,
    extract_features,
    load_engine,
)
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import (
    GateTraining,
    RewardHead,
    VerbosityDebiasing,
    fit_gate,
    fit_reward_head,
)
from armorm.heads.metrics import RegressionFit, regression_fits
from armorm.model import RewardModel
from armorm.model.checkpoint import Heads
from armorm.training.curves import curve_log
from armorm.training.debiasing_report import debiasing_report
from armorm.training.metrics import run_metrics
from armorm.training.recipe import Recipe
from armorm.training.records import load_head, save_head
from armorm.training.stage2 import debias, reward_pairs, seed_spread, split_validation
from armorm.training.statistics import SELECTION, TRAIN, HeadStatistics
from armorm.training.uncertainty import load_uncertainty, save_uncertainty


def train(recipe: Recipe, output: str | Path, *, show_progress: bool = False) -> RewardModel:
    """Train a reward model: features, stage 1, debiasing, stage 2.

    Features that an earlier, interrupted run of the same recipe left are used.

    Args:
        recipe: What to do.
        output: The run folder; the model ends up in ``output/model``, the figures in
            ``output/metrics.json``.
        show_progress: Draw progress bars on standard error.

    Raises:
        ArmormError: bad data, an unusable backbone, or leftovers of another run in ``output``.
    """
    if Process.current().count > 1:
        raise ArmormError(
            "Training is for one process. Launch `armorm features` in several; then `armorm train` "
            "with the same recipe and folder uses what they made."
        )
    # Loaded once for both stages, unless another engine computes the features and is closed first.
    backbone = load_backbone(recipe) if recipe.backbone.engine == "transformers" else None
    features_stage(recipe, output, backbone=backbone, show_progress=show_progress)
    fit_head_stage(recipe, output)
    return fit_gate_stage(recipe, output, backbone=backbone, show_progress=show_progress)


def load_backbone(recipe: Recipe) -> Backbone:
    """The recipe's backbone in transformers, which can write it into a model folder."""
    return Backbone.from_pretrained(recipe.backbone.model, **recipe.backbone.options())


@contextmanager
def feature_engine(
    recipe: Recipe, backbone: FeatureBackbone | None = None
) -> Iterator[FeatureBackbone]:
    """The recipe's engine while it is needed; the given backbone where there is one."""
    if backbone is not None:
        yield backbone
        return
    section = recipe.backbone
    with closing(load_engine(section.model, **section.engine_arguments())) as engine:
        yield engine


def features_stage(
    recipe: Recipe,
    output: str | Path,
    *,
    backbone: FeatureBackbone | None = None,
    show_progress: bool = False,
) -> None:
    """Read the data, extract the features of both stages, and account for every row."""
    output = Path(output)
    started = time.perf_counter()
    rated, pairs = read_data(recipe, output)
    write_atomically(output / "recipe.yaml", recipe.dump().encode())
    _write_held_out_pairs(output / "held_out_pairs.jsonl", pairs.rows)
    options: dict[str, Any] = {
        "feature_dtype": recipe.features.dtype,
        "shard_responses": recipe.features.shard_responses,
        "show_progress": show_progress,
    }
    summaries: list[ExtractionSummary] = []
    options["on_summary"] = summaries.append
    with feature_engine(recipe, backbone) as engine:
        stores = {
            "rated": extract_features(
                rated.rows,
                engine,
                output / "features" / "rated",
                objectives=recipe.objective_set(),
                **options,
            ),
            "preferences": extract_features(
                pairs.rows, engine, output / "features" / "preferences", **options
            ),
        }
    tallies = {"rated": rated.tally, "preferences": pairs.tally}
    account = {
        kind: {
            **tallies[kind].as_dict(),
            "too_long": store.manifest.skipped_rows,
            "prompts": store.manifest.prompts,
            "sha256": store.manifest.data_sha256,
            "extraction": summary.as_dict(),
        }
        for (kind, store), summary in zip(stores.items(), summaries, strict=True)
    }
    write_json(output / "data.json", {**account, "seconds": time.perf_counter() - started})


def read_data(recipe: Recipe, output: Path) -> tuple[Loaded[RatedResponse], Loaded[PreferencePair]]:
    """Both kinds of data; skipped rows are listed in ``invalid-*.jsonl`` in the run folder."""
    data = recipe.data
    rated = read_rated(
        data.rated, recipe.objective_set(), held_out=data.held_out, invalid=data.invalid
    )
    pairs = read_preferences(data.preferences, held_out=data.held_out, invalid=data.invalid)
    separate_prompts(rated, pairs)
    output.mkdir(parents=True, exist_ok=True)
    if rated.invalid:
        rated.write_invalid(output / "invalid-rated.jsonl")
    if pairs.invalid:
        pairs.write_invalid(output / "invalid-preferences.jsonl")
    for kind, loaded in (("rated responses", rated), ("preference pairs", pairs)):
        if not loaded.rows:
            raise ArmormError(f"The recipe's sources hold no valid {kind}: {loaded.tally}.")
    return rated, pairs


def fit_head_stage(recipe: Recipe, output: str | Path) -> RewardHead:
    """Stage 1: regress every objective on the features of the rated responses."""
    output = Path(output)
    started = time.perf_counter()
    store = FeatureStore.open(output / "features" / "rated")
    objectives = recipe.objective_set()
    if store.objectives != objectives:
        raise StoreError(
            f"{store.path} was made for the objectives {', '.join(store.objectives.names)}; the "
            "recipe now has others. Extract the features again."
        )
    statistics = HeadStatistics.of_store(store, recipe.head.selection_fraction, recipe.seed)
    return fit_head_of(statistics, recipe, output, started)


def fit_head_of(
    statistics: HeadStatistics, recipe: Recipe, output: Path, started: float
) -> RewardHead:
    """Fit the head on statistics, and leave both in the run folder."""
    objectives = recipe.objective_set()
    head = fit_reward_head(
        statistics.of_part(TRAIN),
        statistics.of_part(SELECTION),
        recipe.head.alphas,
        objectives.names,
    )
    store = FeatureStore.open(output / "features" / "rated")
    fits = _held_out_fits(store, head)
    statistics.save(output / "head" / "statistics")
    total = statistics.of_part(TRAIN) + statistics.of_part(SELECTION)
    wanted = recipe.head.uncertainty
    uncertainty = save_uncertainty(output / "head", total, head, objectives, store, wanted=wanted)
    seconds = time.perf_counter() - started
    save_head(output / "head", head, objectives, fits, uncertainty, recipe.head.alphas, seconds)
    return head


def fit_gate_stage(
    recipe: Recipe,
    output: str | Path,
    *,
    backbone: Backbone | None = None,
    show_progress: bool = False,
) -> RewardModel:
    """Debiasing and stage 2, then the finished model and its figures on held-out pairs."""
    output = Path(output)
    store = FeatureStore.open(output / "features" / "preferences")
    head, head_report = load_head(output / "head")
    data = read_json(output / "data.json")
    pairs = store.pairs()
    rewards = _rewards_of_responses(store, head)

    started = time.perf_counter()
    debiasing = debias(recipe, store, rewards, pairs)
    debiased_at = time.perf_counter()
    all_pairs = reward_pairs(store, pairs, rewards @ debiasing.transform)
    training, validation = split_validation(all_pairs, pairs, recipe)
    backbone = backbone or load_backbone(recipe)
    options = recipe.gate.options(recipe.seed, str(backbone.device))
    with curve_log(recipe.gate.report_to, output / "logs") as log_point:
        gate = fit_gate(
            training,
            options,
            validation=validation,
            checkpoint=output / "gate.unfinished.safetensors",
            on_point=log_point,
            show_progress=show_progress,
        )
    fixed = fit_gate(
        training.without_prompts(),
        options,
        validation=None if validation is None else validation.without_prompts(),
        show_progress=show_progress,
        description="fixed weights (ablation)",
    )
    finished = time.perf_counter()

    seconds = {
        "features": data["seconds"],
        "head": head_report["seconds"],
        "debiasing": debiased_at - started,
        "gate": finished - debiased_at,
    }
    metrics = run_metrics(
        objectives=recipe.objective_set(),
        pairs=pairs,
        rewards=rewards,
        debiasing=debiasing,
        reward_pairs=all_pairs,
        gate=gate.gate,
        beta=gate.beta,
        fixed=fixed.gate,
        deciding_objective=_planted_truth(recipe),
    )
    metrics |= {
        "objectives": head_report["objectives"],
        "head": {key: head_report[key] for key in ("alphas", "selection_errors", "uncertainty")},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "data": {kind: data[kind] for kind in ("rated", "preferences")},
        "beta": gate.beta,
        "debiasing": debiasing_report(recipe, store, rewards, pairs, debiasing),
        "gate_step": gate.step,
        "gate_curve": [asdict(point) for point in gate.curve],
        "gate_seeds": seed_spread(
            recipe.gate.seeds, options, gate, training, validation, all_pairs.where(pairs.held_out)
        ),
    }
    heads = _heads(recipe, head, debiasing, gate, metrics)
    model = RewardModel(backbone, heads, uncertainty=load_uncertainty(output / "head"))
    model.save_pretrained(output / "model")
    write_json(output / "metrics.json", metrics)
    return model


def _held_out_fits(store: FeatureStore, head: RewardHead) -> list[RegressionFit]:
    ratings, held_out = store.ratings()
    return regression_fits(_rewards_of_responses(store, head)[held_out], ratings[held_out])


def _rewards_of_responses(
    store: FeatureStore, head: RewardHead
) -> Float[np.ndarray, "responses objectives"]:
    """Predicted rewards of all responses: the features are read once and forgotten."""
    shards = [head.rewards(shard.float().numpy()) for shard in store.response_features()]
    return np.concatenate(shards).astype(np.float64)


def _heads(
    recipe: Recipe,
    head: RewardHead,
    debiasing: VerbosityDebiasing,
    gate: GateTraining,
    metrics: dict[str, Any],
) -> Heads:
    objectives = recipe.objective_set()
    names = objectives.names
    report = {
        "objective": recipe.debiasing.objective,
        "correlation": debiasing.correlation,
        "penalties": dict(zip(names, debiasing.penalties.tolist(), strict=True)),
        "before": dict(zip(names, debiasing.before.tolist(), strict=True)),
        "after": dict(zip(names, debiasing.after.tolist(), strict=True)),
    }
    packages = ("armorm", "torch", "transformers", "numpy", "scipy")
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "metrics": metrics,
    }
    return Heads(
        objectives=objectives,
        weight=torch.from_numpy(head.weight.astype(np.float32)),
        transform=torch.from_numpy(debiasing.transform.astype(np.float32)),
        gate=gate.gate,
        beta=gate.beta,
        debiasing=report,
        training=record,
    )


def _planted_truth(recipe: Recipe) -> dict[str, str] | None:
    """Which objective decides in which domain, where the built-in corpus is the data."""
    seeds = [source.corpus_seed for source in recipe.data.preferences]
    if not seeds or seeds[0] is None or None in seeds:
        return None
    return generate_corpus(seeds[0]).deciding_objective


def _write_held_out_pairs(file: Path, pairs: list[PreferencePair]) -> None:
    """The held-out pairs as preference rows, ready for `armorm evaluate`."""
    rows = (
        {
            "chosen": with_response(pair.prompt, pair.chosen),
            "rejected": with_response(pair.prompt, pair.rejected),
            "id": pair.id,
            "source": pair.source,
            "subset": pair.subset,
        }
        for pair in pairs
        if pair.held_out
    )
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    write_atomically(file, lines.encode("utf-8", "surrogatepass"))
