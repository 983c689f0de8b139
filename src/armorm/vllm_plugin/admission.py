"""Admission of requests: the boundary is found before a request is queued, or it is refused.

vLLM has no hook that sees token ids before a request is queued, and a later error ends the whole
engine.  So the function that all requests pass through is wrapped: an exception raised there is an
error of this request alone (status 400 over HTTP).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.input_processor import InputProcessor

from armorm.errors import InputError
from armorm.vllm_plugin import REWARD_SUFFIX, STATES_SUFFIX
from armorm.vllm_plugin.boundary import admit


def admit_by_boundary() -> None:
    """Have vLLM check each request for a gated reward model."""
    process = InputProcessor.process_inputs
    if not hasattr(process, "checks_boundary"):
        InputProcessor.process_inputs = _checking(process)


def _checking(process: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(process)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = process(self, *args, **kwargs)
        architecture = self.model_config.architecture
        if architecture.endswith((REWARD_SUFFIX, STATES_SUFFIX)):
            try:
                admit(request, self.model_config.hf_config, architecture)
            except InputError as error:  # answered with status 400, others with 500
                raise VLLMValidationError(str(error)) from error
        return request

    process_inputs.checks_boundary = True  # type: ignore[attr-defined]
    return process_inputs
