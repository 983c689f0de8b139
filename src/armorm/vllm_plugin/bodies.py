"""Names of vLLM's decoders by family."""

from __future__ import annotations

import re

from vllm import ModelRegistry

# Endings of the names of vLLM's text models, after the family's name.
HEADS = ("ForCausalLM", "LMHeadModel")
ANY_HEAD = re.compile(r"(Model|LMHeadModel|For[A-Z]\w*)$")


def families() -> set[str]:
    """Return the names of the decoder families that vLLM implements, such as ``Llama``."""
    return {
        name.removesuffix(head)
        for name in ModelRegistry.get_supported_archs()
        for head in HEADS
        if name.endswith(head)
    }


def family_of(architecture: str) -> str:
    """Return ``Llama`` for ``LlamaModel``, ``LlamaForCausalLM`` and the like."""
    return ANY_HEAD.sub("", architecture)


def body_of(family: str) -> str:
    """Return the name under which vLLM runs a family's decoder."""
    known = ModelRegistry.get_supported_archs()
    return next(name for head in HEADS if (name := f"{family}{head}") in known)
