"""GGUF files, as llama.cpp writes them: one file with weights, configuration, tokenizer, template.

transformers reads them and this package dequantises them, so a loaded model is an ordinary one: it
trains, and whatever is saved from it is an ordinary folder.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.errors import CheckpointError, MissingExtraError
from armorm.hub.weights import check_sizes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SUFFIX = ".gguf"

TEMPLATE = "tokenizer.chat_template"


def is_gguf(path: Path) -> bool:
    """Return true for a GGUF file, false for a folder."""
    return path.suffix == SUFFIX and path.is_file()


def transformers_source(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the arguments by which transformers reads a model folder or GGUF file.

    Raises:
        MissingExtraError: The path is a GGUF file, and ``gguf`` is not installed.
    """
    if not is_gguf(path):
        return path, {}
    if find_spec("gguf") is None:
        raise MissingExtraError("Reading a GGUF file", "gguf")
    return path.parent, {"gguf_file": path.name}


def check_gguf(file: Path, config: PretrainedConfig) -> None:
    """Check that a file is whole, fits its own configuration, and has a chat template.

    Raises:
        CheckpointError: It does not.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    # A damaged file can raise anything inside the library.
    except Exception as error:
        raise CheckpointError(
            f"{file} is damaged or cut off: {type(error).__name__}: {error}"
        ) from error
    check_sizes(file, config.to_dict(), tensors)
    if reader.get_field(TEMPLATE) is None:
        raise CheckpointError(
            f"{file} holds no chat template ({TEMPLATE}), so conversations cannot be rendered. "
            "Use a file of a chat model, or add one with gguf-new-metadata (package gguf)."
        )


def dequantization() -> dict[str, Any]:
    """Return the argument that makes transformers dequantise; older versions always do."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def forget_quantization(model: PreTrainedModel) -> None:
    """Make a model that was dequantised an ordinary one, which trains and can be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
