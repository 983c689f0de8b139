"""Common parts of both trainings: the Trainer's arguments, its run and its resumption."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from armorm.errors import ArmormError
from armorm.features import Backbone, Process
from armorm.features.backbone import default_device
from armorm.progress import progress_bar
from armorm.training.recipe import Recipe
from armorm.training.tuning.folders import TuningFolder
from armorm.training.tuning.options import TuningOptions

Arguments = TypeVar("Arguments")

CURVE_POINTS = 50
"""Points of a training curve."""


def load_for_training(recipe: Recipe, name: object, section: TuningOptions) -> Backbone:
    """Load the backbone in the number format that it is trained in.

    Frozen weights under adapters may be bfloat16.  Weights that learn are float32, because
    bfloat16 would round small steps away.

    Raises:
        ArmormError: There are several processes, or the GPU is not the first one.
    """
    Process.current().require_alone()
    device = recipe.backbone.device or default_device()
    if torch.device(device).index:
        raise ArmormError(
            f"The Trainer uses the first GPU it sees, not {device}. Set CUDA_VISIBLE_DEVICES to "
            "choose one, and leave backbone.device out."
        )
    half = section.lora is not None and section.uses_bfloat16(device)
    dtype = "bfloat16" if half else "float32"
    return Backbone.from_pretrained(str(name), recipe.backbone, dtype=dtype)


def training_arguments(
    kind: Callable[..., Arguments],
    section: TuningOptions,
    folder: TuningFolder,
    device: torch.device,
    seed: int,
    **more: Any,
) -> Arguments:
    """Return the section as ``TrainingArguments`` or TRL's subclass of it."""
    arguments: Any = kind(
        output_dir=str(folder.checkpoints),
        learning_rate=section.peak_learning_rate(),
        weight_decay=section.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup,
        num_train_epochs=section.epochs,
        max_steps=section.max_steps or -1,
        per_device_train_batch_size=section.batch_size,
        gradient_accumulation_steps=section.gradient_accumulation_steps,
        bf16=section.uses_bfloat16(device.type),
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        save_strategy="steps",
        save_steps=section.save_steps,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=1 / CURVE_POINTS,
        logging_nan_inf_filter=False,
        log_level="error",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        **more,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # never nn.DataParallel
    typed: Arguments = arguments
    return typed


class SimilarLengths(Sampler[int]):
    """Random rows for every optimiser step, sorted by length inside the step.

    The conversations of one forward pass then have similar lengths and little padding, while the
    gradient of a step is that of random rows.  The order depends on the seed and the epoch alone,
    so a resumed training sees the same batches.

    Args:
        lengths: Number of tokens of each row.
        step: Rows in one optimiser step.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._step = step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self))
        for start in range(0, len(order), self._step):
            rows = order[start : start + self._step]
            yield from rows[np.argsort(self._lengths[rows], kind="stable")].tolist()


def run_trainer(
    trainer: Any,
    folder: TuningFolder,
    lengths: Sequence[int],
    description: str,
    show_progress: bool,
) -> dict[str, Any]:
    """Train, from the last checkpoint if there is one.

    Args:
        trainer: Trainer of transformers, or a subclass.
        folder: Folder with the checkpoints.
        lengths: Number of tokens of each training row.
        description: Title of the progress bar.
        show_progress: Show it.

    Returns:
        ``steps``, ``rows`` and ``curve``: the mean loss up to each of some fifty steps.

    Raises:
        ArmormError: The loss is not a finite number.
    """
    from transformers import PrinterCallback, TrainerCallback

    args = trainer.args
    rows = len(lengths)
    per_epoch = math.ceil(
        math.ceil(rows / args.per_device_train_batch_size) / args.gradient_accumulation_steps
    )
    order = SimilarLengths(
        lengths, args.per_device_train_batch_size * args.gradient_accumulation_steps, args.seed
    )
    trainer._get_train_sampler = lambda *_: order
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    with progress_bar(description, steps, "steps", show_progress) as advance:

        class Progress(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
                advance(state.global_step)

            def on_step_end(self, *_: Any, **__: Any) -> None:
                advance(1)

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Progress())
        checkpoint = folder.last_checkpoint()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    curve = [{"step": entry["step"], "loss": entry["loss"]} for entry in history]
    if not all(math.isfinite(point["loss"]) for point in curve):
        raise ArmormError(
            f"The loss of {description} is not a number. Delete {folder.work} and choose a lower "
            "learning_rate."
        )
    return {"steps": trainer.state.global_step, "rows": rows, "curve": curve}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide the bars of datasets and one warning, and restore the verbosity of transformers.

    It deprecates names in favour of others that the oldest supported version does not know.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = _datasets_bars()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
        try:
            bars(False)
            yield
        finally:
            bars(True)
            logging.set_verbosity(before)


def _datasets_bars() -> Callable[[bool], None]:
    """Return a function that hides and shows the bars of datasets, if that is installed."""
    try:
        from datasets.utils import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
    except ImportError:
        return lambda _: None
    hidden = are_progress_bars_disabled()

    def show(shown: bool) -> None:
        if shown and not hidden:
            enable_progress_bars()
        else:
            disable_progress_bars()

    return show
