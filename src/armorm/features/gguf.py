"""GGUF files, as llama.cpp writes them: one file with weights, configuration, tokenizer, template.

transformers reads them and this package dequantises them, so a loaded model is an ordinary one: it
trains, and whatever is saved from it is an ordinary folder.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".gguf"

TEMPLATE = "tokenizer.chat_template"
TOKENIZER = "tokenizer.ggml.model"
TOKENS = "tokenizer.ggml.tokens"
RANKS = ("tokenizer.ggml.merges", "tokenizer.ggml.scores")


def is_gguf(path: Path) -> bool:
    """Return true for a GGUF file, false for a folder."""
    return path.suffix.lower() == SUFFIX and path.is_file()


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


def check_gguf(file: Path) -> dict[str, Any]:
    """Check that a file is whole and has a tokenizer and a chat template; return its tensors.

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
            f"{file} is no GGUF file, damaged, or cut off. Download or convert it again. "
            f"{type(error).__name__}: {error}"
        ) from error
    missing = [name for name in (TOKENIZER, TOKENS) if reader.get_field(name) is None]
    if all(reader.get_field(name) is None for name in RANKS):
        missing.append(" or ".join(RANKS))
    if missing:
        raise CheckpointError(
            f"{file} holds no complete tokenizer ({', '.join(missing)} missing). Convert the model "
            "again, with its tokenizer."
        )
    if reader.get_field(TEMPLATE) is None:
        raise CheckpointError(
            f"{file} holds no chat template ({TEMPLATE}), so conversations cannot be rendered. "
            "Use a file of a chat model, or add one with gguf-new-metadata (package gguf)."
        )
    return tensors


def dequantization() -> dict[str, Any]:
    """Return the argument that makes transformers dequantise; older versions always do."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def obey_progress_setting() -> None:
    """Give the reading of GGUF files in transformers the bar that its setting turns off."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    vars(modeling_gguf_pytorch_utils)["tqdm"] = logging.tqdm


def forget_quantization(model: PreTrainedModel) -> None:
    """Make a model that was dequantised an ordinary one, which trains and can be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
