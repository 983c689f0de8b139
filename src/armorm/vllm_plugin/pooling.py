"""Pooling of the hidden states of a batch of chunks into the answers of finished requests."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from vllm.model_executor.layers.pooler import Pooler

from armorm.vllm_plugin.boundary import boundary_of

logger = logging.getLogger(__name__)

Answer = Callable[[Float[Tensor, "n hidden"], Float[Tensor, "n hidden"]], Tensor]
"""Function from the states at the boundaries and last tokens to one row per conversation."""


class BoundaryPooler(Pooler):  # type: ignore[misc]
    """Pooler that reads each conversation at its boundary and at its last token.

    A conversation may come in several chunks; the boundary's state waits in the request's own
    ``pooling_states`` for the last of them.

    Args:
        task: The only supported pooling task.
        answer: Function from the two states to the answers, row by row.
    """

    def __init__(self, task: str, answer: Answer) -> None:
        super().__init__()
        self.task = task
        self.answer = answer

    def get_supported_tasks(self) -> set[Any]:
        """Return the only task."""
        return {self.task}

    def forward(self, hidden_states: Tensor, pooling_metadata: Any) -> list[Tensor | None]:
        """Return one answer per request, ``None`` for those whose last chunk is still to come.

        Args:
            hidden_states: States of all scheduled tokens, request by request. Shape
                (tokens, hidden).
            pooling_metadata: vLLM's record of the tokens of each request.
        """
        cursor = pooling_metadata.get_pooling_cursor()
        counts = cursor.num_scheduled_tokens_cpu.tolist()
        after = itertools.accumulate(counts)
        requests = zip(
            pooling_metadata.pooling_params,
            pooling_metadata.pooling_states,
            counts,
            after,
            cursor.seq_lens_cpu.tolist(),
            strict=True,
        )
        for params, kept, count, following, length in requests:
            boundary = boundary_of(params)
            # Of the batch's rows, the one that holds this request's boundary.
            row = -1 if boundary is None else following - length + boundary
            if following - count <= row < following:
                # A copy, since vLLM reuses the memory of the states for the next batch.
                kept.hidden_states_cache[:] = [hidden_states[row].clone()]
        return self._answers(hidden_states, pooling_metadata)

    def _answers(self, hidden_states: Tensor, pooling_metadata: Any) -> list[Tensor | None]:
        cursor = pooling_metadata.get_pooling_cursor()
        finished = [i for i, done in enumerate(cursor.get_finished_mask()) if done]
        answers: list[Tensor | None] = [None] * len(pooling_metadata.pooling_states)
        if not finished:
            return answers
        boundaries = torch.stack(
            [self._boundary_state(pooling_metadata, i, hidden_states) for i in finished]
        )
        last = hidden_states[cursor.last_token_indices_gpu[finished]]
        for i, row in zip(finished, self.answer(boundaries, last), strict=True):
            answers[i] = row
            pooling_metadata.pooling_states[i].clean()
        return answers

    @staticmethod
    def _boundary_state(pooling_metadata: Any, i: int, hidden_states: Tensor) -> Tensor:
        kept = pooling_metadata.pooling_states[i].hidden_states_cache
        if kept:
            state: Tensor = kept[0]
            return state
        if boundary_of(pooling_metadata.pooling_params[i]) is not None:
            # Cannot happen with this plugin's scheduler. NaN cannot be mistaken for a score, and
            # an error here would end the engine, and with it all other requests.
            logger.error("No hidden state at the prompt boundary of a request; the answer is NaN.")
        return torch.full_like(hidden_states[0], torch.nan)
