"""The scheduler at its public surface: answers, order, limits, errors, swaps, and equal bits."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from armorm import Backbone, InputError, RewardModel, Steering
from armorm.conversations import OverlongError
from armorm.errors import ArmormError, NonFiniteError
from armorm.serving import (
    BatchEnd,
    BatchingOptions,
    DeadlineError,
    DrainingError,
    IgnoreEvents,
    QueueFullError,
    Scheduler,
    ScoredRequest,
    ScoreRequest,
)
from tests.tiny import TEMPLATES, WORDS, save_tiny_backbone
from tests.tiny_models import make_heads

PROMPTS = [
    ({"role": "user", "content": f"what is the capital of {place} ?"},)
    for place in ("France", "Paris", "Lyon")
]
TABLES = ("score", "rewards", "gating", "coefficients", "contributions")


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A model with other weights and another template."""
    folder = tmp_path_factory.mktemp("other-backbone")
    save_tiny_backbone(folder, TEMPLATES["mistral"], seed=5)
    return RewardModel(Backbone.from_pretrained(folder, device="cpu"), make_heads(seed=5))


def words(seed: int, count: int = 6) -> str:
    return " ".join(random.Random(seed).choices(WORDS[:40], k=count))


def request(prompt: int = 0, seed: int = 0, **fields: Any) -> ScoreRequest:
    return ScoreRequest(PROMPTS[prompt], (words(seed),), **fields)


TEXTS = [words(seed, 1 + seed % 9) for seed in range(31)]


class Gate:
    """Holds back the forward passes of all models until it is opened, and lists their sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self._open = threading.Event()
        self._entered = threading.Event()
        predict = RewardModel.predict

        def wait(model: RewardModel, encoded: Any, **options: Any) -> Any:
            self.calls.append(len(encoded))
            self._entered.set()
            assert self._open.wait(30)
            return predict(model, encoded, **options)

        monkeypatch.setattr(RewardModel, "predict", wait)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 30)

    def open(self) -> None:
        self._open.set()


class Recorder(IgnoreEvents):
    """Observer that keeps what it receives."""

    def __init__(self) -> None:
        self.batches: list[BatchEnd] = []
        self.outcomes: list[Any] = []
        self.queue = (0, 0, 0)
        self._changed = threading.Condition()

    def batch_finished(self, batch: BatchEnd) -> None:
        self.batches.append(batch)

    def request_finished(self, request: Any, outcome: Any, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append(outcome)

    def queue_changed(self, requests: int, rows: int, tokens: int) -> None:
        with self._changed:
            self.queue = (requests, rows, tokens)
            self._changed.notify_all()

    async def queued(self, requests: int) -> None:
        """Wait until the queue holds so many requests."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: self.queue[0] == requests, 30)

        assert await asyncio.to_thread(wait)


def serve(
    model: RewardModel,
    use: Callable[[Scheduler], Awaitable[Any]],
    observer: Any = None,
    **options: Any,
) -> Any:
    """Run a scheduler while a function uses it."""

    async def main() -> Any:
        async with Scheduler(model, BatchingOptions(**options), observer) as scheduler:
            return await use(scheduler)

    return asyncio.run(main())


async def score_all(scheduler: Scheduler, batch: list[ScoreRequest]) -> list[Any]:
    return await asyncio.gather(*map(scheduler.score, batch), return_exceptions=True)


def assert_answers(model: RewardModel, asked: ScoreRequest, answer: ScoredRequest) -> None:
    steered = model if asked.steering is None else model.steer(asked.steering)
    expected = steered.score_responses(asked.prompt, asked.responses)
    assert answer.model is model
    assert answer.rewards.steering == expected.steering
    for name in TABLES:
        found, right = getattr(answer.rewards, name), getattr(expected, name)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def assert_equal_bits(answer: ScoredRequest, expected: ScoredRequest) -> None:
    for name in TABLES:
        assert torch.equal(getattr(answer.rewards, name), getattr(expected.rewards, name))


