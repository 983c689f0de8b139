"""Weight files of a model folder, examined without reading their tensors.

Everything here comes from the headers of the safetensors files, so that a folder whose config asks
for terabytes, or whose index points elsewhere, is refused before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open

from armorm.errors import ArmormError, CheckpointError
from armorm.files import read_json

INDEX_FILE = "model.safetensors.index.json"

# Of each tensor this many blocks of this many bytes, evenly spaced, are hashed.
_BLOCKS, _BLOCK_BYTES = 8, 256

# Sizes in a config that also occur as the length of an axis of some tensor, or their number.
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: The file.
        dtype: Its number format, as safetensors spells it.
        shape: Its shape.
        start: Position of its first byte in the file.
        size: Number of bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file of a model folder.

    Raises:
        CheckpointError: There is none.
    """
    try:
        return read_json(file)
    except (ArmormError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a folder's safetensors files by name.

    Raises:
        CheckpointError: A file is damaged; a tensor is in two files; or the index names a file
            that is not in the folder, or a tensor that is not in its file.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: the tensor {name} is both in {tensors[name].file.name} and in "
                    f"{file.name}. Delete the file that does not belong to the model."
                )
            tensors[name] = tensor
    for name, file_name in _weight_map(folder).items():
        if not isinstance(file_name, str) or PurePath(file_name).name != file_name:
            raise CheckpointError(
                f"{folder / INDEX_FILE}: {name} is in {file_name!r}, which is not the name of a "
                "file of the folder. Weights are read from the folder alone."
            )
        if name not in tensors or tensors[name].file.name != file_name:
            raise CheckpointError(f"{folder}: {file_name} does not hold the tensor {name}.")
    return tensors


def check_sizes(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a size in the config fits no tensor of the folder.

    A wrong size would otherwise be allocated, or a module for each of a billion layers be made.
    """
    if not tensors:
        return  # no weights to load, which the loader says itself
    longest = max((n for tensor in tensors.values() for n in tensor.shape), default=0)
    limits = {**dict.fromkeys(_SIZES, longest), "num_hidden_layers": len(tensors)}
    for name, limit in limits.items():
        size = config.get(name)
        if size is not None and (type(size) is not int or not 0 < size <= limit):
            raise CheckpointError(
                f"{folder / 'config.json'}: {name} = {size!r} does not fit the weights."
            )


def sample_hash(tensors: Mapping[str, StoredTensor], names: Iterable[str]) -> str:
    """Return a hash of names, shapes and some blocks of bytes of each tensor.

    It tells other weights from the saved ones in milliseconds, where a hash of all bytes of an
    8-billion-parameter model takes half a minute.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
        step = max((tensor.size - _BLOCK_BYTES) // (_BLOCKS - 1), _BLOCK_BYTES)
        with tensor.file.open("rb", buffering=0) as file:
            for offset in range(0, tensor.size, step):
                file.seek(tensor.start + offset)
                digest.update(file.read(min(_BLOCK_BYTES, tensor.size - offset)))
    return digest.hexdigest()


def _header(file: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(file, framework="np"):  # checks the header against the size of the file
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or cannot be read: {error}") from error
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            file,
            entry["dtype"],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _weight_map(folder: Path) -> dict[str, Any]:
    file = folder / INDEX_FILE
    if not file.exists() and not file.is_symlink():
        return {}
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        return dict(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or cannot be read: {error!r}") from error
