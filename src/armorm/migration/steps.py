"""Conversions of single files, each from one version of its format to the next.

They work on a copy, and keep what the older version meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from armorm.errors import CheckpointError, StoreError
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import HeadUncertainty
from armorm.heads.uncertainty import format_of
from armorm.model.layout import Metadata
from armorm.model.reward_model import RewardModel


def uncertainty_version(file: Path) -> int:
    """Return the version of the file of a head's uncertainty."""
    return format_of(_read_tensors(file))


def uncertainty_of_format_1(file: Path) -> None:
    """Add what format 2 holds, so that it means what format 1 did.

    Format 1 took the errors of two objectives as correlated like their residuals, whatever rows
    they share, which is an overlap of 1; it had no conformal factors.
    """
    tensors = _read_tensors(file)
    objectives = len(tensors["noise"])
    overlap, conformal = np.ones((objectives, objectives)), np.empty(0)
    content = save_tensors({**tensors, "overlap": overlap, "conformal": conformal})
    write_atomically(file, HeadUncertainty.from_bytes(content).to_bytes())


def _read_tensors(file: Path) -> dict[str, Any]:
    try:
        return dict(load_tensors(file.read_bytes()))
    except SafetensorError as error:
        raise StoreError(f"{file} is damaged: {error}") from error


def model_of_format_1(file: Path) -> None:
    """Save the model of a folder in format 2, once it answers the self-check of format 1.

    Raises:
        CheckpointError: The folder is damaged, or its model answers otherwise.
    """
    folder, content = file.parent, read_json(file)
    kept = {"objectives", "beta", "debiasing", "training"}
    if unknown := content.keys() - kept - {"format_version", "self_check"}:
        raise CheckpointError(f"{file}: format 1 has no {', '.join(sorted(unknown))}.")
    metadata = Metadata.model_validate({name: content[name] for name in kept & content.keys()})
    write_json(file, metadata.model_dump(mode="json"))
    model = RewardModel.from_pretrained(folder, device="cpu", dtype="stored", verify=False)
    if content.get("self_check") is not None:
        _compare(content["self_check"], model, folder)
    model.save_pretrained(folder, license_id=_licence_of_card(folder))


def _compare(saved: dict[str, Any], model: RewardModel, folder: Path) -> None:
    """Raise CheckpointError unless a model answers the self-check of format 1 as it is saved.

    Its tolerance is that of format 1: a thousandth of the contributions in float32, else 5 %.
    """
    found = model.self_check(folder, "")
    precise = {saved["dtype"], found.dtype} == {"float32"}
    allowed = (1e-3 if precise else 5e-2) * max(saved["magnitude"], 1e-6)
    if found.ids_sha256 != saved["ids_sha256"]:
        raise CheckpointError(
            f"{folder} reads the text of its self-check as other token ids than when it was saved. "
            "Restore its tokenizer and chat template."
        )
    if not abs(found.score - saved["score"]) <= allowed:
        raise CheckpointError(
            f"{folder} scores its self-check {found.score:.6g}, and was saved with "
            f"{saved['score']:.6g}. Its weights or config have changed."
        )


def _licence_of_card(folder: Path) -> str | None:
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    licence = ModelCard.load(card).data.license if card.is_file() else None
    return licence if isinstance(licence, str) else None
