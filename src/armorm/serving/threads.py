"""Threads of a server that computes on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def run_apart(call: Callable[[], Result]) -> Result:
    """Call a function that computes with torch in a thread that ends with it.

    OpenMP keeps helper threads for every thread that has computed.  Once there are more of them
    than cores, they go to sleep between two operations, and waking them costs a lone request half
    as much again as its computation.  So only the model's thread may have helpers that stay.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="armorm-apart") as thread:
        return thread.submit(call).result()
