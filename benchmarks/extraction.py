"""Hidden states of a decoder in three ways, in one run: one sequence at a time as the published
scripts do, padded length-sorted batches, and shared-prompt packs.

    python benchmarks/extraction.py                          # random, hidden 512, 8 layers
    python benchmarks/extraction.py --hidden 1024 --layers 4 # the share of the GEMM rate
    python benchmarks/extraction.py --model SmolLM2-135M-Instruct --work rated pairs best-of-16
    python benchmarks/extraction.py --device cuda --hidden 4096 --layers 32 --dtype bfloat16

Lengths are log-normal with a mean of about 300 tokens.  Four kinds of work: rated (a prompt with
one response), pairs (two responses), best-of-16 (16 responses) and long (16 responses to a prompt
of several turns, four times as long as their mean).  With --model, --text FILE takes prompts and
responses from JSON lines that have ``messages``, whose last turn is the response.

Ratios are against one sequence at a time, in the first dtype (the published float32) and in the
same one.  Achieved FLOP/s count the linear layers and the attention of the tokens that are really
computed; the GEMM rate is that of a large matrix product, measured before and after.  With
BENCHMARK_CLOCK=cpu and OMP_NUM_THREADS=1, seconds are those of the processor, which other programs
on the machine change little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, LlamaConfig, LlamaModel, PreTrainedModel

from armorm.conversations import EncodedPrompt
from armorm.features.backbone import Backbone
from armorm.features.merging import merge_prompts
from armorm.features.packing import grow_trees
from armorm.features.running import ModelRunner

VOCABULARY = 1024
GENERATION_HEADER = [1, 2, 3, 4]  # the assistant header, alike in all responses
CLOCK = time.process_time if os.environ.get("BENCHMARK_CLOCK") == "cpu" else time.perf_counter
RESPONSES = {"rated": 1, "pairs": 2, "best-of-16": 16, "long": 16}


@dataclass(frozen=True)
class Work:
    """Prompts with their responses, as ids."""

    name: str
    prompts: list[EncodedPrompt]

    @property
    def sequences(self) -> list[list[int]]:
        return [ids for prompt in self.prompts for ids in prompt.sequences]


def make_work(name: str, prompts: int, seed: int) -> Work:
    generator = np.random.default_rng(seed)
    responses = RESPONSES[name]

    def length(mean: float) -> int:
        return int(np.clip(generator.lognormal(np.log(mean) - 0.18, 0.6), 8, 2048))

    def ids(tokens: int) -> list[int]:
        return [int(token) for token in generator.integers(5, VOCABULARY, tokens)]

    encoded = []
    for _ in range(prompts):
        lengths = [length(130) for _ in range(responses)]
        prompt = ids(4 * sum(lengths) // responses if name == "long" else length(170))
        sequences = tuple(prompt + GENERATION_HEADER + ids(tokens) for tokens in lengths)
        encoded.append(EncodedPrompt(sequences, len(prompt) - 1))
    return Work(name, encoded)


def read_work(name: str, prompts: int, args: argparse.Namespace) -> Work:
    """Prompts of a file, each with its own response and those of the rows after it."""
    encoder = Backbone.from_pretrained(args.model, device="cpu", dtype="bfloat16").encoder
    opened = gzip.open if args.text.endswith(".gz") else open
    with opened(args.text, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line)["messages"] for line in lines]
    order = np.random.default_rng(1).permutation(len(rows))
    encoded: list[EncodedPrompt] = []
    while len(encoded) < prompts:
        start = len(encoded) * RESPONSES[name]
        several = [rows[i] for i in order[start : start + RESPONSES[name]]]
        texts = [messages[-1]["content"] for messages in several]
        encoded.append(encoder.encode(several[0][:-1], texts))
    return Work(name, encoded)


def make_model(args: argparse.Namespace, dtype: torch.dtype) -> PreTrainedModel:
    if args.model:
        read = AutoModel.from_pretrained(args.model, dtype=dtype).to(args.device)
        return read.eval().requires_grad_(False)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=args.intermediate or int(3.5 * args.hidden),
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // args.head,
        num_key_value_heads=max(1, args.hidden // args.head // args.group),
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
    )
    with torch.device(args.device):
        torch.set_default_dtype(dtype)
        model = LlamaModel(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    return model


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, work: Work) -> Tensor:
    """The published way: each conversation alone, its prompt again each time."""
    states = []
    for ids in work.sequences:
        batch = torch.tensor([ids], device=model.device)
        states.append(model(input_ids=batch, use_cache=False).last_hidden_state[0, -1].float())
    return torch.stack(states).cpu()


def padded(model: PreTrainedModel, work: Work, tokens: int) -> Tensor:
    return ModelRunner(model, tokens, share_prompts=False).run(work.prompts).responses


def shared(runner: ModelRunner, work: Work) -> Tensor:
    return runner.run(work.prompts).responses


def flop(config: LlamaConfig, work: Work) -> tuple[float, float]:
    """Of one sequence at a time, and of the packed trees: linear layers and causal attention."""
    heads = config.num_attention_heads * config.head_dim
    key_heads = config.num_key_value_heads * config.head_dim
    per_token = 2 * config.hidden_size * (2 * heads + 2 * key_heads + 3 * config.intermediate_size)
    alone = sum(len(ids) * per_token + 2 * heads * len(ids) ** 2 for ids in work.sequences)
    packed = 0.0
    for tree in grow_trees(merge_prompts(work.prompts).prompts):
        trunk = len(tree.trunk)
        packed += tree.tokens * per_token + 2 * heads * trunk**2
        packed += sum(4 * heads * len(b) * trunk + 2 * heads * len(b) ** 2 for b in tree.branches)
    return config.num_hidden_layers * alone, config.num_hidden_layers * packed


def gemm_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a large square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median(seconds_of(lambda: a @ b, device) for _ in range(7))


def seconds_of(call: Callable[[], object], device: str) -> float:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    wait()
    started = CLOCK()
    call()
    wait()
    return CLOCK() - started


def measure(args: argparse.Namespace) -> dict[str, Any]:
    models = {name: make_model(args, getattr(torch, name)) for name in dict.fromkeys(args.dtype)}
    config = next(iter(models.values())).config
    size = 8192 if args.device == "cuda" else 3072

    def rates() -> dict[str, float]:
        return {name: gemm_rate(args.device, getattr(torch, name), size) for name in models}

    before = rates()
    results = []
    for kind in args.work:
        count = args.prompts[kind]
        work = read_work(kind, count, args) if args.text else make_work(kind, count, seed=1)
        results += run_ways(work, ways_of(work, models, args), models, before, args)
    after = rates()
    return {
        "threads": torch.get_num_threads(),
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
        "tokens": args.tokens,
        "gemm_gflops": {name: rate / 1e9 for name, rate in before.items()},
        "gemm_gflops_after": {name: rate / 1e9 for name, rate in after.items()},
        "results": results,
    }


def ways_of(
    work: Work, models: dict[str, PreTrainedModel], args: argparse.Namespace
) -> dict[str, Callable[[], Tensor]]:
    ways: dict[str, Callable[[], Tensor]] = {}
    for name, model in models.items():
        runner = ModelRunner(model, args.tokens, share_prompts=True)
        if runner.sharing_obstacle is not None:
            raise SystemExit(runner.sharing_obstacle)
        ways[f"{name} one at a time"] = partial(one_at_a_time, model, work)
        ways[f"{name} padded"] = partial(padded, model, work, args.tokens)
        ways[f"{name} shared"] = partial(shared, runner, work)
        if args.compile:
            other = make_model(args, getattr(torch, name))
            other.compile(dynamic=True)
            runner = ModelRunner(other, args.tokens, share_prompts=True)
            ways[f"{name} shared, compiled"] = partial(shared, runner, work)
    return ways


def run_ways(
    work: Work,
    ways: dict[str, Callable[[], Tensor]],
    models: dict[str, PreTrainedModel],
    rates: dict[str, float],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    states: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():  # warm up, and the results
        states[name] = way()
    for _ in range(args.turns):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, args.device))
    tokens = sum(map(len, work.sequences))
    first = f"{next(iter(models))} one at a time"
    rows = []
    for name in ways:
        dtype, _, way_name = name.partition(" ")
        alone, packed = flop(models[dtype].config, work)
        took = median(seconds[name])
        rate = (packed if way_name.startswith("shared") else alone) / took
        own = f"{dtype} one at a time"
        reference = states[own]
        rows.append(
            {
                "work": work.name,
                "way": name,
                "seconds": took,
                "times_published": median(np.divide(seconds[first], seconds[name])),
                "times_same_dtype": median(np.divide(seconds[own], seconds[name])),
                "tokens_per_second": tokens / took,
                "gflops": rate / 1e9,
                "share_of_gemm": rate / rates[dtype],
                "difference": float((states[name] - reference).abs().max() / reference.abs().max()),
            }
        )
        print(describe(rows[-1]), flush=True)
    return rows


def describe(row: dict[str, Any]) -> str:
    return (
        f"{row['work']:11s} {row['way']:24s} {row['seconds']:7.2f} s"
        f"  {row['times_published']:5.2f}x published  {row['times_same_dtype']:5.2f}x same dtype"
        f"  {row['tokens_per_second']:8.0f} tokens/s"
        f"  {row['gflops']:7.0f} GFLOP/s = {100 * row['share_of_gemm']:3.0f} % of GEMM"
        f"  difference {row['difference']:.1e}"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a pretrained model instead of a random one")
    parser.add_argument("--text", help="JSON lines with messages, for --model; gzip is read too")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--intermediate", type=int)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--head", type=int, default=64, help="width of an attention head")
    parser.add_argument("--group", type=int, default=1, help="query heads per key head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens at once")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--work", nargs="+", default=["pairs", "best-of-16", "long"], choices=list(RESPONSES)
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of prompts")
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args(arguments)
    counts = {"rated": 80, "pairs": 40, "best-of-16": 6, "long": 3}
    args.prompts = {kind: max(1, round(n * args.scale)) for kind, n in counts.items()}
    return args


def main() -> None:
    args = parse()
    results = measure(args)
    for when in ("gemm_gflops", "gemm_gflops_after"):
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in results[when].items())
        print(f"large matrix product ({when}): {rates}; {results['threads']} threads")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
