"""Scores from a model that `vllm serve` runs with the plugin of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from armorm.conversations import Conversation, located_in, unpad, validate_conversation
from armorm.conversations.messages import with_response
from armorm.errors import ArmormError, InputError
from armorm.http_json import request_json


@dataclass(frozen=True, slots=True)
class ServedScore:
    """Answer of the server to one conversation.

    Attributes:
        score: The scalar reward.
        rewards: Predicted unit reward of each of the k objectives.
        gating: The gate's k coefficients.
    """

    score: float
    rewards: tuple[float, ...]
    gating: tuple[float, ...]

    @classmethod
    def of_vector(cls, numbers: Sequence[float]) -> ServedScore:
        """Read the numbers of the task ``classify``: k rewards, k coefficients, the score.

        Raises:
            ArmormError: These are not the numbers of a gated reward model.
        """
        k, odd = divmod(len(numbers), 2)
        if not odd or not all(map(math.isfinite, numbers)):
            raise ArmormError(
                f"The server answered {len(numbers)} numbers, which are not rewards, coefficients "
                "and a score. Does it serve a gated reward model, with armorm installed?"
            )
        return cls(float(numbers[-1]), tuple(numbers[:k]), tuple(numbers[k:-1]))


class VllmClient:
    """Client of a vLLM server.

    Args:
        address: URL of the server, such as ``http://localhost:8000``.
        timeout: Seconds for one request.
        concurrency: Number of simultaneous requests, which vLLM batches.
    """

    def __init__(self, address: str, *, timeout: float = 120.0, concurrency: int = 32) -> None:
        self.address = address.rstrip("/")
        self.timeout = timeout
        self.concurrency = concurrency
        self.model = str(self._call("/v1/models")["data"][0]["id"])

    def score(self, conversations: Sequence[Conversation]) -> list[ServedScore]:
        """Score conversations, each a list of messages that ends with the assistant's.

        Raises:
            InputError: A conversation is malformed; ``row`` is its one-based position.
            ArmormError: The server refuses one, cannot be reached, or answers something else.
        """
        checked = []
        for number, conversation in enumerate(conversations, start=1):
            try:
                checked.append(
                    with_response(*located_in("messages", validate_conversation, conversation))
                )
            except InputError as error:
                raise error.at(None, number) from None
        return self._classify([{"messages": messages} for messages in checked])

    def score_ids(self, input_ids: Sequence[Any]) -> list[ServedScore]:
        """Score conversations that are token ids already, rendered by the model's own template.

        Raises:
            InputError: A value is no token id; ``row`` is the one-based position of its row.
            ArmormError: The server refuses a row, cannot be reached, or answers something else.
        """
        return self._classify([{"input": ids} for ids in unpad(input_ids)])

    def _classify(self, bodies: Sequence[dict[str, Any]]) -> list[ServedScore]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(lambda body: self._call("/classify", body), bodies))
        return [ServedScore.of_vector(answer["data"][0]["probs"]) for answer in answers]

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        sent = None if body is None else {"model": self.model, **body}
        answer: dict[str, Any] = request_json(self.address + path, sent, timeout=self.timeout)
        return answer
