"""Reward models behind HTTP: vLLM's routes, and OpenRLHF's reward server."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from armorm.conversations import Conversation, ConversationEncoder
from armorm.conversations.messages import with_response
from armorm.errors import ArmormError, CheckpointError, InputError, RecipeError
from armorm.evaluation.scorers.base import Answered, Scored, Scorer
from armorm.evaluation.scorers.options import ScorerOptions
from armorm.features import resolve_model_folder
from armorm.files import sha256_of_json
from armorm.http_json import HttpError, request_json

ROUTES = ("/classify", "/pooling", "/score", "/get_reward")


class EndpointScorer(Scorer):
    """A reward model that a server runs.

    ========================  ================================================================
    Route                     Request and answer
    ========================  ================================================================
    ``/classify``             vLLM: messages; the last of ``data[0].probs`` is the score, without
                              an activation. The 2k + 1 numbers of this package's plugin are also
                              read as rewards and coefficients.
    ``/pooling``              vLLM: messages; the last number of ``data[0].data`` is the score
    ``/score``                vLLM: ``text_1`` the user's turn, ``text_2`` the responses
    ``/get_reward``           OpenRLHF: ``query`` and ``prompts`` as text; ``rewards``
    ========================  ================================================================

    Args:
        address: URL of the server or of one route; without a route ``/classify`` is used.
        options: Timeout, retries, concurrency, and the template of the routes that take text.
    """

    def __init__(self, address: str, options: ScorerOptions) -> None:
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise RecipeError(f"{address} is no address: {error}.") from None
        route = "/" + parts.path.rstrip("/").rpartition("/")[2]
        if parts.path.rstrip("/") == "":
            route = "/classify"
        if route not in ROUTES or not parts.netloc:
            raise RecipeError(
                f"{address}: armorm knows the routes {', '.join(ROUTES)}. Write the address of the "
                "server, or of one of these routes."
            )
        self.name = address
        self.route = route
        self.base = address.rstrip("/").removesuffix(route)
        self.options = options
        if route == "/get_reward" and options.template is None:
            raise RecipeError(
                f"{address} takes rendered text: name the model whose chat template it reads with "
                "--template."
            )

    @cached_property
    def model(self) -> str | None:
        """Name that vLLM serves the model by; ``None`` for a server without names.

        Raises:
            HttpError: The server does not answer.
        """
        if self.route == "/get_reward":
            return None
        try:
            return str(self._call("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ArmormError(f"{self.base}/v1/models does not name a model.") from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Address and model: what the server loads under this name is not known here."""
        return {
            "kind": "endpoint",
            "address": self.base + self.route,
            "model": self.model,
            "template_sha256": sha256_of_json(self._encoder.template) if self._encoder else None,
        }

    @cached_property
    def _encoder(self) -> ConversationEncoder | None:
        if self.options.template is None:
            return None
        from transformers import AutoTokenizer

        folder = resolve_model_folder(self.options.template)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # a malformed folder can raise anything inside the library
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"--template: {self.options.template} cannot be loaded. {reason}"
            ) from error
        return ConversationEncoder(tokenizer)

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Score rows by simultaneous requests.

        A conversation that the server refuses (a status from 400 to 499) is accounted for in its
        row.

        Raises:
            HttpError: The server cannot be reached, or fails.
            ArmormError: It answers something else.
        """
        ask: Callable[[Answered], Scored] = {
            "/classify": self._classify,
            "/pooling": self._classify,
            "/score": self._pairs,
            "/get_reward": self._get_reward,
        }[self.route]
        _ = self.model  # the first request also finds a server that is not there
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            return list(pool.map(lambda row: self._row(ask, row), rows))

    def _row(self, ask: Callable[[Answered], Scored], row: Answered) -> Scored:
        try:
            return ask(row)
        except InputError as error:
            return Scored.failed(error)
        except HttpError as error:
            if error.status not in (400, 413, 422):
                raise
            remedy = "Shorten the conversation, or skip such rows (--skip-invalid)."
            return Scored.failed(
                InputError("messages", row.responses[0], f"refused: {error}", remedy)
            )

    def _classify(self, row: Answered) -> Scored:
        vectors = [self._vector(with_response(row.prompt, response)) for response in row.responses]
        k, odd = divmod(len(vectors[0]), 2)
        scores = [vector[-1] for vector in vectors]
        if self.route == "/classify" and odd and k > 1:
            return Scored.of(
                scores,
                rewards=tuple(tuple(vector[:k]) for vector in vectors),
                gating=tuple(vectors[0][k:-1]),
            )
        if len(vectors[0]) > 1 and self.route == "/classify":
            raise ArmormError(
                f"{self.base}{self.route} answers {len(vectors[0])} numbers for a conversation, "
                "which are neither one score nor those of a gated reward model."
            )
        return Scored.of(scores)

    def _vector(self, messages: Conversation) -> list[float]:
        body = {"model": self.model, "messages": list(messages)}
        if self.route == "/classify":
            # A sigmoid would round good answers to the same 1.0.
            answer = self._call(self.route, {**body, "use_activation": False})
            return self._numbers(answer, lambda found: found["data"][0]["probs"])
        answer = self._call(self.route, body)
        return self._numbers(answer, lambda found: found["data"][0]["data"])

    def _pairs(self, row: Answered) -> Scored:
        if len(row.prompt) != 1:
            raise InputError(
                "prompt",
                len(row.prompt),
                "messages; the route /score takes the text of one user turn",
                "Use /classify or /pooling.",
            )
        body = {
            "model": self.model,
            "text_1": row.prompt[0]["content"],
            "text_2": list(row.responses),
        }
        answer = self._call(self.route, body)
        return self._as_scored(
            row,
            self._numbers(
                answer,
                _in_order,
            ),
        )

    def _get_reward(self, row: Answered) -> Scored:
        encoder = self._encoder
        assert encoder is not None
        prompt = encoder.render(row.prompt, add_generation_prompt=True)
        queries = [encoder.render(with_response(row.prompt, text)) for text in row.responses]
        for query, text in zip(queries, row.responses, strict=True):
            if not query.startswith(prompt):
                raise InputError(
                    "messages",
                    text,
                    "the template does not keep the prompt before it",
                    "Change it.",
                )
        body = {"query": queries, "prompts": [prompt] * len(queries), "labels": [""] * len(queries)}
        answer = self._call(self.route, body)
        return self._as_scored(row, self._numbers(answer, lambda found: found["rewards"]))

    def _as_scored(self, row: Answered, scores: list[float]) -> Scored:
        if len(scores) != len(row.responses):
            raise ArmormError(
                f"{self.base}{self.route} answers {len(scores)} scores for {len(row.responses)} "
                "responses."
            )
        return Scored.of(scores)

    def _numbers(self, answer: Any, read: Callable[[Any], Any]) -> list[float]:
        """Return the numbers of an answer.

        Raises:
            ArmormError: It has another form, or a number is not finite.
        """
        try:
            found = read(answer)
            numbers = [_number(one) for one in (found if isinstance(found, list) else [found])]
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise ArmormError(
                f"{self.base}{self.route} answers something else than {self.route} does: "
                f"{str(answer)[:200]}"
            ) from error
        if not numbers or not all(map(math.isfinite, numbers)):
            raise ArmormError(f"{self.base}{self.route} answers no finite number: {numbers}.")
        return numbers

    def _call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        options = self.options
        return request_json(
            self.base + path, body, timeout=options.timeout, retries=options.retries
        )


def _in_order(answer: Any) -> list[Any]:
    """Return the scores of ``/score`` in the order of the responses."""
    scores = {one["index"]: one["score"] for one in answer["data"]}
    if len(scores) != len(answer["data"]) or sorted(scores) != list(range(len(scores))):
        raise ValueError(f"indices {[one['index'] for one in answer['data']]}")
    return [scores[i] for i in range(len(scores))]


def _number(value: object) -> float:
    """Return a number of an answer; text and true are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)
