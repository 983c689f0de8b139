"""LLM-as-a-judge: any model behind an OpenAI-compatible endpoint, by the ``openai`` client."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from armorm.errors import ArmormError, DamagedFileError, InputError, MissingExtraError, RecipeError
from armorm.evaluation.scorers.base import Answered, Scored, Scorer
from armorm.evaluation.scorers.judge_prompts import (
    ABSOLUTE,
    PAIRWISE,
    absolute_request,
    pairwise_request,
    read_rating,
    read_verdict,
)
from armorm.evaluation.scorers.options import ScorerOptions
from armorm.files import json_line, sha256_of_json, writing
from armorm.intervals import wilson_interval

NO_KEY_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of the judge.

    Attributes:
        text: Its text.
        prompt_tokens: Tokens of the request, as the server counts them.
        completion_tokens: Tokens of the answer.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class JudgeAccount:
    """Account of a judge's work.

    Attributes:
        requests: Requests that were sent.
        cached: Answers that were in the cache.
        unparsable: Answers without a verdict; their rows have no score.
        refused: Requests that the server refused; their rows have no score.
        prompt_tokens: Tokens of the requests that were sent.
        completion_tokens: Tokens of their answers.
        pairs: Pairs of responses with a verdict in both orders.
        agreed: Pairs whose two verdicts agree.
        first: Verdicts for the response that was shown first.
        second: Verdicts for the one that was shown second.
        ties: Verdicts for neither.
    """

    requests: int = 0
    cached: int = 0
    unparsable: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pairs: int = 0
    agreed: int = 0
    first: int = 0
    second: int = 0
    ties: int = 0

    def as_dict(self, input_price: float | None, output_price: float | None) -> dict[str, Any]:
        """Return the counts, the cost, and the shares with their intervals.

        Args:
            input_price: Price of a million tokens of requests; ``None`` if unknown.
            output_price: The same of answers.
        """
        cost = None
        if input_price is not None and output_price is not None:
            cost = (self.prompt_tokens * input_price + self.completion_tokens * output_price) / 1e6
        return {
            **asdict(self),
            "cost": cost,
            "agreement": _share(self.agreed, self.pairs),
            "first_preferred": _share(self.first, self.first + self.second),
        }


def _share(count: int, n: int) -> dict[str, float | int | None]:
    low, high = wilson_interval(count, n) or (None, None)
    return {"share": count / n if n else None, "low": low, "high": high, "n": n}


class JudgeCache:
    """Answers by request, one JSON line each, so that an interrupted run pays nothing twice.

    Args:
        file: The file; ``None`` remembers in memory only.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        if file is not None and file.exists():
            self._read(file)

    def _read(self, file: Path) -> None:
        whole = file.read_bytes()
        lines = whole.split(b"\n")
        if lines[-1]:  # the last line of a killed run; it is asked for again
            with file.open("r+b") as opened:
                opened.truncate(len(whole) - len(lines[-1]))
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json.loads(line)
                key = record.pop("key")
                reply = Reply(**record)
                if not isinstance(reply.text, str):
                    raise TypeError(f"text is {reply.text!r}")
                self._replies[key] = reply
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DamagedFileError(
                    f"{file}, line {number} is no answer of a judge: {error!r}. Name another "
                    "--judge-cache, or delete the line."
                ) from error

    def get(self, key: str) -> Reply | None:
        """Return the answer to a request, if it is known."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep an answer.

        Raises:
            OutputError: The file cannot be written.
        """
        with self._lock:
            self._replies[key] = reply
            if self._file is not None:
                with writing(self._file), self._file.open("ab") as opened:
                    opened.write(json_line({"key": key, **asdict(reply)}))


@dataclass(slots=True)
class _Pace:
    """Limit of requests per minute, over all threads."""

    per_minute: float | None
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        if self.per_minute is None:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + 60.0 / self.per_minute
        time.sleep(max(0.0, start - time.monotonic()))


