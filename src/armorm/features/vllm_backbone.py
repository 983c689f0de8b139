"""The frozen language model on vLLM: the same features, from an engine made for many GPUs.

vLLM gets token ids and the place of the boundary, never text: the template, BOS and the boundary
are decided by our own encoder, as with transformers.  :mod:`armorm.vllm_plugin` adds to vLLM what
reads the state at the boundary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import ConversationEncoder, EncodedPrompt, OverlongPolicy
from armorm.errors import ArmormError, CheckpointError, MissingExtraError
from armorm.features.backbone import (
    default_device,
    identify,
    resolve_dtype,
    resolve_model_folder,
)
from armorm.features.merging import merge_prompts
from armorm.features.running import BackboneFeatures

# vLLM drains after as many, and progress is told; more in one call gain nothing.
SEQUENCES_AT_ONCE = 1024


class VllmBackbone:
    """A frozen decoder that runs in vLLM, with its tokenizer and chat template.

    Attributes:
        llm: The ``vllm.LLM``.
        tokenizer: The model's tokenizer.
        encoder: Renders and tokenises conversations and knows the prompt boundary.
        folder: The local folder it was loaded from.
        identity: As of :class:`~armorm.Backbone`, and ``engine``: numbers of two engines agree
            to rounding only, so their features are not mixed in one store.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        *,
        folder: Path,
        name: str,
        max_length: int | None = None,
        overlong: OverlongPolicy = "error",
    ) -> None:
        from vllm import __version__

        config = llm.model_config
        self.llm = llm
        self.tokenizer = tokenizer
        self.encoder = ConversationEncoder(
            tokenizer,
            max_length=min(filter(None, (max_length, config.max_model_len))),
            overlong=overlong,
        )
        self.tokenizer.chat_template = self.encoder.template
        self.folder = folder
        self.name = name
        self.identity = {
            **identify(
                name=name,
                revision=config.revision,
                architecture=config.hf_text_config.model_type,
                hidden_size=self.hidden_size,
                folder=folder,
                encoder=self.encoder,
                dtype=str(config.dtype),
            ),
            "engine": f"vllm {__version__}",
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        max_length: int | None = None,
        overlong: OverlongPolicy = "error",
        batch_tokens: int | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        engine_options: Mapping[str, Any] | None = None,
    ) -> VllmBackbone:
        """Start vLLM with a decoder from a folder or the hub.

        Args:
            name_or_path: A local folder, a hub id, or ``builtin`` for the shipped backbone.
            revision: Hub revision.
            dtype: ``float32``, ``bfloat16``, ``float16``; ``auto`` is float32 on a CPU and
                bfloat16 elsewhere.
            device: Not taken: vLLM finds its devices itself (``CUDA_VISIBLE_DEVICES``).
            max_length: Most tokens of a conversation; default what the model was built for.
            overlong: See :class:`~armorm.conversations.ConversationEncoder`.
            batch_tokens: vLLM's ``max_num_batched_tokens``.
            attn_implementation: Not taken: vLLM has its own (``attention_backend``).
            trust_remote_code: Run Python code from the model folder.
            engine_options: Arguments of ``vllm.LLM``: ``tensor_parallel_size``,
                ``pipeline_parallel_size``, ``gpu_memory_utilization``, ``enforce_eager`` …

        Raises:
            MissingExtraError: vLLM is not installed.
            CheckpointError: the folder names no architecture, or vLLM does not know it.
        """
        refuse_foreign_options(device, attn_implementation, dtype)
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingExtraError("--engine vllm", "vllm") from error
        from transformers import AutoTokenizer

        folder = resolve_model_folder(name_or_path, revision)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        options = {
            "runner": "pooling",
            "dtype": str(resolve_dtype(dtype, default_device())).removeprefix("torch."),
            "trust_remote_code": trust_remote_code,
            "hf_overrides": {"architectures": [states_architecture(folder)]},
            "max_model_len": max_length,
            "max_num_batched_tokens": batch_tokens,
            **(engine_options or {}),
        }
        try:
            llm = LLM(str(folder), **options)
        except ValueError as error:
            raise CheckpointError(f"vLLM cannot load {name_or_path}: {error}") from error
        return cls(
            llm,
            tokenizer,
            folder=folder,
            name=str(name_or_path),
            max_length=max_length,
            overlong=overlong,
        )

    @property
    def hidden_size(self) -> int:
        size: int = self.llm.model_config.get_hidden_size()
        return size

    @property
    def quantized(self) -> bool:
        return self.llm.model_config.quantization is not None

    def close(self) -> None:
        """Stop vLLM and give its memory back. The backbone cannot be used afterwards."""
        self.llm.llm_engine.engine_core.shutdown()

    def features(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> BackboneFeatures:
        """Hidden states of encoded prompts and their responses, in float32 on the CPU.

        Responses to one prompt follow each other, so that vLLM takes the prompt's whole blocks
        from its prefix cache.

        Args:
            prompts: What :meth:`ConversationEncoder.encode` returns.
            advance: Called with the number of tokens after each group of conversations.

        Raises:
            ArmormError: a state is not a number.
        """
        merged = merge_prompts(prompts)
        requests = [(ids, prompt.boundary) for prompt in merged.prompts for ids in prompt.sequences]
        states = torch.empty(len(requests), 2, self.hidden_size)
        for start in range(0, len(requests), SEQUENCES_AT_ONCE):
            group = requests[start : start + SEQUENCES_AT_ONCE]
            states[start : start + len(group)] = self._states(group)
            if advance is not None:
                advance(sum(len(ids) for ids, _ in group))
        if not torch.isfinite(states).all():
            rows = (~torch.isfinite(states)).any(dim=(1, 2)).nonzero().flatten().tolist()
            raise ArmormError(
                f"vLLM answered no number for {len(rows)} conversations (the first at position "
                f"{rows[0]}). Use dtype float32 or bfloat16 if it is float16; else see its log."
            )
        # The boundary's state is the same in all conversations of a prompt: take the first one's.
        owners = torch.tensor(merged.owners, dtype=torch.long)
        firsts = torch.searchsorted(owners, torch.tensor(merged.prompt_numbers, dtype=torch.long))
        return BackboneFeatures(states[firsts, 0], states[merged.response_numbers, 1])

    def _states(
        self, requests: Sequence[tuple[Sequence[int], int]]
    ) -> Float[Tensor, "requests 2 hidden"]:
        from vllm import PoolingParams

        from armorm.vllm_plugin.boundary import with_boundary

        outputs = self.llm.encode(
            [{"prompt_token_ids": list(ids)} for ids, _ in requests],
            # The cache may be read: the plugin keeps it off the boundary.
            [
                with_boundary(PoolingParams(skip_reading_prefix_cache=False), boundary)
                for _, boundary in requests
            ],
            pooling_task="token_embed",
            use_tqdm=False,
        )
        return torch.stack([output.outputs.data for output in outputs])


def states_architecture(folder: Path) -> str:
    """The name under which the plugin runs the decoder of a model folder.

    Raises:
        CheckpointError: ``config.json`` cannot be read or names no architecture.
    """
    from armorm.vllm_plugin import STATES_SUFFIX
    from armorm.vllm_plugin.bodies import family_of

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return family_of(config["architectures"][0]) + STATES_SUFFIX
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} names no architecture, so vLLM cannot run it: {error!r}"
        ) from error


def refuse_foreign_options(device: str | None, attn_implementation: str | None, dtype: str) -> None:
    """Raise ArmormError for what only the engine ``transformers`` knows."""
    if device is not None:
        raise ArmormError("vLLM finds its devices itself: set CUDA_VISIBLE_DEVICES, not device.")
    if attn_implementation is not None:
        raise ArmormError(
            "attn_implementation is transformers': with vLLM use engine_options.attention_backend."
        )
    if dtype == "stored":
        raise ArmormError("vLLM needs a dtype: auto, float32, bfloat16 or float16.")
