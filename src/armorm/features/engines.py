"""The engines that run a frozen language model, and the interface they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from armorm.conversations import ConversationEncoder, EncodedPrompt
from armorm.features.backbone import Backbone
from armorm.features.options import BackboneOptions
from armorm.features.running import BackboneFeatures, ReadAlso


@runtime_checkable
class FeatureBackbone(Protocol):
    """A model that turns encoded conversations into features, such as :class:`~armorm.Backbone`."""

    @property
    def encoder(self) -> ConversationEncoder:
        """Encoder of conversations into token ids with their prompt boundary."""

    @property
    def folder(self) -> Path:
        """Local folder that the model was loaded from."""

    @property
    def layer(self) -> int | None:
        """Number of layers of the folder's model that were loaded; ``None`` if it is whole."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a feature depends on; costly on first use."""

    @property
    def dtype(self) -> str:
        """Number format of the weights."""

    @property
    def hidden_size(self) -> int:
        """Length of a feature."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the model has embeddings for."""

    @property
    def quantized(self) -> bool:
        """True if the weights are coarser than their dtype, by design."""

    def close(self) -> None:
        """Release memory and processes. Nothing can be computed afterwards."""

    def features(
        self,
        prompts: Sequence[EncodedPrompt],
        advance: Callable[[int], None] | None = None,
        read_also: ReadAlso | None = None,
    ) -> BackboneFeatures:
        """Return states of encoded prompts and their responses, in float32 on the CPU."""

    def prefix_features(self, prompt: EncodedPrompt, first: int, closing: int) -> BackboneFeatures:
        """Return the states of one response cut after each of its tokens, closed each time."""


def load_engine(
    name_or_path: str | Path, options: BackboneOptions | None = None, **fields: Any
) -> FeatureBackbone:
    """Load a frozen language model into the engine that the options name.

    Args:
        name_or_path: A local folder, a hub id, or ``builtin``.
        options: How it is loaded and run; ``options.engine`` chooses ``transformers``, or
            ``vllm`` (installed separately; see docs/vllm.md).
        **fields: Fields of ``options`` to replace; see :meth:`armorm.Backbone.from_pretrained`.
    """
    options = BackboneOptions.of(options, fields)
    if options.engine == "vllm":
        from armorm.features.vllm_backbone import VllmBackbone

        return VllmBackbone.from_pretrained(name_or_path, options)
    return Backbone.from_pretrained(name_or_path, options)
