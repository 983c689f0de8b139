"""Where in a request the gate reads, as it travels with the request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from armorm.conversations import last_occurrence
from armorm.errors import InputError

KEY = "armorm_boundary"


def boundary_of(pooling_params: Any) -> int | None:
    """The boundary of an admitted request; ``None`` for vLLM's own dummy requests."""
    found: int | None = (pooling_params.extra_kwargs or {}).get(KEY)
    return found


def with_boundary(pooling_params: Any, boundary: int) -> Any:
    """The same parameters, with the boundary noted for the scheduler and the pooler."""
    pooling_params.extra_kwargs = {**(pooling_params.extra_kwargs or {}), KEY: boundary}
    return pooling_params


def find_boundary(ids: Sequence[int], pattern: Sequence[int], bos: int | None) -> int:
    """The released rule: the first token of the pattern's last occurrence.

    Raises:
        InputError: two BOS tokens, no boundary, or no response after it.
    """
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise InputError(
            "input",
            list(ids[:8]),
            "two BOS tokens",
            "The chat template writes one: send add_special_tokens: false, or messages, or ids.",
        )
    boundary = last_occurrence(ids, pattern)
    if boundary is None or boundary + len(pattern) >= len(ids):
        raise InputError(
            "input",
            list(ids[-8:]),
            f"no end of a user turn followed by a response (pattern {list(pattern)})",
            "Was it cut, rendered by another model's template, or with add_generation_prompt?",
        )
    return boundary
