"""Throughput and latency of `armorm serve`, beside the same model scored offline.

    python benchmarks/serving.py --parts saturation      # share of the offline rows a second
    python benchmarks/serving.py --parts closed open     # 1, 8, 64, 512 clients; 50, 70, 90 % load
    python benchmarks/serving.py --parts single          # time added to one client's request
    python benchmarks/serving.py --parts samples         # 16 samples a prompt, one request each
    python benchmarks/serving.py --parts invariant plain # equal bits; FastAPI, a forward a request
    python benchmarks/serving.py --soak 10               # minutes; memory before and after, errors

The default model is random, of SmolLM2-135M's shape; --shape builtin is that of the embedded
backbone (hidden 192), and --model FOLDER any other.  Each row is a request of its own with a prompt
and a response of random words; no prompt occurs twice but in the part samples.

The load comes from another process (reward_load.py), and shares the machine's cores with the
server.  Offline is RewardModel.score over the same rows, tokenisation included, in the same run and
with the same number of threads.  Latencies of a closed loop leave out requests that were still
queued at its end, most of them with 512 clients.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from armorm import Backbone, Objective, ObjectiveSet, RewardModel
from armorm.heads import GatingNetwork
from armorm.model import Heads

HERE = Path(__file__).parent
WORDS = (  # noqa: SIM905 (a list of so many words reads worse)
    "the a of to and in is it you that he was for on are with as his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him into"
).split()
SHAPES = {
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "builtin": {},
}
PARTS = ["saturation", "closed", "open", "single", "samples", "invariant", "plain"]
Row = tuple[str, str]


def make_model(folder: Path, shape: str) -> Path:
    """Write a random gated model with the embedded backbone's tokenizer."""
    from transformers import LlamaConfig, LlamaModel

    builtin = Backbone.from_pretrained("builtin", device="cpu")
    torch.manual_seed(0)
    body = folder / "body"
    if SHAPES[shape]:
        config = LlamaConfig(
            vocab_size=builtin.vocabulary_size, max_position_embeddings=4096, **SHAPES[shape]
        )
        LlamaModel(config).save_pretrained(body)
        builtin.tokenizer.save_pretrained(body)
    else:
        builtin.save_pretrained(body)
    backbone = Backbone.from_pretrained(body, device="cpu")
    k = 19
    objectives = ObjectiveSet(
        [Objective(name=f"objective-{i}", dataset="made-up") for i in range(k)]
    )
    gate = GatingNetwork(backbone.hidden_size, k, 1024, 3, temperature=10.0)
    heads = Heads(
        objectives,
        0.1 * torch.randn(k, backbone.hidden_size),
        torch.eye(k),
        gate.eval().requires_grad_(False),
    )
    RewardModel(backbone, heads).save_pretrained(folder / "model")
    return folder / "model"


def make_rows(
    count: int, prompt_words: int, response_words: int, samples: int = 1, seed: int = 0
) -> list[Row]:
    """Return rows in random order; lengths vary by half around their means."""
    chance = random.Random(seed)

    def text(mean: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(mean // 2, mean + mean // 2)))

    rows = []
    for number in range(count // samples):
        prompt = f"{seed} {number} {text(prompt_words)}"
        rows += [(prompt, text(response_words)) for _ in range(samples)]
    chance.shuffle(rows)
    return rows


def conversations(rows: Sequence[Row]) -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in rows
    ]


def write_bodies(file: Path, rows: Sequence[Row]) -> Path:
    bodies = [
        {"prompt": prompt, "responses": [response], "deadline_ms": 600_000}
        for prompt, response in rows
    ]
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return file


@contextmanager
def server(*command: str) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and its process id."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"at http://[^:]+:(\d+)", line):
                yield int(found[1]), process.pid
                break
        else:
            raise SystemExit(f"The server did not start: {' '.join(command)}")
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(300) != 0:
            print(f"the server ended with {process.returncode}", file=sys.stderr)


def armorm(model: Path, *flags: str) -> Any:
    return server("-m", "armorm", "serve", str(model), "--port", "0", "--no-access-log", *flags)


def load(bodies: Path, port: int, *flags: str) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "reward_load.py"), str(bodies), "--port", str(port)]
    done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    if set(result["statuses"]) - {"200"}:
        print("  answers other than 200:", result["statuses"], result["examples"])
    return result