batches = st.lists(
    st.builds(
        lambda prompt, seeds, factor: ScoreRequest(
            PROMPTS[prompt],
            tuple(TEXTS[seed] for seed in seeds),
            None if factor is None else Steering({"tone": factor}),
        ),
        st.integers(0, 2),
        st.lists(st.integers(0, 30), min_size=1, max_size=3),
        st.sampled_from([None, 0.0, 2.5]),
    ),
    min_size=1,
    max_size=8,
)


@given(batches, st.integers(20, 400), st.sampled_from([0, 1]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_mix_of_requests_gets_what_the_model_alone_gives(model, batch, budget, cache, regroup):
    answers = serve(
        model,
        lambda scheduler: score_all(scheduler, batch),
        batch_tokens=budget,
        cache_mib=cache,
        regroup=regroup,
    )
    for asked, answer in zip(batch, answers, strict=True):
        assert_answers(model, asked, answer)
    assert model.backbone.runner.cache is None  # as it was


@given(batches, st.data())
@settings(max_examples=5, deadline=None)
def test_invariant_answers_have_equal_bits_beside_any_others(model, batch, data):
    subjects = [
        ScoreRequest(PROMPTS[0], (words(3),)),
        ScoreRequest(PROMPTS[0], tuple(words(seed, 1 + seed % 11) for seed in range(16))),
    ]
    options: dict[str, Any] = {"batch_invariant": True}
    alone = [
        serve(model, lambda s, one=one: s.score(one), cache_mib=0, **options) for one in subjects
    ]
    mixed = data.draw(st.permutations([*batch, *subjects]))

    async def use(scheduler: Scheduler) -> list[Any]:
        first = await score_all(scheduler, mixed)
        return first + await score_all(scheduler, mixed)  # the second time from the cache

    answers = serve(model, use, cache_mib=data.draw(st.sampled_from([0, 1])), **options)
    for asked, answer in zip(mixed + mixed, answers, strict=True):
        assert_answers(model, asked, answer)
        if asked in subjects:
            assert_equal_bits(answer, alone[subjects.index(asked)])
    # A response alone has the bits that it has among sixteen.
    one_of_many = serve(
        model,
        lambda s: s.score(ScoreRequest(PROMPTS[0], (subjects[1].responses[7],))),
        **options,
    )
    assert torch.equal(one_of_many.rewards.score[0], alone[1].rewards.score[7])


def test_a_steered_answer_has_the_bits_of_the_steered_model(model):
    steering = Steering({"tone": 2.0}, debiasing=0.5)
    asked = ScoreRequest(PROMPTS[1], (words(1), words(2), words(1)), steering)
    answer = serve(model, lambda scheduler: scheduler.score(asked), cache_mib=0)
    expected = model.steer(steering).score_responses(asked.prompt, asked.responses)
    for name in TABLES:
        assert torch.equal(getattr(answer.rewards, name), getattr(expected, name))
    assert answer.rewards.steering == steering


def test_requests_that_wait_share_the_next_batch_and_their_prompt(model, monkeypatch):
    gate, recorder = Gate(monkeypatch), Recorder()
    mixed = [request(number % 2, number) for number in range(8)]

    async def use(scheduler: Scheduler) -> list[Any]:
        first = asyncio.create_task(scheduler.score(request(2)))
        await gate.entered()
        others = asyncio.create_task(score_all(scheduler, mixed))
        await recorder.queued(8)
        gate.open()
        return [await first, *(await others)]

    first, *answers = serve(model, use, recorder)
    assert gate.calls == [1, 8]
    assert recorder.batches[1].start.rows == 8
    for asked, answer in zip(mixed, answers, strict=True):
        assert_answers(model, asked, answer)
        assert answer.queued_seconds > 0
    # The prompt of four requests counts for one of them.
    prompt = model.backbone.encoder.encode(PROMPTS[0], [words(0)]).boundary + 1
    computed = [answer.computed_tokens for answer in answers[::2]]
    shared = sum(answer.tokens - prompt for answer in answers[::2])
    assert sum(computed) == prompt + shared
    assert sum(batch.computed_tokens for batch in recorder.batches) == sum(
        answer.computed_tokens for answer in [first, *answers]
    )


def test_a_batch_takes_the_oldest_and_what_shares_its_prompt(model, monkeypatch):
    gate, recorder = Gate(monkeypatch), Recorder()
    finished: list[int] = []
    order = [0, 1, 1, 0, 2, 0]
    tokens = model.backbone.encoder.encode(PROMPTS[0], [words(0)]).tokens

    async def score(scheduler: Scheduler, place: int) -> None:
        await scheduler.score(request(order[place], place))
        finished.append(place)

    async def use(scheduler: Scheduler) -> None:
        first = asyncio.create_task(scheduler.score(request(2)))
        await gate.entered()
        tasks = []
        for place in range(len(order)):
            tasks.append(asyncio.create_task(score(scheduler, place)))
            await recorder.queued(place + 1)
        gate.open()
        await asyncio.gather(first, *tasks)

    serve(model, use, recorder, batch_tokens=2 * tokens)
    assert [sorted(finished[:3]), sorted(finished[3:5]), finished[5:]] == [[0, 3, 5], [1, 2], [4]]


def test_one_client_waits_for_no_window(model):
    async def use(scheduler: Scheduler) -> float:
        await scheduler.score(request())
        begun = time.monotonic()
        for seed in range(5):
            await scheduler.score(request(seed=seed))
        return time.monotonic() - begun

    assert serve(model, use, window_ms=1000) < 1


def test_prompts_are_kept_between_batches(model):
    recorder = Recorder()

    async def use(scheduler: Scheduler) -> list[ScoredRequest]:
        return [await scheduler.score(request(seed=seed)) for seed in range(5)]

    answers = serve(model, use, recorder)
    prompt = model.backbone.encoder.encode(PROMPTS[0], [words(0)]).boundary + 1
    assert [answer.computed_tokens for answer in answers] == [
        answer.tokens - (prompt if place else 0) for place, answer in enumerate(answers)
    ]
    assert (recorder.batches[-1].cache.hits, recorder.batches[-1].cache.misses) == (4, 1)
    assert recorder.batches[-1].cache.bytes > 0


def test_a_request_that_cannot_be_scored_fails_alone(model, monkeypatch):
    monkeypatch.setattr(model.backbone.encoder, "max_length", 40)
    bad = [
        ScoreRequest(PROMPTS[0], (words(0, 60),)),
        ScoreRequest(PROMPTS[0], (words(0),), Steering({"ton": 1.0})),
        ScoreRequest(PROMPTS[0], (words(0),), uncertainty=True),
    ]
    good = [request(number % 3, number) for number in range(4)]
    answers = serve(model, lambda scheduler: score_all(scheduler, bad + good))
    assert isinstance(answers[0], OverlongError)
    assert isinstance(answers[1], InputError)
    assert (answers[1].field, answers[2].field) == ("steering", "uncertainty")
    assert "no objective 'ton'" in str(answers[1])
    for asked, answer in zip(good, answers[3:], strict=True):
        assert_answers(model, asked, answer)


def test_a_nan_is_an_error_of_its_request_alone(model, monkeypatch):
    nan = model.backbone.encoder.tokenize("seven")[0]
    embed = model.backbone.model.embed_tokens.forward

    def poisoned(ids: torch.Tensor) -> torch.Tensor:
        return torch.where((ids == nan)[..., None], torch.nan, embed(ids))

    monkeypatch.setattr(model.backbone.model.embed_tokens, "forward", poisoned)
    good = [request(0, seed) for seed in (1, 2, 4)]
    good = [one for one in good if "seven" not in one.responses[0]]
    bad = ScoreRequest(PROMPTS[0], ("ok", "seven", "yes seven"))
    for invariant in (False, True):
        answers = serve(
            model,
            lambda scheduler: score_all(scheduler, [*good, bad]),
            batch_invariant=invariant,
        )
        assert isinstance(answers[-1], NonFiniteError)
        assert answers[-1].field == "responses[1]"
        for asked, answer in zip(good, answers, strict=False):
            assert_answers(model, asked, answer)


def test_a_batch_that_fails_is_computed_one_by_one(model, monkeypatch, caplog):
    predict = RewardModel.predict
    gate, recorder = Gate(monkeypatch), Recorder()
    [token] = model.backbone.encoder.tokenize("seven")
    held = RewardModel.predict

    def fail(one: RewardModel, encoded: Any, **options: Any) -> Any:
        result = held(one, encoded, **options)
        if any(token in ids for prompt in encoded for ids in prompt.sequences):
            raise RuntimeError("secret detail")
        return result

    monkeypatch.setattr(RewardModel, "predict", fail)
    good = [request(seed % 2, seed) for seed in range(4)]
    good = [one for one in good if "seven" not in one.responses[0]]
    bad = ScoreRequest(PROMPTS[0], ("seven",))

    async def use(scheduler: Scheduler) -> list[Any]:
        first = asyncio.create_task(scheduler.score(request(2, 1)))
        await gate.entered()
        others = asyncio.create_task(score_all(scheduler, [*good, bad]))
        await recorder.queued(len(good) + 1)
        gate.open()
        await first
        return await others

    answers = serve(model, use, recorder)
    monkeypatch.setattr(RewardModel, "predict", predict)
    assert gate.calls == [1, len(good) + 1, *[1] * (len(good) + 1)]
    assert (recorder.batches[1].retried, recorder.batches[1].failed) == (True, 1)
    assert isinstance(answers[-1], ArmormError)
    assert "secret" not in str(answers[-1])
    assert "secret detail" in caplog.text
    for asked, answer in zip(good, answers, strict=False):
        assert_answers(model, asked, answer)


def test_deadlines_and_cancellation_take_requests_out_of_the_queue(model, monkeypatch):
    gate, recorder = Gate(monkeypatch), Recorder()

    async def use(scheduler: Scheduler) -> None:
        running = asyncio.create_task(scheduler.score(request(2)))
        await gate.entered()
        late = asyncio.create_task(scheduler.score(request(deadline=time.monotonic() + 0.05)))
        gone = asyncio.create_task(scheduler.score(request()))
        kept = asyncio.create_task(scheduler.score(request(1)))
        with pytest.raises(DeadlineError, match=r"passed after 0\.\d+ s"):
            await late
        await recorder.queued(2)
        gone.cancel()
        await recorder.queued(1)
        with pytest.raises(DeadlineError, match="had passed"):
            await scheduler.score(request(deadline=time.monotonic() - 1))
        gate.open()
        await asyncio.gather(running, kept)

    serve(model, use, recorder)
    assert gate.calls == [1, 1]
    kinds = [type(outcome) for outcome in recorder.outcomes]
    assert kinds.count(DeadlineError) == 2
    assert kinds.count(asyncio.CancelledError) == 1
    assert kinds.count(ScoredRequest) == 2
    assert recorder.queue == (0, 0, 0)


@pytest.mark.parametrize("limit", [{"queue_rows": 3}, {"queue_tokens": 30}])
def test_a_full_queue_refuses_with_the_time_to_come_back(model, monkeypatch, limit):
    gate, recorder = Gate(monkeypatch), Recorder()

    async def use(scheduler: Scheduler) -> list[Any]:
        gate.open()
        await scheduler.score(request())  # a batch to measure
        monkeypatch.undo()
        held = Gate(monkeypatch)
        running = asyncio.create_task(scheduler.score(request(2)))
        await held.entered()
        waiting = asyncio.create_task(scheduler.score(request(0)))
        await recorder.queued(1)
        many = await score_all(scheduler, [ScoreRequest(PROMPTS[1], ("ok", "yes", "no"))])
        held.open()
        await asyncio.gather(running, waiting)
        return many

    [refused] = serve(model, use, recorder, **limit)
    assert isinstance(refused, QueueFullError)
    assert not isinstance(refused, DrainingError)
    assert 0 < refused.retry_after < 10


def test_a_request_larger_than_the_queue_is_taken_by_an_idle_server(model):
    asked = ScoreRequest(PROMPTS[0], tuple(words(seed) for seed in range(5)))
    answer = serve(model, lambda s: s.score(asked), queue_rows=1, queue_tokens=1, batch_tokens=1)
    assert_answers(model, asked, answer)


@pytest.mark.parametrize("drain", [True, False])
def test_stopping_finishes_or_refuses_what_waits(model, monkeypatch, drain):
    gate, recorder = Gate(monkeypatch), Recorder()

    async def use(scheduler: Scheduler) -> list[Any]:
        running = asyncio.create_task(scheduler.score(request(2)))
        await gate.entered()
        waiting = asyncio.create_task(score_all(scheduler, [request(0), request(1)]))
        await recorder.queued(2)
        stopping = asyncio.create_task(scheduler.stop(drain=drain))
        await asyncio.sleep(0)
        with pytest.raises(DrainingError):
            await scheduler.score(request())
        gate.open()
        await stopping
        return [await running, *(await waiting)]

    running, *waiting = serve(model, use, recorder)
    assert isinstance(running, ScoredRequest)
    expected = ScoredRequest if drain else DrainingError
    assert [type(answer) for answer in waiting] == [expected, expected]


def test_a_swap_loses_nothing_and_the_running_batch_stays_with_its_model(
    model, other_model, monkeypatch
):
    gate, recorder = Gate(monkeypatch), Recorder()
    queued = [request(number % 3, number) for number in range(4)]

    async def use(scheduler: Scheduler) -> list[Any]:
        running = asyncio.create_task(scheduler.score(request(2)))
        await gate.entered()
        waiting = asyncio.create_task(score_all(scheduler, queued))
        await recorder.queued(4)
        await scheduler.swap(other_model)
        assert scheduler.model is other_model
        gate.open()
        answers = [await running, *(await waiting), await scheduler.score(request(2))]
        assert model.backbone.runner.cache is None
        assert other_model.backbone.runner.cache is not None
        return answers

    answers = serve(model, use, recorder)
    assert_answers(model, request(2), answers[0])
    for asked, answer in zip([*queued, request(2)], answers[1:], strict=True):
        assert_answers(other_model, asked, answer)


def test_swaps_under_load_answer_every_request_by_the_model_they_name(model, other_model):
    asked = [request(number % 3, number) for number in range(60)]

    async def use(scheduler: Scheduler) -> list[Any]:
        tasks = []
        for place, one in enumerate(asked):
            tasks.append(asyncio.create_task(scheduler.score(one)))
            if place % 10 == 9:
                await scheduler.swap(other_model if place % 20 == 9 else model)
                await tasks[-3]
        return await asyncio.gather(*tasks)

    answers = serve(model, use, cache_mib=1, batch_tokens=60)
    for one, answer in zip(asked, answers, strict=True):
        assert_answers(answer.model, one, answer)
    assert {id(answer.model) for answer in answers} == {id(model), id(other_model)}
    assert model.backbone.runner.cache is other_model.backbone.runner.cache is None


class OtherEngine:
    """A backbone of another engine than transformers."""

    identity: Any = None

    def __init__(self, backbone: Backbone) -> None:
        for name in (
            *("encoder", "folder", "layer", "dtype", "hidden_size", "vocabulary_size"),
            *("quantized", "close", "features", "prefix_features"),
        ):
            setattr(self, name, getattr(backbone, name))


def test_another_engine_is_served_without_our_cache(model):
    other = RewardModel(OtherEngine(model.backbone), model.heads)
    mixed = [request(number % 2, number) for number in range(6)]
    recorder = Recorder()
    answers = serve(other, lambda scheduler: score_all(scheduler, mixed), recorder)
    for asked, answer in zip(mixed, answers, strict=True):
        expected = model.score_responses(asked.prompt, asked.responses)
        torch.testing.assert_close(answer.rewards.score, expected.score, rtol=1e-4, atol=1e-5)
    assert recorder.batches[0].cache is None
    with pytest.raises(ArmormError, match="VLLM_BATCH_INVARIANT"):
        Scheduler(other, BatchingOptions(batch_invariant=True))
