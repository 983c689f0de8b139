"""Loading a model folder: every value is checked before it is used, and no code of it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from armorm.errors import ArmormError, CheckpointError, RecipeError
from armorm.features import resolve_model_folder
from armorm.heads import GatingNetwork
from armorm.hub import HEAD_PREFIXES, METADATA_FILE
from armorm.hub.weights import StoredTensor, check_sizes, read_object, stored_tensors
from armorm.model.layout import (
    FORMAT_VERSION,
    RELEASED_HIDDEN_DIM,
    RELEASED_N_HIDDEN,
    RELEASED_TEMPERATURE,
    Heads,
    Metadata,
)
from armorm.model.profiles import FOLDER, SteeringProfile, read_profiles
from armorm.model.self_check import SelfCheck
from armorm.model.steering import Steering
from armorm.objectives import PAPER_OBJECTIVES, ObjectiveSet
from armorm.settings import describe_problems

_GATE_LAYER = re.compile(r"gating\.layers\.\d+\.weight")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a model folder except its backbone.

    Attributes:
        folder: The local folder.
        heads: Regression layer, transform and gate, as they are without steering.
        steering: Steering that the folder was exported with.
        profiles: Profiles that are saved with the model, by name.
        profile: Profile that the folder was exported with.
        self_check: Answer to a fixed conversation when the model was saved; ``None`` for the
            released checkpoint, which holds none.
        fingerprint: Hash of the heads as they are stored.
    """

    folder: Path
    heads: Heads
    steering: Steering
    profiles: dict[str, SteeringProfile]
    profile: SteeringProfile | None
    self_check: SelfCheck | None
    fingerprint: str


def load_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Checkpoint:
    """Read the heads of a model folder or hub id.

    Raises:
        CheckpointError: The folder is not a complete gated reward model, or a file of it is
            malformed.
    """
    folder = resolve_model_folder(name_or_path, revision)
    config = read_object(folder / "config.json")
    tensors = stored_tensors(folder)
    check_sizes(folder, config, tensors)
    if config.get("num_objectives") is None or "regression_layer.weight" not in tensors:
        raise CheckpointError(
            f"{name_or_path} is not a gated reward model: its config has no num_objectives or its "
            "weights no regression_layer.weight. Train one with `armorm train`."
        )
    stored = {name: tensors[name] for name in tensors if name.startswith(HEAD_PREFIXES)}
    gate, weight, transform = _read_heads(folder, config, stored)
    metadata = _read_metadata(folder, config, len(weight))
    heads = Heads(
        objectives=ObjectiveSet(metadata.objectives),
        weight=weight,
        transform=transform,
        gate=gate,
        beta=metadata.beta,
        debiasing=metadata.debiasing,
        training=metadata.training,
    )
    fingerprint = heads.fingerprint()
    steering = Steering()
    if metadata.steering is not None:
        steering, heads = _take_steering_out(folder, heads, metadata)
    profiles, profile = _read_profiles(folder, metadata, steering)
    return Checkpoint(folder, heads, steering, profiles, profile, metadata.self_check, fingerprint)


def _read_profiles(
    folder: Path, metadata: Metadata, steering: Steering
) -> tuple[dict[str, SteeringProfile], SteeringProfile | None]:
    """Return the saved profiles, and the one that the folder was exported with."""
    try:
        profiles = read_profiles(folder / FOLDER)
    except RecipeError as error:
        raise CheckpointError(str(error)) from None
    if metadata.profile is None:
        return profiles, None
    profile = profiles.get(metadata.profile.get("name", ""))
    if (
        profile is None
        or profile.reference != metadata.profile
        or (profile.steering != steering and not profile.steering.is_neutral)
    ):
        raise CheckpointError(
            f"{folder / METADATA_FILE}: the model was saved under the profile {metadata.profile}, "
            f"which {FOLDER} no longer holds. Restore the file, or save the model again."
        )
    return profiles, profile


