"""Scheduler whose prefix cache ends before the boundary, so that the gate's state is computed.

Cached tokens are not computed again and have no hidden state.  vLLM itself never takes the last
token from the cache, since its state is needed; here the same holds for the boundary.  Responses to
one prompt still share the prompt's whole blocks.  A request that resumes after preemption reads the
cache again, under the same rule.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from armorm.errors import ArmormError
from armorm.vllm_plugin.boundary import boundary_of


def make_scheduler(vllm_config: Any, **arguments: Any) -> Any:
    """Return vLLM's scheduler with a prefix cache that ends at the boundary.

    Raises:
        ArmormError: Keys and values would also come from elsewhere (a KV connector).
    """
    own = copy.copy(vllm_config.scheduler_config)
    own.scheduler_cls = None
    scheduler = own.get_scheduler_cls()(vllm_config=vllm_config, **arguments)
    if scheduler.connector is not None:
        raise ArmormError(
            "A gated reward model cannot take keys and values from a KV connector: the state at "
            "the prompt boundary would be missing. Start vLLM without kv_transfer_config and KV "
            "offloading."
        )
    manager = scheduler.kv_cache_manager
    manager.get_computed_blocks = functools.partial(
        computed_blocks_before_boundary, manager.get_computed_blocks
    )
    return scheduler


def computed_blocks_before_boundary(lookup: Callable[[Any], Any], request: Any) -> Any:
    """Return the cached blocks of a request, as if it ended with the token at its boundary."""
    boundary = boundary_of(request.pooling_params)
    return lookup(_Shortened(request, 1 if boundary is None else boundary + 1))


class _Shortened:
    """Request that appears to end after ``num_tokens`` tokens, of which vLLM computes the last."""

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)
