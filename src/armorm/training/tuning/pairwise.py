"""Training of a pairwise preference model on the recipe's pairs, by TRL's ``SFTTrainer``.

A rival of the gate: the backbone as a language model learns to answer A or B
(:mod:`armorm.evaluation.scorers.pairwise`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from armorm.conversations import PreferencePair
from armorm.conversations.pairwise import pairwise_rows
from armorm.errors import ArmormError, MissingExtraError
from armorm.evaluation.scorers.pairwise import PairwiseScorer, open_pairwise
from armorm.features import BackboneOptions
from armorm.features.backbone import default_device
from armorm.features.extraction import hash_rows
from armorm.files import json_line, open_atomically
from armorm.training.feature_stage import RecipeData, read_data
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.tuning.folders import TuningFolder
from armorm.training.tuning.lora import lora_config, merged
from armorm.training.tuning.trainers import quiet_libraries, run_trainer, training_arguments


@dataclass(frozen=True, slots=True)
class PairwiseRows:
    """Training rows in TRL's form.

    Attributes:
        file: JSON lines with ``prompt`` and ``completion``, two rows for each pair.
        lengths: Tokens of each row.
        too_long: Pairs that the model cannot read with both responses.
    """

    file: Path
    lengths: tuple[int, ...]
    too_long: int


def pairwise_stage(
    recipe: Recipe,
    output: str | Path | RunFolder,
    *,
    data: RecipeData | None = None,
    rows_only: bool = False,
    show_progress: bool = False,
) -> None:
    """Train a pairwise preference model, and write it to ``output/pairwise``.

    The rows are written to ``output/pairwise_rows.jsonl``, in both orders, for any trainer that
    takes TRL's prompt-completion form.  A finished training is kept; an interrupted one is resumed.

    Args:
        recipe: Its training pairs, its backbone and its section ``pairwise`` are used.
        output: Run folder.
        data: The recipe's data, if they are read already.
        rows_only: Write the rows, and train nothing.
        show_progress: Draw progress bars on standard error.

    Raises:
        CheckpointError: The backbone is no language model.
        MissingExtraError: TRL is not installed.
        ArmormError: No pair is left to train on, or the folder is in use by another process.
    """
    run = RunFolder.of(output)
    with run.locked("training a pairwise model"):
        _, pairs = data or read_data(recipe, run, show_progress=show_progress)
        section = recipe.pairwise
        device = recipe.backbone.device or default_device()
        loading = BackboneOptions(device=device, dtype="float32", overlong="skip")
        start = open_pairwise(recipe.backbone.model, loading)
        training = [pair for pair in pairs.rows if not pair.held_out]
        rows = write_pairwise_rows(training, start, run.pairwise_rows)
        if rows_only:
            return
        folder = TuningFolder(
            run.pairwise,
            {
                "options": section.model_dump(mode="json", exclude={"save_steps"}),
                "seed": recipe.seed,
                "backbone": start.identity,
                "data": hash_rows(pairs.rows),
            },
        )
        if not folder.is_finished():
            with quiet_libraries():
                _train(recipe, start, rows, folder, show_progress)


def write_pairwise_rows(
    pairs: Sequence[PreferencePair], model: PairwiseScorer, file: Path
) -> PairwiseRows:
    """Write both orders of every pair as rows of TRL's prompt-completion form.

    Args:
        pairs: Pairs to train on.
        model: The model that is to read them whole.
        file: JSON lines.

    Raises:
        ArmormError: The model can read none of them.
    """
    encoder = model.encoder
    lengths: list[int] = []
    too_long = 0
    with open_atomically(file) as opened:
        for pair in pairs:
            rows = pairwise_rows(pair)
            tokens = [
                len(encoder.tokenize(encoder.render([*row["prompt"], *row["completion"]])))
                for row in rows
            ]
            if encoder.max_length is not None and max(tokens) > encoder.max_length:
                too_long += 1
                continue
            for row in rows:
                opened.write(json_line(row))
            lengths.extend(tokens)
    if not lengths:
        raise ArmormError(
            f"No preference pair is left to train on: {len(pairs)} were read, {too_long} are too "
            "long with both responses."
        )
    return PairwiseRows(file, tuple(lengths), too_long)


def _train(
    recipe: Recipe,
    start: PairwiseScorer,
    rows: PairwiseRows,
    folder: TuningFolder,
    show_progress: bool,
) -> None:
    try:
        from datasets import load_dataset
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise MissingExtraError("Training a pairwise model", "train") from error

    started = time.perf_counter()
    section = recipe.pairwise
    tokenizer = start.encoder.tokenizer
    tokenizer.chat_template = start.encoder.template
    cache = str(folder.work / "cache")
    trainer = SFTTrainer(
        model=start.model.requires_grad_(True),
        args=training_arguments(
            SFTConfig,
            section,
            folder,
            torch.device(start.model.device),
            recipe.seed,
            max_length=None,  # what is too long has been skipped and counted
            packing=False,
            completion_only_loss=True,
            gradient_checkpointing=section.gradient_checkpointing,
        ),
        train_dataset=load_dataset(
            "json", data_files=str(rows.file), split="train", cache_dir=cache
        ),
        processing_class=tokenizer,
        peft_config=None if section.lora is None else lora_config(section.lora, "CAUSAL_LM"),
    )
    report = run_trainer(trainer, folder, list(rows.lengths), "pairwise training", show_progress)
    model: Any = merged(trainer.model)
    report |= {"too_long": rows.too_long, "seconds": time.perf_counter() - started}

    def write(result: Path) -> None:
        model.save_pretrained(result)
        tokenizer.save_pretrained(result)

    folder.finish_with(write, report)