def _read_heads(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> tuple[GatingNetwork, Tensor, Tensor]:
    """Return the gate, the regression layer and the transform, in float32."""
    objectives = _count(folder, config, "num_objectives", None, least=1)
    hidden_dim = _count(folder, config, "gating_hidden_dim", RELEASED_HIDDEN_DIM, least=1)
    n_hidden = _count(folder, config, "gating_n_hidden", RELEASED_N_HIDDEN, least=0)
    temperature = _temperature(folder, config)
    layers = sum(1 for name in stored if _GATE_LAYER.fullmatch(name))
    if layers != n_hidden + 1:
        raise CheckpointError(
            f"{folder} is not a complete gated reward model: the config's gating_n_hidden = "
            f"{n_hidden} needs {n_hidden + 1} layers gating.layers.<i>.weight, the weights have "
            f"{layers}."
        )
    found = stored["regression_layer.weight"].shape
    hidden = found[1] if len(found) == 2 else 1
    widths = [hidden, *[hidden_dim] * n_hidden, objectives]
    expected: dict[str, tuple[int, ...]] = {
        "regression_layer.weight": (objectives, hidden),
        "reward_transform_matrix": (objectives, objectives),
        "gating.logit_scale": (1,),
    }
    for i in range(n_hidden + 1):
        expected[f"gating.layers.{i}.weight"] = (widths[i + 1], widths[i])
        expected[f"gating.layers.{i}.bias"] = (widths[i + 1],)
    problems = [f"{name} is missing" for name in expected if name not in stored]
    problems += [f"{name} does not belong there" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        if stored[name].shape != expected[name] or 0 in expected[name]:
            problems.append(f"{name} has shape {stored[name].shape} instead of {expected[name]}")
        if not stored[name].dtype.startswith(("F", "BF")):
            problems.append(f"{name} holds {stored[name].dtype} instead of floating-point numbers")
    if not problems:
        tensors = {name: _read_tensor(name, stored[name]) for name in expected}
        problems = [
            f"{name} holds numbers that are not finite"
            for name, tensor in tensors.items()
            if not tensor.isfinite().all()
        ]
    if problems:
        raise CheckpointError(
            f"{folder} is not a complete gated reward model: {'; '.join(sorted(problems))}."
        )
    gate = GatingNetwork(hidden, objectives, hidden_dim, n_hidden, temperature)
    gate.load_state_dict(
        {name.removeprefix("gating."): t for name, t in tensors.items() if name[:7] == "gating."}
    )
    gate.eval().requires_grad_(False)
    return gate, tensors["regression_layer.weight"], tensors["reward_transform_matrix"]


def _read_tensor(name: str, stored: StoredTensor) -> Tensor:
    with safe_open(stored.file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor.to(torch.float32)


def _count(
    folder: Path, config: Mapping[str, Any], name: str, default: int | None, *, least: int
) -> int:
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise CheckpointError(
            f"{folder / 'config.json'}: {name} = {value!r} is not a whole number of {least} or "
            "more."
        )
    return value


def _temperature(folder: Path, config: Mapping[str, Any]) -> float:
    value = config.get("gating_temperature")
    value = RELEASED_TEMPERATURE if value is None else value
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise CheckpointError(
            f"{folder / 'config.json'}: gating_temperature = {value!r} is not a positive number."
        )
    return float(value)


def _read_metadata(folder: Path, config: Mapping[str, Any], objectives: int) -> Metadata:
    file = folder / METADATA_FILE
    if not file.exists() and not file.is_symlink():
        if objectives == len(PAPER_OBJECTIVES):
            return Metadata(objectives=list(PAPER_OBJECTIVES))
        raise CheckpointError(
            f"{folder} has no {METADATA_FILE}, and its {objectives} objectives are not the paper's "
            f"{len(PAPER_OBJECTIVES)}, so their names and scales are unknown."
        )
    content = read_object(file)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format {version!r} (written by {content.get('written_by', 'unknown')}); "
            f"this version reads format {FORMAT_VERSION}. Run `armorm migrate {folder}`: it "
            "writes the folder in that format, or says why it cannot."
        )
    try:
        metadata = Metadata.model_validate(content)
        names = list(ObjectiveSet(metadata.objectives).names)
    except ValidationError as error:
        problems = " ".join(describe_problems(error, Metadata))
        raise CheckpointError(f"{file} cannot be used: {problems}") from error
    except ArmormError as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from error
    if len(names) != objectives:
        raise CheckpointError(
            f"{file} names {len(names)} objectives, the weights have {objectives}."
        )
    labels = config.get("id2label")
    if labels != {str(i): name for i, name in enumerate(names)}:
        raise CheckpointError(
            f"{file} names the objectives {names}, id2label of config.json says {labels!r}. "
            "Restore the file that was changed."
        )
    return metadata


def _take_steering_out(folder: Path, heads: Heads, metadata: Metadata) -> tuple[Steering, Heads]:
    """Return the steering that the stored matrix contains, and the heads without it."""
    file = folder / METADATA_FILE
    try:
        steering = Steering.from_dict(metadata.steering or {})
        original = torch.tensor(metadata.unsteered_transform)
        if original.shape != heads.transform.shape:
            raise CheckpointError(f"{file}: unsteered_transform has another shape than the matrix.")
        total = float(heads.gate.logit_scale)
        compiled = steering.compile(heads.objectives, original.numpy(), total, warn=False)
        stored = torch.from_numpy(compiled.as_transform())
    except CheckpointError:
        raise
    except (ArmormError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{file}: steering cannot be used: {error}") from error
    if not torch.allclose(stored, heads.transform, rtol=1e-5, atol=1e-6):
        raise CheckpointError(f"{file}: steering does not lead to the reward_transform_matrix.")
    return steering, replace(heads, transform=original)
