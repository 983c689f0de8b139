"""The paper's two stages, from a recipe to a model folder.

Each stage reads what the one before left in the run folder, so each can be run alone::

    pretrain_stage   ->  pretrained/    where the recipe has a section ``pretraining``
    finetune_stage   ->  finetuned/     where ``head.method`` is ``finetune``
    features_stage   ->  features/rated, features/preferences, held_out_pairs.jsonl, data.json
    fit_head_stage   ->  head/
    fit_gate_stage   ->  model/, metrics.json
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from armorm.conversations import PreferencePair
from armorm.conversations.messages import with_response
from armorm.data import generate_corpus
from armorm.errors import StoreError
from armorm.features import (
    Backbone,
    ExtractionSummary,
    FeatureBackbone,
    FeatureStore,
    Process,
    extract_features,
)
from armorm.features.extraction import Rows
from armorm.files import json_line, open_atomically, read_json, write_atomically, write_json
from armorm.heads import (
    GateTraining,
    RewardHead,
    VerbosityDebiasing,
    fit_gate,
)
from armorm.model import RewardModel
from armorm.model.checkpoint import Heads
from armorm.objectives import ObjectiveSet
from armorm.training.curves import curve_log
from armorm.training.debiasing_report import debiasing_report
from armorm.training.inputs import RecipeData, feature_engine, load_backbone, read_data
from armorm.training.metrics import run_metrics
from armorm.training.predictions import held_out_fits, rewards_of_responses
from armorm.training.recipe import Recipe
from armorm.training.records import load_head, save_head
from armorm.training.stage2 import debias, reward_pairs, seed_spread, split_validation
from armorm.training.statistics import HeadStatistics
from armorm.training.tuning.finetuning import finetune_stage
from armorm.training.tuning.folders import FINETUNED, read_score, tuning_reports
from armorm.training.tuning.pretraining import pretrain_stage
from armorm.training.uncertainty import load_uncertainty, save_uncertainty


def train(recipe: Recipe, output: str | Path, *, show_progress: bool = False) -> RewardModel:
    """Train a reward model: the backbone where asked, features, stage 1, debiasing, stage 2.

    What an earlier, interrupted run of the same recipe left is used.

    Args:
        recipe: What to do.
        output: The run folder; the model ends up in ``output/model``, the figures in
            ``output/metrics.json``.
        show_progress: Draw progress bars on standard error.

    Raises:
        ArmormError: bad data, an unusable backbone, or leftovers of another run in ``output``.
    """
    Process.current().require_alone()
    output = Path(output)
    data = read_data(recipe, output, show_progress=show_progress)
    if recipe.pretraining is not None:
        pretrain_stage(recipe, output, data=data, show_progress=show_progress)
    if recipe.head.method == "finetune":
        finetune_stage(recipe, output, data=data, show_progress=show_progress)
    # Loaded once for both stages, unless another engine computes the features and is closed first.
    backbone = load_backbone(recipe, output) if recipe.backbone.engine == "transformers" else None
    features_stage(recipe, output, backbone=backbone, data=data, show_progress=show_progress)
    fit_head_stage(recipe, output)
    return fit_gate_stage(recipe, output, backbone=backbone, show_progress=show_progress)


@runtime_checkable
class MakeStore(Protocol):
    """Makes a feature store of rows. See :func:`armorm.extract_features`."""

    def __call__(
        self, rows: Rows, *, path: Path, objectives: ObjectiveSet | None = None, **options: Any
    ) -> FeatureStore: ...


def features_stage(
    recipe: Recipe,
    output: str | Path,
    *,
    backbone: FeatureBackbone | None = None,
    data: RecipeData | None = None,
    make_store: MakeStore | None = None,
    show_progress: bool = False,
) -> None:
    """Read the data, extract the features of both stages, and account for every row.

    Args:
        recipe: What to do.
        output: The run folder.
        backbone: The recipe's backbone, where it is loaded already.
        data: The recipe's data, where it is read already.
        make_store: What extracts, if not this process; see :mod:`armorm.scaling`.
        show_progress: Draw progress bars on standard error.
    """
    output = Path(output)
    started = time.perf_counter()
    rated, pairs = data or read_data(recipe, output, show_progress=show_progress)
    write_atomically(output / "recipe.yaml", recipe.dump().encode())
    _write_held_out_pairs(output / "held_out_pairs.jsonl", pairs.rows)
    options: dict[str, Any] = {
        "feature_dtype": recipe.features.dtype,
        "shard_responses": recipe.features.shard_responses,
        "show_progress": show_progress,
    }
    summaries: list[ExtractionSummary] = []
    options["on_summary"] = summaries.append
    folder = output / "features"
    here = _extraction_here(recipe, output, backbone)
    with nullcontext(make_store) if make_store else here as make:
        stores = {
            "rated": make(
                rated.rows, path=folder / "rated", objectives=recipe.objective_set(), **options
            ),
            "preferences": make(pairs.rows, path=folder / "preferences", **options),
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
    if Process.current().is_first:
        write_json(output / "data.json", {**account, "seconds": time.perf_counter() - started})


@contextmanager
def _extraction_here(
    recipe: Recipe, output: Path, backbone: FeatureBackbone | None
) -> Iterator[MakeStore]:
    with feature_engine(recipe, output, backbone) as engine:
        yield partial(extract_features, backbone=engine)


def fit_head_stage(recipe: Recipe, output: str | Path) -> RewardHead:
    """Stage 1: regress every objective on the features of the rated responses.

    The head that was trained with the backbone is taken as it is, where the recipe says so.
    """
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
    return fit_head_of(statistics, store, recipe, output, started)


def fit_head_of(
    statistics: HeadStatistics, store: FeatureStore, recipe: Recipe, output: Path, started: float
) -> RewardHead:
    """Fit the head on statistics, judge it on the store's held-out rows, and leave all in the run
    folder.

    A head that was trained with the backbone keeps its weights, and has no uncertainty: it is no
    ridge fit of these sums. The penalties are those that ridge would take on its features.
    """
    objectives = recipe.objective_set()
    head = statistics.fit(recipe.head.alphas)
    if recipe.trains_head_with_backbone:
        head = replace(head, weight=read_score(output / FINETUNED).double().numpy())
    fits = held_out_fits(store, head)
    statistics.save(output / "head" / "statistics")
    uncertainty = save_uncertainty(
        output / "head",
        statistics.total(),
        head,
        objectives,
        store,
        withheld=_why_no_uncertainty(recipe),
    )
    seconds = time.perf_counter() - started
    save_head(output / "head", head, objectives, fits, uncertainty, recipe.head.alphas, seconds)
    return head


def _why_no_uncertainty(recipe: Recipe) -> str | None:
    if not recipe.head.uncertainty:
        return "the recipe says head.uncertainty: false"
    if recipe.trains_head_with_backbone:
        return "the head was trained with its backbone (head.finetune.final_head), not by ridge"
    return None


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
    rewards = rewards_of_responses(store, head)

    started = time.perf_counter()
    debiasing = debias(recipe, store, rewards, pairs)
    debiased_at = time.perf_counter()
    all_pairs = reward_pairs(store, pairs, rewards @ debiasing.transform)
    training, validation = split_validation(all_pairs, pairs, recipe)
    backbone = backbone or load_backbone(recipe, output)
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

    tuning = tuning_reports(recipe, output)
    seconds = {
        **{stage: report["seconds"] for stage, report in tuning.items()},
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
    metrics |= tuning
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


def _write_held_out_pairs(file: Path, pairs: Iterable[PreferencePair]) -> None:
    """The held-out pairs as preference rows, ready for `armorm evaluate`."""
    with open_atomically(file) as lines:
        for pair in pairs:
            if pair.held_out:
                row = {
                    "chosen": with_response(pair.prompt, pair.chosen),
                    "rejected": with_response(pair.prompt, pair.rejected),
                    "id": pair.id,
                    "source": pair.source,
                    "subset": pair.subset,
                }
                lines.write(json_line(row))
