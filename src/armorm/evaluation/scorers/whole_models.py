"""Models that run as transformers has them, with their own head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from armorm.conversations import ConversationEncoder
from armorm.errors import CheckpointError
from armorm.features import BackboneOptions
from armorm.features.backbone import check_device, default_device, resolve_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WholeModel(NamedTuple):
    """A model with its head, the encoder of its conversations, and the most tokens of a batch."""

    model: PreTrainedModel
    encoder: ConversationEncoder
    batch_tokens: int


def load_whole(
    kind: type[Any], folder: Path, name: str, loading: BackboneOptions, incomplete: str
) -> WholeModel:
    """Load a model with all its weights.

    Args:
        kind: Class of transformers, such as ``AutoModelForCausalLM``.
        folder: Local folder of the model.
        name: Name in messages.
        loading: How the model is loaded and run.
        incomplete: Rest of the message if a weight is missing, after "NAME lacks WEIGHTS".

    Raises:
        CheckpointError: The folder cannot be loaded, or a weight is missing, which transformers
            would make up.
    """
    from transformers import AutoTokenizer

    device = check_device(loading.device or default_device())
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype=resolve_dtype(loading.dtype, device),
            use_safetensors=True,
            output_loading_info=True,
            device_map=device,
            trust_remote_code=loading.trust_remote_code,
            **loading.engine_options,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=loading.trust_remote_code
        )
    except Exception as error:  # a malformed folder can raise anything inside the libraries
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{name} cannot be loaded. {reason}") from error
    missing = sorted({*report["missing_keys"], *map(str, report.get("mismatched_keys", ()))})
    if missing:
        raise CheckpointError(f"{name} lacks {', '.join(missing[:5])}{incomplete}")
    limit = getattr(model.config, "max_position_embeddings", None)
    encoder = ConversationEncoder(
        tokenizer,
        max_length=min(filter(None, (loading.max_length, limit)), default=None),
        overlong=loading.overlong,
    )
    tokens = loading.batch_tokens or (1024 if device == "cpu" else 16384)
    return WholeModel(model, encoder, tokens)
