"""Saving a model folder: complete or not at all, and readable by transformers alone."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.features import Backbone
from armorm.files import read_json, replace_folder, write_atomically, write_json, writing
from armorm.heads import released_gate
from armorm.hub import METADATA_FILE, MODELING_FILE, modeling_source
from armorm.model.card import model_card
from armorm.model.layout import (
    ARCHITECTURE_SUFFIX,
    Heads,
    Metadata,
    is_model_folder,
)
from armorm.model.profiles import FOLDER

if TYPE_CHECKING:
    from armorm.model.reward_model import RewardModel

# Parts of a backbone's config that are wrong for the whole model.
_NOT_INHERITED = ("_name_or_path", "auto_map", "model_type", "num_labels")


def save_model(
    path: Path, model: RewardModel, backbone: Backbone, stored: Heads, license_id: str | None
) -> None:
    """Write a model folder that this package and transformers alone can load.

    Args:
        path: The folder. It may hold an older model of this package, which is replaced when the
            new one is complete, and no other files.
        model: The model.
        backbone: Its backbone.
        stored: Its heads with the steering in the transform.
        license_id: For the model card.

    Raises:
        OutputError: The folder holds other files, or cannot be written.
    """
    released_gate(stored.gate)  # refused before anything is written
    with replace_folder(path, recognise=is_model_folder) as folder, writing(path):
        _save_tensors(folder, backbone, stored)
        write_json(folder / "config.json", _config(backbone, stored))
        write_atomically(folder / MODELING_FILE, modeling_source())
        _save_tokenizer(folder, backbone)
        steered = not model.steering.is_neutral
        metadata = Metadata(
            written_by=f"armorm {version('armorm')}",
            objectives=list(stored.objectives),
            beta=stored.beta,
            steering=model.steering.as_dict() if steered else None,
            unsteered_transform=model.heads.transform.tolist() if steered else None,
            profile=None if model.profile is None else model.profile.reference,
            debiasing=stored.debiasing,
            training=stored.training,
            self_check=model.self_check(folder, stored.fingerprint()),
        )
        write_json(folder / METADATA_FILE, metadata.model_dump(mode="json"))
        card = model_card(
            objectives=stored.objectives,
            backbone=backbone.name,
            debiasing=stored.debiasing,
            training=stored.training,
            license_id=license_id,
            steering=_named(metadata),
        )
        write_atomically(folder / "README.md", card.encode())
        if model.uncertainty is not None:
            model.uncertainty.save(folder)
        if model.reference is not None:
            model.reference.save(folder)
        active = () if model.profile is None else (model.profile,)
        for profile in (*model.profiles.values(), *active):
            profile.write(folder / FOLDER / f"{profile.name}.yaml")
        # safetensors makes files that only their owner can read.
        mode = (folder / "config.json").stat().st_mode
        for file in folder.rglob("*"):
            if file.is_file():
                file.chmod(mode)


def _named(metadata: Metadata) -> dict[str, Any] | None:
    """Return the steering of a folder with the profile it comes from, for people."""
    profile = {} if metadata.profile is None else {"profile": metadata.profile}
    return {**profile, **(metadata.steering or {})} or None


def _save_tensors(folder: Path, backbone: Backbone, heads: Heads) -> None:
    from huggingface_hub import save_torch_state_dict

    prefix = backbone.model.base_model_prefix
    body = {f"{prefix}.{name}": tensor for name, tensor in backbone.model.state_dict().items()}
    save_torch_state_dict({**body, **heads.tensors()}, folder)


def _save_tokenizer(folder: Path, backbone: Backbone) -> None:
    """Write the tokenizer so that every supported transformers reads the same one from it."""
    backbone.tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = read_json(file)
    if (folder / "tokenizer.json").exists():
        # The name that versions 4 and 5 both take for "exactly what tokenizer.json says".
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("name_or_path", None)
    write_json(file, settings)


def _config(backbone: Backbone, heads: Heads) -> dict[str, Any]:
    config: dict[str, Any] = backbone.model.config.to_dict()
    inherited = {name: value for name, value in config.items() if name not in _NOT_INHERITED}
    gate = released_gate(heads.gate)
    family = type(backbone.model).__name__.removesuffix("Model")
    names = heads.objectives.names
    module = MODELING_FILE.removesuffix(".py")
    tokenizer = backbone.tokenizer
    return {
        **inherited,
        **_older_spellings(config),
        "model_type": "armorm",
        "backbone_model_type": backbone.model.config.model_type,
        "architectures": [f"{family}{ARCHITECTURE_SUFFIX}"],
        "auto_map": {
            "AutoConfig": f"{module}.ArmoRMConfig",
            "AutoModelForSequenceClassification": f"{module}.RewardModelWithGating",
        },
        "num_objectives": len(names),
        "gating_temperature": gate.temperature,
        "gating_hidden_dim": gate.hidden_dim,
        "gating_n_hidden": gate.n_hidden,
        **backbone.encoder.rule.as_config(),
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "problem_type": "regression",  # so that a text-classification pipeline squashes nothing
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _older_spellings(config: dict[str, Any]) -> dict[str, Any]:
    """Return values under the names of transformers 4, which would use defaults without them."""
    older = {"torch_dtype": config.get("dtype")}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        older["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
            older["rope_scaling"] = scaling
    return {name: value for name, value in older.items() if value is not None}
