"""Load for a reward server, from a process of its own: raw asyncio, no libraries.

Reads bodies (JSON lines) and sends them to an address, by a number of clients that each wait for
their answer (closed loop) or at random times with a given rate (open loop).  Prints one JSON line.

    python benchmarks/reward_load.py bodies.jsonl --port 8000 --clients 64 --seconds 30
    python benchmarks/reward_load.py bodies.jsonl --port 8000 --rate 12 --seconds 30
    python benchmarks/reward_load.py bodies.jsonl --port 8000 --clients 64      # each body once

Throughput counts answers between the first and the last one, since they come batch by batch.
Latency in an open loop counts from the time at which a request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


class Connection:
    """A kept HTTP/1.1 connection."""

    def __init__(self, port: int, path: str) -> None:
        self.port, self.path = port, path
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length:")[2].split("\r\n", 1)[0])
        content = await reader.readexactly(length)
        if "connection: close" in answer:
            self.close()
        return int(answer.split(" ", 2)[1]), content

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


class Load:
    """Requests that were sent and answered."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.bodies = Path(args.bodies).read_bytes().splitlines()
        self.answers: list[tuple[float, float]] = []  # time, latency
        self.statuses: Counter[str] = Counter()
        self.example: dict[str, str] = {}
        self.vanished = 0
        self.chance = random.Random(args.seed)

    async def send(self, connection: Connection, body: bytes, due: float) -> None:
        try:
            if self.chance.random() < self.args.vanish:
                # A client that goes away while its request is queued or computed.
                self.vanished += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.post(body), self.chance.uniform(0, 0.2))
                connection.close()
                return
            status, content = await connection.post(body)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            connection.close()
            status, content = type(error).__name__, repr(error).encode()
        now = time.perf_counter()
        self.answers.append((now, now - due))
        self.statuses[str(status)] += 1
        self.example.setdefault(str(status), content[:300].decode(errors="replace"))

    async def closed(self) -> None:
        endless = self.args.seconds is not None
        bodies: Iterator[bytes] = itertools.cycle(self.bodies) if endless else iter(self.bodies)
        end = time.perf_counter() + self.args.seconds if endless else float("inf")

        async def client() -> None:
            connection = Connection(self.args.port, self.args.path)
            while time.perf_counter() < end and (body := next(bodies, None)) is not None:
                await self.send(connection, body, time.perf_counter())
            connection.close()

        clients = [asyncio.create_task(client()) for _ in range(self.args.clients)]
        # Answers after the end are not waited for: hundreds may be queued.
        await asyncio.wait(clients, timeout=self.args.seconds)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def open(self) -> None:
        idle: list[Connection] = []
        sent: set[asyncio.Task[None]] = set()
        begun = due = time.perf_counter()

        async def request(body: bytes, due: float) -> None:
            connection = idle.pop() if idle else Connection(self.args.port, self.args.path)
            await self.send(connection, body, due)
            idle.append(connection)

        for body in itertools.cycle(self.bodies):
            due += self.chance.expovariate(self.args.rate)
            if due > begun + self.args.seconds:
                break
            await asyncio.sleep(due - time.perf_counter())
            sent.add(asyncio.create_task(request(body, due)))
        await asyncio.gather(*sent)
        for connection in idle:
            connection.close()

    def report(self) -> dict[str, object]:
        times = sorted(at for at, _ in self.answers)
        latencies = sorted(latency for _, latency in self.answers)
        after_first = sum(at > times[0] for at in times) if times else 0
        span = times[-1] - times[0] if times else 0.0

        def quantile(q: float) -> float | None:
            return latencies[min(len(latencies) - 1, int(q * len(latencies)))] if times else None

        return {
            "answers": len(times),
            "per_second": after_first / span if span else None,
            "p50_s": quantile(0.5),
            "p99_s": quantile(0.99),
            "statuses": dict(self.statuses),
            "examples": {s: text for s, text in self.example.items() if s != "200"},
            "vanished": self.vanished,
            # In the order of the bodies, where one client sends them.
            "latencies_s": [latency for _, latency in self.answers]
            if not self.args.seconds
            else [],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("bodies")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/score")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--vanish", type=float, default=0.0, help="share of clients that go away")
    parser.add_argument("--seed", type=int, default=0)
    load = Load(parser.parse_args())
    asyncio.run(load.open() if load.args.rate else load.closed())
    print(json.dumps(load.report()), flush=True)


if __name__ == "__main__":
    main()
