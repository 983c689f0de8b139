"""Which engine runs the frozen language model, and what all of them offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from armorm.conversations import ConversationEncoder, EncodedPrompt
from armorm.features.backbone import Backbone
from armorm.features.running import BackboneFeatures

Engine = Literal["transformers", "vllm"]


@runtime_checkable
class FeatureBackbone(Protocol):
    """What turns encoded conversations into features. See :class:`~armorm.Backbone`."""

    @property
    def encoder(self) -> ConversationEncoder:
        """Renders and tokenises conversations and knows the prompt boundary."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a feature depends on."""

    @property
    def hidden_size(self) -> int:
        """Length of a feature."""

    @property
    def quantized(self) -> bool:
        """Whether weights are coarser than their dtype, by design."""

    def close(self) -> None:
        """Give memory and processes back. Nothing can be computed afterwards."""

    def features(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> BackboneFeatures:
        """States of encoded prompts and their responses, in float32 on the CPU."""


def load_engine(
    name_or_path: str | Path, *, engine: Engine = "transformers", **options: Any
) -> FeatureBackbone:
    """Load a frozen language model into an engine.

    Args:
        name_or_path: A local folder, a hub id, or ``builtin``.
        engine: ``transformers``, or ``vllm`` (installed apart; see docs/vllm.md).
        **options: See :meth:`armorm.Backbone.from_pretrained`; for vLLM also ``engine_options``.
    """
    if engine == "vllm":
        from armorm.features.vllm_backbone import VllmBackbone

        return VllmBackbone.from_pretrained(name_or_path, **options)
    return Backbone.from_pretrained(name_or_path, **options)
