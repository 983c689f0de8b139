"""Fine-tuning: the loss of stage 1 through the backbone, from the probe on.

W starts as the ridge solution on the frozen features: from a random W the first steps would undo
what the backbone knows (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features").
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from armorm.conversations import EncodedPrompt, RatedResponse
from armorm.data.rows_on_disk import DiskList
from armorm.errors import ArmormError
from armorm.features import Backbone, FeatureStore, extract_features
from armorm.features.backbone import resolve_dtype
from armorm.features.extraction import hash_rows
from armorm.heads import RewardHead, RidgeStatistics, fit_reward_head
from armorm.heads.metrics import regression_fits
from armorm.objectives import ObjectiveSet
from armorm.training.feature_stage import RecipeData, read_data
from armorm.training.head_stage import held_out_fits
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import feature_settings
from armorm.training.tuning.encoded import encode_rows, rewards_of
from armorm.training.tuning.folders import TuningFolder, backbone_folder
from armorm.training.tuning.lora import lora_config, merged
from armorm.training.tuning.options import FinetuneOptions
from armorm.training.tuning.regression import RatedConversations, RewardRegression, collate
from armorm.training.tuning.trainers import (
    load_for_training,
    quiet_libraries,
    run_trainer,
    training_arguments,
)

Rated = DiskList[tuple[RatedResponse, EncodedPrompt]]


def finetune_stage(
    recipe: Recipe,
    output: str | Path | RunFolder,
    *,
    data: RecipeData | None = None,
    show_progress: bool = False,
) -> None:
    """Train the backbone on the recipe's ratings, and write it to ``output/finetuned``.

    A finished training is kept; an interrupted one is resumed from its last checkpoint.

    Args:
        recipe: Recipe with the options ``head.finetune``.
        output: Run folder; training starts from ``output/pretrained`` if the recipe has that stage.
        data: The recipe's data, if they are read already.
        show_progress: Draw progress bars on standard error.

    Raises:
        StoreError: ``output`` holds a training with other settings.
        MissingExtraError: Adapters are asked for and PEFT is not installed.
        ArmormError: The folder is in use by another process.
    """
    run = RunFolder.of(output)
    with run.locked("fine-tuning the backbone"):
        _finetune_in(run, recipe, data, show_progress)


def _finetune_in(
    run: RunFolder, recipe: Recipe, data: RecipeData | None, show_progress: bool
) -> None:
    rated, _ = data or read_data(recipe, run, show_progress=show_progress)
    section = recipe.head.finetune
    start = backbone_folder(recipe, run, before_finetuning=True)
    backbone = load_for_training(recipe, start, section)
    folder = TuningFolder(
        run.finetuned,
        {
            "options": section.model_dump(mode="json", exclude={"save_steps", "final_head"}),
            "probe": recipe.head.model_dump(mode="json", exclude={"method", "finetune"}),
            "objectives": [
                objective.model_dump(mode="json") for objective in recipe.objective_set()
            ],
            "seed": recipe.seed,
            "backbone": feature_settings(backbone.identity),
            "max_length": backbone.encoder.max_length,
            "overlong": backbone.encoder.overlong,
            "data": hash_rows(rated.rows),
        },
    )
    if not folder.is_finished():
        with quiet_libraries():
            _finetune(recipe, backbone, rated.rows, folder, show_progress)


def _finetune(
    recipe: Recipe,
    backbone: Backbone,
    rows: Sequence[RatedResponse],
    folder: TuningFolder,
    show_progress: bool,
) -> None:
    started = time.perf_counter()
    store = extract_features(
        rows,
        backbone,
        folder.work / "probe",
        recipe.features,
        objectives=recipe.objective_set(),
        show_progress=show_progress,
    )
    objectives = store.objectives
    probe = _fit_probe(recipe, store)
    encoded = encode_rows(rows, RatedResponse, backbone, folder.work)

    model = _regression(backbone, probe, recipe.head.finetune, recipe.seed)
    report = _train(model, recipe, objectives, encoded.training, folder, backbone, show_progress)
    decoder = merged(model.decoder).to(resolve_dtype(recipe.backbone.dtype, backbone.device.type))
    backbone.model = decoder
    weight = model.head.weight.detach().cpu()
    fits = {
        "probe": held_out_fits(store, probe, store.ratings()[1]),
        "finetuned": regression_fits(
            rewards_of(encoded.held_out, backbone, weight).numpy(),
            _targets(objectives, encoded.held_out, backbone),
        ),
    }
    report |= {
        "too_long": encoded.too_long,
        "held_out": {
            name: dict(zip(objectives.names, map(asdict, found), strict=True))
            for name, found in fits.items()
        },
        "seconds": time.perf_counter() - started,
    }
    folder.finish(backbone, decoder, weight, report)


def _fit_probe(recipe: Recipe, store: FeatureStore) -> RewardHead:
    statistics = RidgeStatistics.of(store, folds=recipe.head.folds, seed=recipe.seed)
    return fit_reward_head(statistics, recipe.head, names=store.objectives.names)


def _regression(
    backbone: Backbone, probe: RewardHead, section: FinetuneOptions, seed: int
) -> RewardRegression:
    decoder: Any = backbone.model
    if section.lora is None:
        decoder.requires_grad_(True)
    else:
        config = lora_config(section.lora, "FEATURE_EXTRACTION")
        from peft import get_peft_model
        from transformers import set_seed

        set_seed(seed)  # adapters start at random values, and PEFT has no argument for a generator
        decoder = get_peft_model(decoder, config)
    if section.gradient_checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    return RewardRegression(decoder, probe.weight).to(backbone.device)


def _train(
    model: RewardRegression,
    recipe: Recipe,
    objectives: ObjectiveSet,
    rows: Rated,
    folder: TuningFolder,
    backbone: Backbone,
    show_progress: bool,
) -> dict[str, Any]:
    from transformers import Trainer, TrainingArguments

    section = recipe.head.finetune
    if not rows:
        raise ArmormError(
            "No rated response is left to fine-tune on: all are held out or too long."
        )
    dataset = RatedConversations(rows, _targets(objectives, rows, backbone))
    trainer = Trainer(
        model=model,
        args=training_arguments(TrainingArguments, section, folder, backbone.device, recipe.seed),
        train_dataset=dataset,
        data_collator=collate,
    )
    lengths = [len(encoded.sequences[0]) for _, encoded in rows]
    report = run_trainer(trainer, folder, lengths, "fine-tuning", show_progress)
    if section.gradient_checkpointing:
        backbone.model.gradient_checkpointing_disable()
    return report


def _targets(
    objectives: ObjectiveSet, rows: Rated, backbone: Backbone
) -> Float[np.ndarray, "rows objectives"]:
    targets = np.empty((len(rows), len(objectives)))
    for number, (row, _) in enumerate(rows):
        computed = objectives.computed_labels(row.response, backbone.encoder.count_tokens)
        targets[number] = objectives.to_rewards({**row.ratings, **computed})
    return targets
