"""Bradley–Terry training of the backbone on preference pairs, by TRL's ``RewardTrainer``.

The paper starts from such a backbone.  Conversations are rendered and tokenised by this package's
encoder, so the state that is trained is the one that features are read from.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from armorm.conversations import EncodedPrompt, PreferencePair
from armorm.data import Loaded, held_out_prompts, keep_apart, read_preferences
from armorm.data.rows_on_disk import DiskList
from armorm.errors import ArmormError, CheckpointError, MissingExtraError
from armorm.features import Backbone
from armorm.features.backbone import resolve_dtype
from armorm.features.classifier import classifier_around
from armorm.features.extraction import hash_rows
from armorm.heads.metrics import accuracy
from armorm.training.feature_stage import RecipeData, read_data
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.statistics import feature_settings
from armorm.training.tuning.encoded import ROWS_AT_ONCE, encode_rows, rewards_of
from armorm.training.tuning.folders import TuningFolder
from armorm.training.tuning.lora import lora_config, merged
from armorm.training.tuning.options import PretrainingOptions
from armorm.training.tuning.trainers import (
    load_for_training,
    quiet_libraries,
    run_trainer,
    training_arguments,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pairs = DiskList[tuple[PreferencePair, EncodedPrompt]]


def pretrain_stage(
    recipe: Recipe,
    output: str | Path | RunFolder,
    *,
    data: RecipeData | None = None,
    show_progress: bool = False,
) -> None:
    """Train the backbone as a Bradley–Terry reward model, and write it to ``output/pretrained``.

    Held-out pairs, and pairs whose prompt is held out anywhere in the recipe, are not trained on.
    A finished training is kept; an interrupted one is resumed from its last checkpoint.

    Args:
        recipe: Recipe with a section ``pretraining``.
        output: Run folder.
        data: The recipe's data, if they are read already.
        show_progress: Draw progress bars on standard error.

    Raises:
        ArmormError: The recipe has no such section, no pair is left to train on, or the folder is
            in use by another process.
        StoreError: ``output`` holds a training with other settings.
        MissingExtraError: TRL is not installed, or PEFT if adapters are asked for.
    """
    section = recipe.pretraining
    if section is None:
        raise ArmormError("The recipe has no section `pretraining`. Add one: `pretraining: {}`.")
    run = RunFolder.of(output)
    with run.locked("pre-training the backbone"):
        _pretrain_in(run, recipe, section, data, show_progress)


def _pretrain_in(
    run: RunFolder,
    recipe: Recipe,
    section: PretrainingOptions,
    data: RecipeData | None,
    show_progress: bool,
) -> None:
    data = data or read_data(recipe, run, show_progress=show_progress)
    pairs = pretraining_pairs(recipe, data, scratch=run.path, show_progress=show_progress)
    if section.preferences is not None and pairs.invalid:
        pairs.write_invalid(run.invalid("pretraining"))
    backbone = load_for_training(recipe, recipe.backbone.model, section)
    folder = TuningFolder(
        run.pretrained,
        {
            "options": section.model_dump(mode="json", exclude={"save_steps", "preferences"}),
            "seed": recipe.seed,
            "backbone": feature_settings(backbone.identity),
            "max_length": backbone.encoder.max_length,
            "overlong": backbone.encoder.overlong,
            "data": hash_rows(pairs.rows),
        },
    )
    if not folder.is_finished():
        with quiet_libraries():
            _pretrain(recipe, section, backbone, pairs, folder, show_progress)


def pretraining_pairs(
    recipe: Recipe,
    data: RecipeData,
    *,
    scratch: Path | None = None,
    show_progress: bool = False,
) -> Loaded[PreferencePair]:
    """Return the pairs of the section's own sources, or the recipe's.

    Args:
        recipe: Recipe with a section ``pretraining``.
        data: The recipe's data; no prompt that is held out in them is trained on.
        scratch: See :func:`armorm.data.read_preferences`.
        show_progress: Draw progress bars on standard error.
    """
    rated, preferences = data
    section = recipe.pretraining
    if section is None or section.preferences is None:
        return preferences
    pairs = read_preferences(
        section.preferences,
        held_out=recipe.data.held_out,
        invalid=recipe.data.invalid,
        scratch=scratch,
        show_progress=show_progress,
    )
    keep_apart(pairs, held_out_prompts(rated) | held_out_prompts(preferences))
    return pairs


def _pretrain(
    recipe: Recipe,
    section: PretrainingOptions,
    backbone: Backbone,
    pairs: Loaded[PreferencePair],
    folder: TuningFolder,
    show_progress: bool,
) -> None:
    started = time.perf_counter()
    encoded = encode_rows(pairs.rows, PreferencePair, backbone, folder.work)
    if not encoded.training:
        raise ArmormError(
            f"No preference pair is left to pre-train on: all are held out, too long "
            f"({encoded.too_long}) or were skipped ({pairs.tally.skipped})."
        )

    trainer = _reward_trainer(recipe, section, backbone, encoded.training, folder)
    lengths = [max(map(len, pair.sequences)) for _, pair in encoded.training]
    report = run_trainer(trainer, folder, lengths, "Bradley–Terry training", show_progress)
    model = merged(trainer.model)
    model.gradient_checkpointing_disable()
    decoder = getattr(model, model.base_model_prefix)
    decoder = decoder.to(resolve_dtype(recipe.backbone.dtype, backbone.device.type))
    backbone.model = decoder
    score = model.score.weight.detach().float().cpu()
    scores = rewards_of(encoded.held_out, backbone, score)[:, 0]
    report |= {
        "data": pairs.tally.as_dict(),
        "too_long": encoded.too_long,
        "accuracy": {
            "held_out": accuracy((scores[0::2] - scores[1::2]).numpy()),
            "held_out_pairs": len(encoded.held_out),
        },
        "seconds": time.perf_counter() - started,
    }
    folder.finish(backbone, decoder, score, report)


def _reward_trainer(
    recipe: Recipe,
    section: PretrainingOptions,
    backbone: Backbone,
    pairs: Pairs,
    folder: TuningFolder,
) -> Any:
    try:
        from trl import RewardConfig, RewardTrainer
    except ImportError as error:
        raise MissingExtraError("Bradley–Terry pre-training", "train") from error

    return RewardTrainer(
        model=_scalar_model(backbone, recipe.seed),
        args=training_arguments(
            RewardConfig,
            section,
            folder,
            backbone.device,
            recipe.seed,
            max_length=None,  # the encoder has skipped and counted what is too long
            gradient_checkpointing=section.gradient_checkpointing,
        ),
        train_dataset=_dataset(pairs, folder.work / "pairs.arrow"),
        processing_class=_tokenizer_for_padding(backbone.tokenizer, pairs),
        peft_config=None if section.lora is None else lora_config(section.lora, "SEQ_CLS"),
    )


def _dataset(pairs: Pairs, file: Path) -> Any:
    """Return the pairs in TRL's form, mapped from a file that is written for it."""
    from datasets import Dataset

    tokens = pa.list_(pa.int32())
    schema = pa.schema([("chosen_ids", tokens), ("rejected_ids", tokens)])
    with pa.ipc.new_stream(file, schema) as stream:
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            both = [one.sequences for _, one in pairs[start : start + ROWS_AT_ONCE]]
            columns = [pa.array([ids[side] for ids in both], tokens) for side in (0, 1)]
            stream.write_batch(pa.record_batch(columns, schema))
    return Dataset.from_file(str(file))