class JudgeScorer(Scorer):
    """A language model that compares two responses, or rates one, in words.

    Pairwise, every pair of a row's responses is shown in both orders, and a response's score is its
    mean share of wins: a judge that only prefers what comes first gives every response one half.
    Absolute, the score is a whole number from 1 to 10, so ties are frequent.

    Args:
        model: Name of the model at the endpoint.
        url: Base URL, such as ``http://localhost:8000/v1``.
        options: The fields that begin with ``judge``, and timeout, retries and concurrency.

    Raises:
        MissingExtraError: The ``openai`` client is not installed.
        RecipeError: The key is missing from the environment.
    """

    def __init__(self, model: str, url: str, options: ScorerOptions) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("LLM-as-a-judge", "judge") from error
        self.model = model
        self.url = url.rstrip("/")
        self.options = options
        self.name = f"judge {model} ({options.judge_mode})"
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=self.url,
            api_key=_key(self.url, options.judge_key_variable),
            timeout=options.timeout,
            max_retries=options.retries,
        )
        self._cache = JudgeCache(Path(options.judge_cache) if options.judge_cache else None)
        self._pace = _Pace(options.judge_requests_per_minute)
        self._lock = threading.Lock()
        self._account = JudgeAccount()

    @property
    def identity(self) -> dict[str, Any]:
        """Model, address, mode and wording; what the endpoint runs under this name is not known."""
        words = PAIRWISE if self.options.judge_mode == "pairwise" else ABSOLUTE
        return {
            "kind": "judge",
            "model": self.model,
            "address": self.url,
            "mode": self.options.judge_mode,
            "wording_sha256": sha256_of_json(words),
            "max_tokens": self.options.judge_max_tokens,
        }

    @property
    def account(self) -> Mapping[str, Any]:
        """Requests, cost, agreement of the two orders, and preference for the first response."""
        options = self.options
        return self._account.as_dict(options.judge_input_price, options.judge_output_price)

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Ask for verdicts, several at the same time, and return the scores of every row.

        Raises:
            ArmormError: The endpoint cannot be reached, or refuses the key or the model.
        """
        judge = self._compare if self.options.judge_mode == "pairwise" else self._rate
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            try:
                return list(pool.map(judge, rows))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _compare(self, row: Answered) -> Scored:
        wins = [0.0] * len(row.responses)
        for i, j in itertools.combinations(range(len(row.responses)), 2):
            verdicts = []
            for first, second in ((i, j), (j, i)):
                request = pairwise_request(row.prompt, row.responses[first], row.responses[second])
                answer = self._ask(request)
                if isinstance(answer, InputError):
                    return Scored.failed(answer)
                verdict = read_verdict(answer.text)
                if verdict is None:
                    return self._unparsable(answer)
                verdicts.append(verdict)
            self._count(*verdicts)
            share = (verdicts[0] + 1.0 - verdicts[1]) / 2
            wins[i] += share
            wins[j] += 1.0 - share
        others = max(len(wins) - 1, 1)
        return Scored(tuple(win / others for win in wins))

    def _rate(self, row: Answered) -> Scored:
        ratings = []
        for response in row.responses:
            answer = self._ask(absolute_request(row.prompt, response))
            if isinstance(answer, InputError):
                return Scored.failed(answer)
            rating = read_rating(answer.text)
            if rating is None:
                return self._unparsable(answer)
            ratings.append(rating)
        return Scored(tuple(ratings))

    def _count(self, first: float, second: float) -> None:
        """Count both verdicts on a pair, each the share of the response that was shown first."""
        with self._lock:
            account = self._account
            account.pairs += 1
            account.agreed += first == 1.0 - second
            for verdict in (first, second):
                account.first += verdict == 1.0
                account.second += verdict == 0.0
                account.ties += verdict == 0.5

    def _unparsable(self, answer: Reply) -> Scored:
        with self._lock:
            self._account.unparsable += 1
        error = InputError(
            "verdict",
            answer.text[-200:],
            "the judge's answer ends without a verdict in the form it was asked for",
            "Use a stronger judge, or raise --judge-max-tokens; --skip-invalid counts such rows.",
        )
        return Scored.failed(error)

    def _ask(self, messages: list[dict[str, str]]) -> Reply | InputError:
        """Return the answer, or the reason why this request was refused."""
        request: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": 0}
        if self.options.judge_max_tokens is not None:
            request["max_tokens"] = self.options.judge_max_tokens
        key = sha256_of_json([self.url, request])
        known = self._cache.get(key)
        if known is not None:
            with self._lock:
                self._account.cached += 1
            return known
        self._pace.wait()
        with self._lock:
            self._account.requests += 1
        try:
            answer = self._client.chat.completions.create(**request)
        except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
            with self._lock:
                self._account.refused += 1
            return InputError(
                "messages", messages[-1]["content"], f"the judge refuses it: {error}", "Shorten it."
            )
        except self._openai.OpenAIError as error:
            raise ArmormError(self._trouble(error)) from error
        except ValueError as error:  # the client does not catch a body that is no JSON
            raise ArmormError(f"{self.url} does not answer in JSON: {error}") from error
        reply = self._reply(answer)
        with self._lock:
            self._account.prompt_tokens += reply.prompt_tokens
            self._account.completion_tokens += reply.completion_tokens
        self._cache.add(key, reply)
        return reply

    def _reply(self, answer: Any) -> Reply:
        try:
            text = answer.choices[0].message.content or ""
            if not isinstance(text, str):
                raise TypeError(f"content = {text!r} is no text")
            usage = answer.usage
            if usage is None:
                return Reply(text)
            return Reply(text, int(usage.prompt_tokens), int(usage.completion_tokens))
        except (AttributeError, IndexError, TypeError) as error:
            raise ArmormError(
                f"{self.url} does not answer as a chat endpoint does: {error}"
            ) from error

    def _trouble(self, error: Exception) -> str:
        again = (
            "Answers so far are in the cache: give the same command again."
            if self.options.judge_cache
            else "With --judge-cache FILE, answers so far would be kept."
        )
        if isinstance(error, self._openai.AuthenticationError | self._openai.PermissionDeniedError):
            again = f"Check the key in {self.options.judge_key_variable}."
        if isinstance(error, self._openai.NotFoundError):
            again = "Check the model's name and the URL, which mostly ends with /v1."
        return f"The judge {self.model} at {self.url} cannot be asked: {error}. {again}"


def open_judge(spec: str, options: ScorerOptions) -> JudgeScorer:
    """Return the judge that ``judge:MODEL@URL`` describes.

    Raises:
        RecipeError: The name has another form, or the key is missing.
    """
    model, _, url = spec.removeprefix("judge:").rpartition("@")
    if not model or not _is_address(url):
        raise RecipeError(
            f"{spec!r}: write judge:MODEL@URL, such as judge:gpt-x@http://host:8000/v1."
        )
    return JudgeScorer(model, url, options)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and " " not in url


def _key(url: str, variable: str) -> str:
    """Return the key of the endpoint, which a server on this machine does not need."""
    key = os.environ.get(variable)
    if key:
        return key
    if urlsplit(url).hostname in NO_KEY_HOSTS:
        return "none"
    raise RecipeError(
        f"The environment has no {variable}, which holds the key of {url}. Set it, or name "
        "another variable with --judge-key-variable."
    )
