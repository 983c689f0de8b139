"""Model folders in the released ArmoRM layout, read and written without running their code.

``config.json`` is the backbone's config plus ``num_objectives``, ``gating_temperature``,
``gating_hidden_dim`` and ``gating_n_hidden``; the safetensors hold the backbone under its own
prefix, ``regression_layer.weight``, ``gating.layers.<i>.{weight,bias}``, ``gating.logit_scale``
and ``reward_transform_matrix``.  ``armorm.json`` beside them holds what the released layout has no
room for: objectives and scales, beta, the debiasing report, the training record and a self-check.

A folder written here also carries ``modeling_armorm.py``, so that transformers alone can load it.
Its ``model_type`` is ``armorm``: a library that does not know the gate refuses it by that name,
where ``llama`` would be loaded with a freshly initialised head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from armorm.errors import CheckpointError
from armorm.features import Backbone, resolve_model_folder
from armorm.files import read_json, write_atomically, write_json
from armorm.heads import Gate, GatingNetwork, released_gate
from armorm.hub import HEAD_PREFIXES, MODELING_FILE, modeling_source
from armorm.model.card import model_card
from armorm.model.self_check import SelfCheck
from armorm.objectives import PAPER_OBJECTIVES, Objective, ObjectiveSet

ARCHITECTURE_SUFFIX = "ForRewardModelWithGating"

# What the released checkpoint leaves unsaid.
RELEASED_TEMPERATURE = 10.0
RELEASED_HIDDEN_DIM = 1024
RELEASED_N_HIDDEN = 3

# Parts of a backbone's config that are wrong for the whole model.
NOT_INHERITED = ("_name_or_path", "auto_map", "model_type", "num_labels")


class Metadata(BaseModel):
    """The contents of ``armorm.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = 1
    objectives: list[Objective]
    beta: float | None = None
    debiasing: dict[str, Any] = {}
    training: dict[str, Any] = {}
    self_check: SelfCheck | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """Everything of a reward model that is not its backbone.

    Attributes:
        objectives: Names and scales of the k objectives.
        weight: Regression layer W, in float32. Shape (k, hidden).
        transform: T of the debiasing, in float32. Shape (k, k).
        gate: The gating network.
        beta: Learned scale of the Bradley–Terry model; ``None`` when it is not known.
        debiasing: Report of the debiasing.
        training: Record of the training.
    """

    objectives: ObjectiveSet
    weight: Float[Tensor, "k hidden"]
    transform: Float[Tensor, "k k"]
    gate: Gate
    beta: float | None = None
    debiasing: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The heads under the names of the released checkpoint."""
        gate = {f"gating.{name}": tensor for name, tensor in self.gate.state_dict().items()}
        return {
            "regression_layer.weight": self.weight,
            "reward_transform_matrix": self.transform,
            **gate,
        }

    def check_fits(self, hidden_size: int, name: str) -> None:
        """Raise CheckpointError unless the heads read features of this length."""
        if self.weight.shape[1] != hidden_size:
            raise CheckpointError(
                f"{name}: regression_layer.weight reads {self.weight.shape[1]} features, but the "
                f"backbone has {hidden_size}."
            )


def save_checkpoint(
    path: Path, backbone: Backbone, heads: Heads, self_check: SelfCheck, license_id: str | None
) -> None:
    """Write a model folder that this package and transformers alone can load."""
    released_gate(heads.gate)  # refused before anything is written
    path.mkdir(parents=True, exist_ok=True)
    _save_tensors(path, backbone, heads)
    write_json(path / "config.json", _config(backbone, heads))
    write_atomically(path / MODELING_FILE, modeling_source())
    _save_tokenizer(path, backbone)
    metadata = Metadata(
        objectives=list(heads.objectives),
        beta=heads.beta,
        debiasing=heads.debiasing,
        training=heads.training,
        self_check=self_check,
    )
    write_json(path / "armorm.json", metadata.model_dump())
    card = model_card(
        objectives=heads.objectives,
        backbone=backbone.name,
        debiasing=heads.debiasing,
        training=heads.training,
        license_id=license_id,
    )
    write_atomically(path / "README.md", card.encode())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model folder holds besides its backbone.

    Attributes:
        folder: The local folder.
        heads: Regression layer, transform and gate.
        self_check: What the model made of a fixed conversation when it was saved; ``None`` for
            the released checkpoint, which carries no such thing.
    """

    folder: Path
    heads: Heads
    self_check: SelfCheck | None