def _scalar_model(backbone: Backbone, seed: int) -> PreTrainedModel:
    """Return the decoder with a new linear layer of one output, as a sequence classifier.

    Raises:
        CheckpointError: transformers has no such classifier for this architecture.
    """
    decoder = backbone.model.requires_grad_(True)
    score = torch.nn.Linear(backbone.hidden_size, 1, bias=False)
    deviation = getattr(decoder.config.get_text_config(), "initializer_range", 0.02)
    score.weight.data.normal_(0.0, deviation, generator=torch.Generator().manual_seed(seed))
    try:
        return classifier_around(decoder, score)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} So it cannot be trained with Bradley–Terry: leave `pretraining` out."
        ) from error


def _tokenizer_for_padding(
    tokenizer: PreTrainedTokenizerBase, pairs: Pairs
) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer whose padding token ends no conversation.

    The classifier reads its score at the last token that is not padding.  Padding with the
    end-of-turn token, as is usual, would make that the token before the last, and train another
    state than the one that features are read from.
    """
    ends = {sequence[-1] for _, pair in pairs for sequence in pair.sequences}
    padding = copy.deepcopy(tokenizer)
    if padding.pad_token_id is None or padding.pad_token_id in ends:
        free = next(i for i in range(len(tokenizer)) if i not in ends)
        padding.pad_token = tokenizer.convert_ids_to_tokens(free)
    return padding
