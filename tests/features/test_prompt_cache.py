"""Prompts that are kept for later responses: the same states, bounded memory, honest counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from armorm.conversations import EncodedPrompt
from armorm.features.prompt_cache import CachedPrompt, PromptCache
from armorm.features.running import ModelRunner, OutOfMemoryError
from armorm.features.shared_attention import KeptTrunk
from tests.features.families import VOCABULARY, make_model

MIB = 1024 * 1024


def draw(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()


def make_prompt(number: int, lengths: tuple[int, ...], first: int = 0) -> EncodedPrompt:
    """A prompt of 8 to 23 tokens with responses whose texts follow from their position."""
    ids = draw(8 + 5 * number, number)
    responses = (draw(length, 1000 + 50 * number + first + i) for i, length in enumerate(lengths))
    return EncodedPrompt(tuple([*ids, 4, 5, *response] for response in responses), len(ids) - 1)


def make_runner(max_bytes: int | None = MIB, **changes: Any) -> ModelRunner:
    runner = ModelRunner(make_model("llama", changes), 64, share_prompts=True)
    assert runner.sharing_obstacle is None
    runner.cache = None if max_bytes is None else PromptCache(max_bytes)
    return runner


def assert_same(found: Any, expected: Any) -> None:
    for name in ("prompts", "responses"):
        right = getattr(expected, name)
        bound = 1e-5 * float(right.abs().max())
        torch.testing.assert_close(getattr(found, name), right, rtol=0, atol=bound)


def test_responses_that_come_one_by_one_compute_their_prompt_once():
    runner, plain = make_runner(), make_runner(None)
    prompts = [make_prompt(1, (7,), i) for i in range(6)]
    computed = []
    for prompt in prompts:
        found = runner.run([prompt])
        assert_same(found, plain.run([prompt]))
        computed.append(found.computed_tokens)
        assert found.response_tokens == (found.computed_tokens,)
    prompt_tokens = prompts[0].boundary + 1
    response_tokens = len(prompts[0].sequences[0]) - prompt_tokens
    assert computed == [prompt_tokens + response_tokens] + 5 * [response_tokens]
    counts = runner.cache.counts
    assert (counts.hits, counts.misses, counts.evictions, counts.prompts) == (5, 1, 0, 1)
    # Two layers of keys and values with two heads of 8 numbers, and a state, in float32.
    assert counts.bytes == 4 * (2 * 2 * 2 * 8 * prompt_tokens + 32)


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.lists(st.integers(1, 40), min_size=1, max_size=4),
                st.integers(0, 3),
            ),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0, 6_000, MIB]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_sequence_of_calls_has_the_states_of_a_runner_without_cache(calls, size, separate):
    runner, plain = make_runner(size), make_runner(None)
    runner.separate = separate
    for call in calls:
        prompts = [make_prompt(number, tuple(lengths), first) for number, lengths, first in call]
        assert_same(runner.run(prompts), plain.run(prompts))
        assert runner.cache.counts.bytes <= size


def test_separate_passes_give_equal_bits_whatever_is_cached():
    fresh, warm = make_runner(0), make_runner()
    fresh.separate = warm.separate = True
    prompts = [make_prompt(number, (length,)) for number in range(3) for length in (3, 17, 31)]
    warm.run(prompts)
    assert warm.cache.counts.prompts == 3
    for prompt in prompts:
        one, other = fresh.run([prompt]), warm.run([prompt])
        assert torch.equal(one.prompts, other.prompts)
        assert torch.equal(one.responses, other.responses)
    assert fresh.cache.counts.prompts == 0


def test_a_response_that_ends_with_the_prompt_is_read_at_its_end():
    runner, plain = make_runner(), make_runner(None)
    ids = draw(9, 1)
    prompts = [EncodedPrompt((ids, [*ids, 7, 8]), len(ids) - 1)]
    for separate in (False, True, True, False):
        runner.separate = separate
        assert_same(runner.run(prompts), plain.run(prompts))


def test_a_failed_step_leaves_nothing_in_the_cache(monkeypatch):
    runner, plain = make_runner(), make_runner(None)
    last = runner.model.layers[-1]
    forward = last.forward

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(last, "forward", fail)
    with pytest.raises(RuntimeError, match="device-side"):
        runner.run([make_prompt(1, (5,))])
    assert runner.cache.counts.prompts == 0
    monkeypatch.setattr(last, "forward", forward)
    assert_same(runner.run([make_prompt(1, (5,))]), plain.run([make_prompt(1, (5,))]))


@pytest.mark.parametrize("separate", [False, True])
def test_cached_prompts_are_dropped_when_memory_runs_out(monkeypatch, separate):
    runner, plain = make_runner(), make_runner(None)
    runner.separate = separate
    runner.run([make_prompt(number, (5,)) for number in range(3)])
    forward = runner.model.forward

    def limited(**inputs: Any) -> Any:
        if runner.cache.counts.prompts >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(**inputs)

    monkeypatch.setattr(runner.model, "forward", limited)
    found = runner.run([make_prompt(0, (6, 7))])
    assert runner.max_tokens == 64
    assert runner.cache.counts.prompts == 1
    assert_same(found, plain.run([make_prompt(0, (6, 7))]))


def test_memory_that_never_suffices_is_an_error_with_a_full_cache_too(monkeypatch):
    runner = make_runner()
    runner.separate = True
    runner.run([make_prompt(number, (5,)) for number in range(3)])

    def refuse(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runner.model, "forward", refuse)
    with pytest.raises(OutOfMemoryError, match=r"A conversation of \d+ tokens does not fit"):
        runner.run([make_prompt(1, (5,))])


def entry(tokens: int, state: float = 0.0) -> CachedPrompt:
    keys = torch.zeros(tokens, 1, 4)
    return CachedPrompt(torch.full((4,), state), KeptTrunk({0: (keys, keys.clone())}))


def test_the_prompt_unused_for_longest_is_dropped_first():
    cache = PromptCache(3 * entry(2).bytes)
    for number in range(3):
        cache.put((number,), entry(2))
    assert cache.find((0,)) is not None
    cache.put((3,), entry(2))
    assert [cache.find((number,)) is not None for number in range(4)] == [True, False, True, True]
    counts = cache.counts
    assert (counts.hits, counts.misses, counts.evictions) == (4, 1, 1)
    assert counts.bytes == 3 * entry(2).bytes
    cache.put((3,), entry(1))  # put again, not counted twice
    assert cache.counts.bytes == 2 * entry(2).bytes + entry(1).bytes
    cache.clear()
    assert cache.counts.prompts == cache.counts.bytes == 0


def test_what_is_too_large_or_not_finite_is_not_kept():
    cache = PromptCache(entry(2).bytes)
    cache.put((1,), entry(2))
    cache.put((2,), entry(3))
    cache.put((3,), entry(1, float("nan")))
    assert cache.counts.prompts == 1
    assert cache.find((1,)) is not None