def score_offline(model: RewardModel, rows: Sequence[Row]) -> float:
    """Return rows a second."""
    begun = time.perf_counter()
    model.score(conversations(rows))
    return len(rows) / (time.perf_counter() - begun)


def print_load(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name}: {result['answers']} answers, {result['per_second']:.2f} rows/s, "
        f"p50 {result['p50_s']:.3f} s, p99 {result['p99_s']:.3f} s",
        flush=True,
    )


class Benchmark:
    """One model, its rows, and the parts."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.path = args.model or make_model(folder, args.shape)
        self.model = RewardModel.from_pretrained(self.path, device="cpu", overlong="error")
        self.rows = make_rows(args.rows, args.prompt, args.response)
        self.loads = 0
        tokens = [
            self.model.backbone.encoder.encode(
                ({"role": "user", "content": prompt},), [response]
            ).tokens
            for prompt, response in self.rows[:200]
        ]
        print(
            f"{args.model or args.shape}: {sum(tokens) / len(tokens):.0f} tokens a row, "
            f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
        )
        self.model.score(conversations(self.rows[-60:]))  # warm

    def new_bodies(self) -> Path:
        """Return rows that were not sent before: the server may have kept the prompts of those."""
        self.loads += 1
        args = self.args
        rows = make_rows(args.rows, args.prompt, args.response, seed=self.loads)
        return write_bodies(self.folder / "rows.jsonl", rows)

    def offline(self) -> float:
        time.sleep(3)  # the server finishes its batch
        return score_offline(self.model, self.rows[: self.args.offline_rows])

    def saturation(self) -> None:
        """Alternate between offline and 64 clients, since the machine's speed drifts."""
        ratios = []
        flags = ("--clients", "64", "--seconds", str(self.args.seconds))
        with armorm(self.path) as (port, _):
            rates = [self.offline()]
            for _ in range(self.args.turns):
                served = load(self.new_bodies(), port, *flags)["per_second"]
                rates.append(self.offline())
                ratios.append(served / (sum(rates[-2:]) / 2))
        shown = ", ".join(f"{ratio:.0%}" for ratio in ratios)
        print(f"64 clients / offline: {shown}, median {median(ratios):.0%}")
        print("offline:", ", ".join(f"{rate:.2f}" for rate in rates), "rows/s")

    def closed(self) -> None:
        """Closed loop, and the open loop at shares of what it reached."""
        results = {}
        seconds = ("--seconds", str(self.args.seconds))
        with armorm(self.path) as (port, _):
            for clients in self.args.clients:
                results[clients] = load(
                    self.new_bodies(), port, "--clients", str(clients), *seconds
                )
                print_load(f"{clients} clients", results[clients])
            if "open" in self.args.parts:
                capacity = max(result["per_second"] for result in results.values())
                for share in (0.5, 0.7, 0.9):
                    rate = ("--rate", str(share * capacity))
                    print_load(f"{share:.0%} load", load(self.new_bodies(), port, *rate, *seconds))

    def single(self) -> None:
        """Alternate between the model and one client, each with the same rows one by one."""
        rows = self.rows[: self.args.singles]
        bodies = write_bodies(self.folder / "singles.jsonl", rows)
        alone, added = [], []
        with armorm(self.path, "--cache-mib", "0") as (port, _):
            load(bodies, port)  # warm
            for _ in range(3):
                for row in rows:
                    begun = time.perf_counter()
                    self.model.score(conversations([row]))
                    alone.append(time.perf_counter() - begun)
                served = load(bodies, port)["latencies_s"]
                added += [b - a for a, b in zip(alone[-len(rows) :], served, strict=True)]
        ordered = sorted(added)
        print(
            f"one client, {len(added)} rows: {1000 * median(alone):.1f} ms by the model alone, "
            f"{1000 * median(added):+.1f} ms by the server (quartiles "
            f"{1000 * ordered[len(added) // 4]:+.1f}, {1000 * ordered[3 * len(added) // 4]:+.1f})"
        )

    def samples(self) -> None:
        """16 samples of each prompt, each a request of its own, in random order."""
        rows = make_rows(self.args.samples, self.args.long_prompt, self.args.response, 16)
        bodies = write_bodies(self.folder / "samples.jsonl", rows)
        reached = {}
        for name, flags in {
            "off": ("--no-regroup", "--cache-mib", "0"),
            "regrouped": ("--cache-mib", "0"),
            "regrouped and cached": (),
        }.items():
            with armorm(self.path, *flags) as (port, _):
                reached[name] = load(bodies, port, "--clients", "64")
            print_load(f"16 samples a prompt, {name}", reached[name])
            ratio = reached[name]["per_second"] / reached["off"]["per_second"]
            print(f"  {ratio:.2f} times off")

    def invariant(self) -> None:
        """The same closed loop with and without equal bits."""
        flags = ("--clients", "64", "--seconds", str(self.args.seconds))
        for name, option in {"as usual": [], "batch-invariant": ["--batch-invariant"]}.items():
            with armorm(self.path, *option) as (port, _):
                print_load(name, load(self.new_bodies(), port, *flags))

    def plain(self) -> None:
        """FastAPI and one forward pass a request."""
        seconds = ("--seconds", str(self.args.seconds))
        with server(__file__, "--plain-server", str(self.path)) as (port, _):
            for clients in (1, 64):
                result = load(self.new_bodies(), port, "--clients", str(clients), *seconds)
                print_load(f"plain, {clients} clients", result)

    def soak(self, minutes: float) -> None:
        """Mixed load, bad requests and clients that vanish among it."""
        bodies = self.folder / "soak.jsonl"
        lines = write_bodies(bodies, self.rows[:500]).read_text().splitlines()
        steered = {"steering": {"factors": {self.model.objectives.names[0]: 0.5}}}
        for i in range(0, len(lines), 7):
            lines[i] = json.dumps({**json.loads(lines[i]), **steered})
        for i in range(3, len(lines), 20):
            lines[i] = ('{"prompt": ', '{"prompt": "x", "responses": []}', '{"prompt": NaN}')[i % 3]
        bodies.write_text("".join(line + "\n" for line in lines))
        with armorm(self.path) as (port, process):
            flags = ("--clients", "16", "--vanish", "0.05")
            load(bodies, port, *flags, "--seconds", "30")  # caches and pools fill
            before = memory_mb(process)
            print(f"after 30 s: {before:.0f} MB")
            for minute in range(int(minutes)):
                result = load(bodies, port, *flags, "--seconds", "60", "--seed", str(minute))
                now = memory_mb(process)
                print(
                    f"minute {minute + 1}: {now:.0f} MB, {result['answers']} answers "
                    f"{result['statuses']}, {result['vanished']} vanished",
                    flush=True,
                )
            print(f"memory {before:.0f} -> {memory_mb(process):.0f} MB")


def memory_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def serve_plainly(folder: str) -> None:
    """Serve a model as a script of twenty lines does: one forward pass a request."""
    import socket

    import uvicorn
    from fastapi import FastAPI
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    app = FastAPI()

    @app.post("/v1/score")
    async def score(body: dict[str, Any]) -> dict[str, float]:
        [conversation] = conversations([(body["prompt"], body["responses"][0])])
        ids = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            return {"score": float(model(ids["input_ids"]).score)}

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"Serving at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=PARTS,
        default=PARTS,
    )
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--offline-rows", type=int, default=200)
    parser.add_argument("--singles", type=int, default=30)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=30, help="words of a prompt, on average")
    parser.add_argument("--response", type=int, default=30, help="words of a response, on average")
    parser.add_argument("--long-prompt", type=int, default=120, help="words, in the part samples")
    parser.add_argument("--plain-server", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain_server:
        serve_plainly(args.plain_server)
        return
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args, Path(folder))
        if args.soak:
            benchmark.soak(args.soak)
            return
        for part in dict.fromkeys("closed" if part == "open" else part for part in args.parts):
            getattr(benchmark, part)()


if __name__ == "__main__":
    main()
