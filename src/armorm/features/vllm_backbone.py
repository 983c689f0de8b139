"""The frozen language model in vLLM: the same features, from an engine for many GPUs.

vLLM gets token ids and the position of the boundary, never text: the encoder of this package
decides about template, BOS and boundary, as with transformers.  :mod:`armorm.vllm_plugin` makes
vLLM return the state at the boundary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import ConversationEncoder, EncodedPrompt
from armorm.errors import ArmormError, CheckpointError, MissingExtraError
from armorm.features.backbone import (
    default_device,
    identify,
    resolve_dtype,
    resolve_model_folder,
)
from armorm.features.closed_prefixes import closed_prefixes
from armorm.features.gguf import is_gguf
from armorm.features.merging import merge_prompts
from armorm.features.options import BackboneOptions
from armorm.features.running import BackboneFeatures, ReadAlso

# One call waits for as many sequences, then reports progress; more at once gain nothing.
SEQUENCES_AT_ONCE = 1024


class VllmBackbone:
    """A frozen decoder that runs in vLLM, with its tokenizer and chat template.

    Attributes:
        llm: The ``vllm.LLM``.
        tokenizer: The model's tokenizer.
        encoder: Renders and tokenises conversations and knows the prompt boundary.
        folder: The local folder it was loaded from.
    """

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        *,
        folder: Path,
        name: str,
        options: BackboneOptions | None = None,
    ) -> None:
        options = options or BackboneOptions(engine="vllm")
        config = llm.model_config
        self.llm = llm
        self.tokenizer = tokenizer
        self.encoder = ConversationEncoder(
            tokenizer,
            max_length=min(filter(None, (options.max_length, config.max_model_len))),
            overlong=options.overlong,
        )
        self.tokenizer.chat_template = self.encoder.template
        self.folder = folder
        self.name = name
        self.layer = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        options: BackboneOptions | None = None,
        **fields: Any,
    ) -> VllmBackbone:
        """Start vLLM with a decoder from a folder or the hub.

        Args:
            name_or_path: A local folder, a hub id, or ``builtin`` for the shipped backbone.
            options: How it is loaded and run. ``engine_options`` are the arguments of
                ``vllm.LLM``: ``tensor_parallel_size``, ``gpu_memory_utilization`` …;
                ``batch_tokens`` is its ``max_num_batched_tokens``.
            **fields: Fields that replace those of ``options``; any other name is an argument of
                ``vllm.LLM``.

        Raises:
            ArmormError: An option is one of transformers alone.
            MissingExtraError: vLLM is not installed.
            CheckpointError: The folder names no architecture, or vLLM does not know it.
        """
        options = BackboneOptions.of(options, fields)
        refuse_options_of_transformers(options)
        try:
            from vllm import LLM
        except ImportError as error:
            raise MissingExtraError("--engine vllm", "vllm") from error
        from transformers import AutoTokenizer

        folder = resolve_model_folder(name_or_path, options.revision)
        if is_gguf(folder):
            raise CheckpointError(
                f"{name_or_path} is a GGUF file, which this package does not run in vLLM. Save an "
                "ordinary model, Backbone.from_pretrained(file).save_pretrained(folder), and name "
                "its folder."
            )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code
        )
        arguments = {
            "runner": "pooling",
            "dtype": str(resolve_dtype(options.dtype, default_device())).removeprefix("torch."),
            "trust_remote_code": options.trust_remote_code,
            "hf_overrides": {"architectures": [states_architecture(folder)]},
            "max_model_len": options.max_length,
            "max_num_batched_tokens": options.batch_tokens,
            **options.engine_options,
        }
        try:
            llm = LLM(str(folder), **arguments)
        except ValueError as error:
            raise CheckpointError(f"vLLM cannot load {name_or_path}: {error}") from error
        return cls(llm, tokenizer, folder=folder, name=str(name_or_path), options=options)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that a feature depends on, the engine included.

        Numbers of two engines agree up to rounding only, so one store never mixes them.
        """
        from vllm import __version__

        config = self.llm.model_config
        return {
            **identify(self, config.revision, config.hf_text_config.model_type),
            "engine": f"vllm {__version__}",
        }

    @property
    def dtype(self) -> str:
        """Number format of the weights, such as ``bfloat16``."""
        return str(self.llm.model_config.dtype).removeprefix("torch.")

    @property
    def hidden_size(self) -> int:
        """Return the length of a hidden state."""
        size: int = self.llm.model_config.get_hidden_size()
        return size

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the model has embeddings for."""
        size: int = self.llm.model_config.get_vocab_size()
        return size

    @property
    def quantized(self) -> bool:
        """Return true if the weights are quantised."""
        return self.llm.model_config.quantization is not None

    def close(self) -> None:
        """Stop vLLM and give its memory back. The backbone cannot be used afterwards."""
        self.llm.llm_engine.engine_core.shutdown()

    def features(
        self,
        prompts: Sequence[EncodedPrompt],
        advance: Callable[[int], None] | None = None,
        read_also: ReadAlso | None = None,
    ) -> BackboneFeatures:
        """Return hidden states of encoded prompts and their responses, in float32 on the CPU.

        Responses to one prompt follow each other, so that vLLM takes the prompt's whole blocks
        from its prefix cache.

        Args:
            prompts: Results of :meth:`ConversationEncoder.encode`.
            advance: Called with the number of tokens after each group of conversations.
            read_also: Not possible with this engine.

        Raises:
            ArmormError: Other tokens are to be read.
        """
        if read_also is not None:
            raise ArmormError(
                "vLLM returns the states at the boundary and at the last token only. Load the "
                "model with engine='transformers' to read other tokens."
            )
        merged = merge_prompts(prompts)
        requests = [(ids, prompt.boundary) for prompt in merged.prompts for ids in prompt.sequences]
        states = torch.empty(len(requests), 2, self.hidden_size)
        for start in range(0, len(requests), SEQUENCES_AT_ONCE):
            group = requests[start : start + SEQUENCES_AT_ONCE]
            states[start : start + len(group)] = self._states(group)
            if advance is not None:
                advance(sum(len(ids) for ids, _ in group))
        # The boundary's state is the same in all conversations of a prompt: take the first one's.
        owners = torch.tensor(merged.owners, dtype=torch.long)
        firsts = torch.searchsorted(owners, torch.tensor(merged.prompt_numbers, dtype=torch.long))
        return BackboneFeatures(states[firsts, 0], states[merged.response_numbers, 1])

    def prefix_features(self, prompt: EncodedPrompt, first: int, closing: int) -> BackboneFeatures:
        """Return the states of one response cut after each of its tokens, closed each time.

        vLLM takes what they have in common from its prefix cache.
        """
        return self.features([closed_prefixes(prompt, first, closing)])

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
    """Return the architecture under which the plugin runs the decoder of a model folder.

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


def refuse_options_of_transformers(options: BackboneOptions) -> None:
    """Raise ArmormError for an option that only the engine ``transformers`` knows."""
    if options.device is not None:
        raise ArmormError("vLLM finds its devices itself: set CUDA_VISIBLE_DEVICES, not device.")
    if options.attn_implementation is not None:
        raise ArmormError(
            "attn_implementation is transformers': with vLLM use engine_options.attention_backend."
        )
    if options.layer is not None:
        raise ArmormError(
            "backbone.layer: vLLM cannot leave out layers that are in the files. Save a smaller "
            "model, Backbone.from_pretrained(model, layer=…).save_pretrained(folder), and name "
            "its folder. Exports of a model that was trained so are smaller already."
        )
    if options.dtype == "stored":
        raise ArmormError("vLLM needs a dtype: auto, float32, bfloat16 or float16.")