def load_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Checkpoint:
    """Read the heads of a model folder or hub id.

    Raises:
        CheckpointError: a head is missing, has an extra tensor, or a wrong shape.
    """
    folder = resolve_model_folder(name_or_path, revision)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    objectives = config.get("num_objectives")
    if not isinstance(objectives, int) or "regression_layer.weight" not in tensors:
        raise CheckpointError(
            f"{name_or_path} is not a gated reward model: its config has no num_objectives or its "
            "weights no regression_layer.weight. Train one with `armorm train`."
        )
    weight = tensors["regression_layer.weight"]
    gate = GatingNetwork(
        weight.shape[1],
        objectives,
        config.get("gating_hidden_dim") or RELEASED_HIDDEN_DIM,
        config.get("gating_n_hidden") or RELEASED_N_HIDDEN,
        config.get("gating_temperature") or RELEASED_TEMPERATURE,
    )
    expected = {
        "regression_layer.weight": (objectives, weight.shape[1]),
        "reward_transform_matrix": (objectives, objectives),
        **{f"gating.{name}": tuple(t.shape) for name, t in gate.state_dict().items()},
    }
    _check_tensors(str(name_or_path), tensors, expected)
    gate.load_state_dict(
        {
            name.removeprefix("gating."): tensors[name]
            for name in expected
            if name.startswith("gating.")
        }
    )
    metadata = _read_metadata(folder, objectives)
    heads = Heads(
        objectives=ObjectiveSet(metadata.objectives),
        weight=weight,
        transform=tensors["reward_transform_matrix"],
        gate=gate.eval().requires_grad_(False),
        beta=metadata.beta,
        debiasing=metadata.debiasing,
        training=metadata.training,
    )
    return Checkpoint(folder, heads, metadata.self_check)


def _save_tensors(path: Path, backbone: Backbone, heads: Heads) -> None:
    from huggingface_hub import save_torch_state_dict

    prefix = backbone.model.base_model_prefix
    body = {f"{prefix}.{name}": tensor for name, tensor in backbone.model.state_dict().items()}
    # Of an earlier save with more shards nothing may stay behind.
    for old in [*path.glob("model*.safetensors"), *path.glob("model*.safetensors.index.json")]:
        old.unlink()
    save_torch_state_dict({**body, **heads.tensors()}, path)


def _save_tokenizer(path: Path, backbone: Backbone) -> None:
    """Write the tokenizer so that every supported transformers reads the same one from it."""
    backbone.tokenizer.save_pretrained(path)
    file = path / "tokenizer_config.json"
    settings = read_json(file)
    if (path / "tokenizer.json").exists():
        # The name that versions 4 and 5 both take for "exactly what tokenizer.json says".
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings.pop("name_or_path", None)
    write_json(file, settings)


def _config(backbone: Backbone, heads: Heads) -> dict[str, Any]:
    config: dict[str, Any] = backbone.model.config.to_dict()
    inherited = {name: value for name, value in config.items() if name not in NOT_INHERITED}
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
    """What transformers 4 looks for under other names, and would else replace by a default."""
    older = {"torch_dtype": config.get("dtype")}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        older["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
            older["rope_scaling"] = scaling
    return {name: value for name, value in older.items() if value is not None}


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no readable config.json: {error}") from error


def _read_metadata(folder: Path, objectives: int) -> Metadata:
    file = folder / "armorm.json"
    if file.exists():
        try:
            metadata = Metadata.model_validate(read_json(file))
        except ValueError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        if len(metadata.objectives) != objectives:
            raise CheckpointError(
                f"{file} names {len(metadata.objectives)} objectives, the weights have "
                f"{objectives}."
            )
        return metadata
    if objectives == len(PAPER_OBJECTIVES):
        return Metadata(objectives=list(PAPER_OBJECTIVES))
    raise CheckpointError(
        f"{folder} has no armorm.json, and its {objectives} objectives are not the paper's "
        f"{len(PAPER_OBJECTIVES)}, so their names and scales are unknown."
    )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """The head tensors of all weight files, in float32."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if name.startswith(HEAD_PREFIXES):
                        tensors[name] = opened.get_tensor(name).to(torch.float32)
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
    return tensors


def _check_tensors(
    name: str, found: dict[str, Tensor], expected: dict[str, tuple[int, ...]]
) -> None:
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} does not belong there" for key in found if key not in expected]
    problems += [
        f"{key} has shape {tuple(found[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key].shape) != shape
    ]
    problems += [
        f"{key} holds numbers that are not finite"
        for key, tensor in found.items()
        if not tensor.isfinite().all()
    ]
    if problems:
        raise CheckpointError(f"{name} is not a complete gated reward model: {'; '.join(problems)}")
