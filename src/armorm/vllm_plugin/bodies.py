"""Which of vLLM's own models is the body of a family of decoders."""

from __future__ import annotations

import re

from vllm import ModelRegistry

# How vLLM's text models end, once the family's name is taken off.
HEADS = ("ForCausalLM", "LMHeadModel")
ANY_HEAD = re.compile(r"(Model|LMHeadModel|For[A-Z]\w*)$")


def families() -> set[str]:
    """Names of the decoder families that vLLM implements: ``Llama``, ``Qwen2``, ``GPT2`` …"""
    return {
        name.removesuffix(head)
        for name in ModelRegistry.get_supported_archs()
        for head in HEADS
        if name.endswith(head)
    }


def family_of(architecture: str) -> str:
    """``Llama`` of ``LlamaModel``, ``LlamaForCausalLM``, ``LlamaForRewardModelWithGating`` …"""
    return ANY_HEAD.sub("", architecture)


def body_of(family: str) -> str:
    """The name under which vLLM runs a family's decoder."""
    known = ModelRegistry.get_supported_archs()
    return next(name for head in HEADS if (name := f"{family}{head}") in known)
