"""Clients that ask all the time, while a test kills what answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Scores = list[float]


@contextmanager
def asking(ask: Callable[[], Scores], clients: int) -> Iterator[list[Future[list[Scores]]]]:
    """Ask from threads while the block runs, and five times more in each."""
    ended = threading.Event()

    def keep_asking() -> list[Scores]:
        answers, left = [], 5
        while left:
            left -= ended.is_set()
            answers.append(ask())
        return answers

    with ThreadPoolExecutor(clients) as pool:
        askers = [pool.submit(keep_asking) for _ in range(clients)]
        try:
            yield askers
        finally:
            ended.set()
