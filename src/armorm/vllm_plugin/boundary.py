"""The boundary of a request, as it travels with the request."""

from __future__ import annotations

from typing import Any

from armorm.conversations.boundary import BoundaryRule, check_bos
from armorm.errors import InputError
from armorm.vllm_plugin import STATES_SUFFIX

KEY = "armorm_boundary"


def boundary_of(pooling_params: Any) -> int | None:
    """Return the boundary of an admitted request; ``None`` for vLLM's own dummy requests."""
    found: int | None = (pooling_params.extra_kwargs or {}).get(KEY)
    return found


def with_boundary(pooling_params: Any, boundary: int) -> Any:
    """Store the boundary in the parameters, for the scheduler and the pooler, and return them."""
    pooling_params.extra_kwargs = {**(pooling_params.extra_kwargs or {}), KEY: boundary}
    return pooling_params


def admit(request: Any, config: Any, architecture: str) -> None:
    """Store the boundary in the request's own parameters.

    Args:
        request: vLLM's ``EngineCoreRequest``.
        config: The model's configuration, with ``boundary_pattern``.
        architecture: Name of the model class. A reward model's boundary is searched in the ids
            if the request does not give it; a request for hidden states must give it.

    Raises:
        InputError: No boundary can be found, or the given one is not inside the conversation.
    """
    ids = request.prompt_token_ids
    if ids is None:
        raise InputError("input", None, "embeddings instead of tokens", "Send text or token ids.")
    boundary = boundary_of(request.pooling_params)
    if boundary is None and architecture.endswith(STATES_SUFFIX):
        raise InputError("extra_kwargs", None, f"has no {KEY}", "Say where the prompt ends.")
    if boundary is None:
        rule = BoundaryRule.of(config)
        request.prompt_token_ids = ids = rule.without_trailing(ids)
        check_bos(ids, config.bos_token_id)
        boundary = rule.find(ids)
    elif not 0 <= boundary < len(ids):
        raise InputError(
            f"extra_kwargs.{KEY}", boundary, f"outside {len(ids)} tokens", "Correct it."
        )
    with_boundary(request.pooling_params, boundary)
