"""States of quantised models and of models in pieces: packed, alone, and against the whole model in
float32.

    pip install bitsandbytes torchao
    python benchmarks/quantized.py

A Llama with random weights (hidden 256, 6 layers).  How far quantised states are from the whole
model's says nothing of a real model: random weights have no structure to keep.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, BitsAndBytesConfig, LlamaConfig, TorchAoConfig

from armorm.conversations import EncodedPrompt
from armorm.features.running import ModelRunner

LAYERS = 6


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        initializer_range=0.05,
    )
    AutoModel.from_config(config).save_pretrained(folder)


def in_pieces(folder: Path) -> dict[str, Any]:
    layers = {f"layers.{i}": "cpu" if i < LAYERS // 2 else "disk" for i in range(LAYERS)}
    others = dict.fromkeys(("embed_tokens", "rotary_emb", "norm"), "cpu")
    return {"device_map": {**others, **layers}, "offload_folder": str(folder / "offload")}


def quantized(method: Callable[[], Any]) -> Callable[[Path], dict[str, Any]]:
    return lambda _: {"device_map": "cpu", "quantization_config": method()}


def int8_weights() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "whole, float32": lambda _: {},
    "layers on CPU and disk": in_pieces,
    "torchao int8 weights": quantized(int8_weights),
    "bitsandbytes LLM.int8": quantized(lambda: BitsAndBytesConfig(load_in_8bit=True)),
    "bitsandbytes NF4": quantized(
        lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    ),
}


def prompts() -> Iterator[EncodedPrompt]:
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(1, 1024, (length,), generator=generator).tolist()

    for number in range(6):
        trunk = draw(30 + 20 * number)
        yield EncodedPrompt(tuple(trunk + draw(20 + 15 * i) for i in range(4)), len(trunk) - 1)


def main() -> None:
    """Load each way, run it packed and alone, print a line."""
    work = list(prompts())
    whole: Tensor | None = None
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name))
        for way, options in WAYS.items():
            try:
                model = AutoModel.from_pretrained(name, dtype=torch.float32, **options(Path(name)))
            except (ImportError, ValueError, RuntimeError) as error:
                print(f"{way:24} could not be loaded: {error}")
                continue
            runner = ModelRunner(model.eval(), 1024, share_prompts=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = runner.sharing_obstacle is None
                found = runner.run(work).responses
                alone = torch.cat(
                    [
                        runner.run([EncodedPrompt((ids,), one.boundary)]).responses
                        for one in work
                        for ids in one.sequences
                    ]
                )
            whole = found if whole is None else whole
            scale = float(alone.abs().max())
            print(
                f"{way:24} {'shares prompts' if shares else 'runs in batches':15} "
                f"packed against alone {float((found - alone).abs().max()) / scale:.1e}   "
                f"against the whole {float((found - whole).abs().max() / whole.abs().max()):.1e}"
            )


if __name__ == "__main__":
    main()
