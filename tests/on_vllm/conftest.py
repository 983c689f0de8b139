"""Models that vLLM's processor kernels can run: heads of 32 numbers, unlike the other tests'."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from armorm import Backbone, RewardModel
from tests.tiny import TEMPLATES, save_tiny_released, tiny_tokenizer
from tests.tiny_models import make_heads

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
# The engine in this process starts in seconds. The server and the commands run in processes of
# their own, as users start them.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": ("llama3", LlamaConfig, LlamaModel),
    "qwen3": ("chatml", Qwen3Config, Qwen3Model),
    "gemma2": ("gemma", Gemma2Config, Gemma2Model),
}

PROMPTS = [
    "what is the capital of France ?",
    "one two three four five six seven " * 12,
    "hello " * 40 + "model ?",
]
RESPONSES = ["Paris", "Lyon , very long answer one two three four five", "ok " * 30, "a b c d e"]


def conversations() -> list:
    """Responses to shared prompts; the last ones continue a conversation that is there alone too.

    Whoever computes the longer one first has the shorter one's boundary in its cached prefix.
    """
    single = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt in PROMPTS
        for response in RESPONSES
    ]
    more = [{"role": "user", "content": "thanks"}, {"role": "assistant", "content": "yes please"}]
    return [[*single[4], *more], *single, [*single[6], *more]]


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the released checkpoint's layout."""
    folder = tmp_path_factory.mktemp("released")
    save_tiny_released(folder, hidden=128)
    return folder


def export(family: str, folder: Path) -> Path:
    """A model folder as this package writes it, on a decoder of the family."""
    template, config, model = FAMILIES[family]
    spec = TEMPLATES[template]
    torch.manual_seed(1)
    options = {} if family != "gemma2" else {"query_pre_attn_scalar": 32, "sliding_window": 64}
    model(config(vocab_size=spec.size, **SIZES, **options)).save_pretrained(folder / "body")
    tiny_tokenizer(spec).save_pretrained(folder / "body")
    backbone = Backbone.from_pretrained(folder / "body", dtype="float32", device="cpu")
    RewardModel(backbone, make_heads(128)).save_pretrained(folder / "model")
    return folder / "model"
