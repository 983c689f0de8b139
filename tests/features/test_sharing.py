"""Responses that share their prompt's computation have the states they would have alone."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from armorm.conversations import EncodedPrompt
from armorm.features import shared_attention
from armorm.features.closed_prefixes import closed_prefixes, prefix_features
from armorm.features.merging import merge_prompts
from armorm.features.packing import grow_trees, plan_batches, plan_packs
from armorm.features.running import ModelRunner, OutOfMemoryError
from tests.features.families import VOCABULARY, Shape, make_model

TOLERANCE = 1e-4

SHARING: dict[str, tuple[str, Shape]] = {
    "llama": ("llama", {}),
    "llama, all heads": ("llama", {"num_key_value_heads": 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "mistral, wide window": ("mistral", {"sliding_window": 200}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt2, learned positions": ("gpt2", {"n_positions": 256, "n_inner": 64}),
    "gemma": ("gemma", {"head_dim": 8}),
    "olmo2": ("olmo2", {}),
}

NOT_SHARING: dict[str, tuple[str, Shape, str]] = {
    "gemma2, soft capping": ("gemma2", {"head_dim": 8, "sliding_window": 200}, "not plain causal"),
    "bloom, alibi": ("bloom", {"n_layer": 2, "n_head": 4}, ""),
    "mamba, no attention": ("mamba", {"state_size": 4}, ""),
}


def make_prompts(seed: int = 0) -> list[EncodedPrompt]:
    """Prompts of several lengths with one to five responses; equal and nested ones among them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    prompts = []
    for prompt_length, lengths in ((9, [4]), (20, [7, 3, 30]), (3, [1, 12]), (31, [5, 6, 7, 8, 9])):
        prompt = draw(prompt_length)
        prompts.append(
            EncodedPrompt(tuple(prompt + draw(length) for length in lengths), prompt_length - 2)
        )
    first = prompts[1].sequences
    nested = (*first, first[0], first[2][:-9])
    return [*prompts, EncodedPrompt(nested, prompts[1].boundary)]


@torch.inference_mode()
def one_at_a_time(
    model: PreTrainedModel, prompts: list[EncodedPrompt]
) -> tuple[torch.Tensor, torch.Tensor]:
    at_boundary, at_end = [], []
    for prompt in prompts:
        for ids in prompt.sequences:
            states = model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            at_end.append(states[-1])
        at_boundary.append(states[prompt.boundary])
    return torch.stack(at_boundary), torch.stack(at_end)


def assert_states_are_right(runner: ModelRunner, prompts: list[EncodedPrompt]) -> None:
    found = runner.run(prompts)
    at_boundary, at_end = one_at_a_time(runner.model, prompts)
    bound = TOLERANCE * float(at_end.abs().max())
    torch.testing.assert_close(found.responses, at_end, rtol=0, atol=bound)
    torch.testing.assert_close(found.prompts, at_boundary, rtol=0, atol=bound)


@pytest.mark.parametrize("tokens", [1, 25, 70, 4096])
@pytest.mark.parametrize("name", SHARING)
def test_shared_states_equal_those_of_one_at_a_time(name, tokens):
    runner = ModelRunner(make_model(*SHARING[name]), tokens, share_prompts=True)
    assert runner.sharing_obstacle is None
    assert_states_are_right(runner, make_prompts())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (4, 4), (8, 1)])
def test_long_segments_have_the_states_of_one_at_a_time(heads, key_heads, dtype):
    changes = {"num_attention_heads": heads, "num_key_value_heads": key_heads}
    model = make_model("llama", {**changes, "max_position_embeddings": 1024}).to(dtype)
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    trunk = draw(133)
    branches = [draw(length) for length in (1, 31, 63, 64, 65, 300, 600)]
    prompts = [EncodedPrompt(tuple(trunk + branch for branch in branches), len(trunk) - 2)]
    runner = ModelRunner(model, 4096, share_prompts=True)
    assert runner.sharing_obstacle is None
    found = runner.run(prompts)
    at_boundary, at_end = one_at_a_time(model.float(), prompts)
    bound = (TOLERANCE if dtype == torch.float32 else 0.1) * float(at_end.abs().max())
    torch.testing.assert_close(found.responses, at_end, rtol=0, atol=bound)
    torch.testing.assert_close(found.prompts, at_boundary, rtol=0, atol=bound)


@pytest.mark.parametrize("causal", [True, False])
def test_the_probe_notices_a_fault_of_long_segments_alone(monkeypatch, causal):
    right = shared_attention._attend

    def wrong(query, key, value, scale, **how):
        long = how["causal"] == causal and len(key) > 64
        return right(query, key, value, scale * (1.05 if long else 1.0), **how)

    monkeypatch.setattr(shared_attention, "_attend", wrong)
    runner = ModelRunner(make_model("llama", {}), 4096, share_prompts=True)
    with pytest.warns(UserWarning, match="would differ"):
        assert runner.sharing_obstacle is not None


@pytest.mark.parametrize("name", NOT_SHARING)
def test_what_cannot_be_shared_runs_in_batches_and_says_so(name):
    family, changes, reason = NOT_SHARING[name]
    runner = ModelRunner(make_model(family, changes), 64, share_prompts=True)
    with pytest.warns(UserWarning, match=f"do not share.*{reason}"):
        assert runner.sharing_obstacle is not None
    assert_states_are_right(runner, make_prompts())


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
SCALED: dict[str, Shape] = {
    "longrope": {"rope_parameters": LONGROPE},
    "dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 24},
}


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("tokens", [1, 40, 4096])
@pytest.mark.parametrize("name", SCALED)
def test_with_positions_scaled_by_length_a_prompts_state_is_that_of_the_prompt_alone(
    name, tokens, share_prompts, recwarn
):
    prompts = make_prompts()
    model = make_model("llama", SCALED[name])
    runner = ModelRunner(model, tokens, share_prompts=share_prompts)
    runner.run(prompts)  # the dynamic embedding remembers the longest sequence
    found = runner.run(prompts)
    if share_prompts:
        assert runner.sharing_obstacle is None
        assert not recwarn

    def alone(ids: list[int]) -> torch.Tensor:
        fresh = make_model("llama", SCALED[name])
        with torch.inference_mode():
            return fresh(torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]

    at_boundary = torch.stack([alone(list(prompt.prompt_ids)) for prompt in prompts])
    at_end = torch.stack([alone(ids) for prompt in prompts for ids in prompt.sequences])
    bound = TOLERANCE * float(at_end.abs().max())
    torch.testing.assert_close(found.prompts, at_boundary, rtol=0, atol=bound)
    torch.testing.assert_close(found.responses, at_end, rtol=0, atol=bound)
    lengths = [len(ids) for prompt in prompts for ids in prompt.sequences]
    assert min(lengths) <= 24 < max(lengths)
    for prompt, state in zip(prompts, found.prompts, strict=True):
        for ids in prompt.sequences:  # whatever the response, long or short
            lone = runner.run([EncodedPrompt((ids,), prompt.boundary)])
            torch.testing.assert_close(lone.prompts[0], state, rtol=0, atol=bound)


def test_longrope_shares_prompts_on_both_sides_of_its_limit():
    prompts = make_prompts()
    runner = ModelRunner(make_model("llama", SCALED["longrope"]), 4096, share_prompts=True)
    assert runner.run(prompts).computed_tokens < sum(prompt.tokens for prompt in prompts)


def test_threads_share_a_runner():
    prompts = make_prompts()
    expected = ModelRunner(make_model("llama", {}), 64, share_prompts=True).run(prompts)
    runner = ModelRunner(make_model("llama", {}), 64, share_prompts=True)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: runner.run([prompts[i % len(prompts)]]), range(64)))
    for i, features in enumerate(found):
        state = expected.prompts[i % len(prompts)]
        torch.testing.assert_close(features.prompts[0], state, rtol=0, atol=1e-5)


def test_conversations_longer_than_a_sliding_window_are_not_packed():
    runner = ModelRunner(make_model("mistral", {"sliding_window": 24}), 64, share_prompts=True)
    assert runner.sharing_obstacle is None
    assert max(len(ids) for prompt in make_prompts() for ids in prompt.sequences) > 24
    assert_states_are_right(runner, make_prompts())


def test_attention_is_the_models_own_again_afterwards():
    model = make_model("llama", {})
    before = model.config._attn_implementation
    ModelRunner(model, 64, share_prompts=True).run(make_prompts())
    assert model.config._attn_implementation == before
    assert "armorm" not in model.config.to_json_string()


@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_last_mlp_computes_only_the_tokens_that_are_read(share_prompts):
    model = make_model("llama", {})
    runner = ModelRunner(model, 64, share_prompts=share_prompts)
    assert (runner.sharing_obstacle is None) == share_prompts
    prompts = merge_prompts(make_prompts()).prompts
    responses = sum(len(prompt.sequences) for prompt in prompts)
    computed = [0, 0]
    for number, layer in enumerate(model.layers):

        def count(_: Any, inputs: Any, number: int = number) -> None:
            computed[number] += inputs[0].shape[:-1].numel()

        layer.mlp.up_proj.register_forward_pre_hook(count)
    runner.run(prompts)
    assert computed[0] > 3 * computed[1]
    assert computed[1] == responses + (len(prompts) if share_prompts else responses)
    assert "forward" not in vars(model.layers[-1].mlp)


def test_a_bfloat16_body_gives_states_within_its_rounding():
    model = make_model("llama", {}).bfloat16()
    runner = ModelRunner(model, 64, share_prompts=True)
    assert runner.sharing_obstacle is None
    found = runner.run(make_prompts())
    assert found.responses.dtype == torch.float32
    _, at_end = one_at_a_time(model, make_prompts())
    assert (found.responses - at_end).abs().max() < 0.05 * at_end.abs().max()


class RoundsByTheBatch(torch.nn.Linear):
    """A product as LLM.int8 makes it: how activations are rounded hangs on all that runs."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        step = states.abs().mean() / 256
        return super().forward((states / step).round() * step)


def test_a_quantised_model_shares_although_it_rounds_by_what_runs_beside(recwarn):
    model = make_model("llama", {})
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.__class__ = RoundsByTheBatch
    exact = make_model("llama", {})
    runner = ModelRunner(model, 4096, share_prompts=True)
    assert runner.sharing_obstacle is None
    assert not recwarn
    _, alone = one_at_a_time(exact, make_prompts())
    error = (runner.run(make_prompts()).responses - alone).abs().max() / alone.abs().max()
    assert 1e-4 < error < 5e-2


def test_states_do_not_depend_on_what_runs_beside_them():
    runner = ModelRunner(make_model("llama", {}), 64, share_prompts=True)
    prompts = make_prompts()
    together = runner.run(prompts)
    for i, prompt in enumerate(prompts):
        alone = runner.run([prompt])
        torch.testing.assert_close(alone.prompts[0], together.prompts[i], rtol=0, atol=1e-5)


ids = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@st.composite
def encoded_prompts(draw: st.DrawFn) -> EncodedPrompt:
    prompt = draw(ids)
    responses = draw(st.lists(ids, min_size=1, max_size=6))
    return EncodedPrompt(tuple(prompt + response for response in responses), len(prompt) - 1)


@given(st.lists(encoded_prompts(), min_size=1, max_size=8))
def test_merged_prompts_hold_every_prompt_and_conversation_once(prompts):
    merged = merge_prompts(prompts)
    keys = [prompt.prompt_ids for prompt in merged.prompts]
    assert len(set(keys)) == len(keys)
    assert [keys[i] for i in merged.prompt_numbers] == [prompt.prompt_ids for prompt in prompts]
    conversations = [ids for prompt in merged.prompts for ids in prompt.sequences]
    distinct = {(p.boundary, *ids) for p in merged.prompts for ids in p.sequences}
    assert len(distinct) == len(conversations)
    given_ids = [ids for prompt in prompts for ids in prompt.sequences]
    assert [conversations[i] for i in merged.response_numbers] == given_ids


class SmallMemory:
    """A model whose memory holds so many tokens at once."""

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.model, self.tokens, self.forward = model, tokens, model.forward
        self.refused = 0
        model.forward = self  # type: ignore[method-assign]

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.numel() > self.tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.forward(input_ids=input_ids, **options)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_out_of_memory_halves_the_tokens_and_loses_nothing(share_prompts):
    model = make_model("llama", {})
    runner = ModelRunner(model, 4096, share_prompts=share_prompts)
    assert (runner.sharing_obstacle is None) == share_prompts
    prompts = make_prompts()
    at_boundary, at_end = one_at_a_time(model, prompts)
    memory = SmallMemory(model, 60)
    steps: list[int] = []
    with pytest.warns(UserWarning, match="Out of memory on cpu: continuing with .* tokens"):
        found = runner.run(prompts, steps.append)
    assert memory.refused > 0
    assert runner.max_tokens <= 64
    assert sum(steps) == merge_prompts(prompts).tokens
    bound = TOLERANCE * float(at_end.abs().max())
    torch.testing.assert_close(found.responses, at_end, rtol=0, atol=bound)
    torch.testing.assert_close(found.prompts, at_boundary, rtol=0, atol=bound)


def test_a_conversation_that_does_not_fit_alone_is_named():
    model = make_model("llama", {})
    runner = ModelRunner(model, 4096, share_prompts=True)
    assert runner.sharing_obstacle is None
    SmallMemory(model, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OutOfMemoryError, match=r"A conversation of \d+ tokens does not fit"):
            runner.run(make_prompts())


@given(st.lists(encoded_prompts(), min_size=1, max_size=8), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_packs_hold_every_conversation_once_within_the_budget(prompts, budget):
    merged = merge_prompts(prompts)
    packs = plan_packs(grow_trees(merged.prompts), budget)
    pieces = [piece for pack in packs for piece in pack]
    leaves = [leaf for piece in pieces for leaf in piece.leaves]
    found = {leaf.response: leaf.ids for leaf in leaves}
    sequences = [ids for prompt in prompts for ids in prompt.sequences]
    assert [found[number] for number in merged.response_numbers] == sequences
    assert len(leaves) == len(found) == len(set(merged.response_numbers))
    for pack in packs:
        conversations = sum(len(piece.branches) for piece in pack)
        assert sum(piece.tokens for piece in pack) <= budget or conversations == 1
    for piece in pieces:
        assert piece.begins == (piece.branches.start == 0)
        assert piece.goes_on == (piece.branches.stop < len(piece.tree.branches))
        assert piece.tree.boundary < len(piece.tree.trunk)
    for pack in packs:
        # The trunk of a divided tree is kept from the pack before: it stands alone in its packs.
        assert all(piece.begins for piece in pack[1:])
        assert not any(piece.goes_on for piece in pack[:-1])


def test_batches_hold_every_sequence_once_within_the_budget():
    lengths = [5, 90, 3, 3, 40, 41, 7, 200]
    batches = plan_batches(lengths, max_tokens=100)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= 100 or len(batch) == 1


@pytest.mark.parametrize("family", [*SHARING, *NOT_SHARING])
@pytest.mark.parametrize("budget", [25, 10_000])
@pytest.mark.filterwarnings("ignore:.*do not share")
def test_states_of_other_tokens_are_the_models_own(family, budget):
    name, shape = {**SHARING, **{k: v[:2] for k, v in NOT_SHARING.items()}}[family]
    own = make_model(name, shape)
    prompts = make_prompts()

    def read(ids, boundary):
        return range(boundary + 1, len(ids))

    with torch.inference_mode():
        found = ModelRunner(own, budget, share_prompts=True).run(prompts, None, read)
        rows = iter(zip(found.responses, found.tokens, strict=True))
        for prompt in prompts:
            for ids in prompt.sequences:
                expected = own(input_ids=torch.tensor([ids])).last_hidden_state[0]
                last, tokens = next(rows)
                torch.testing.assert_close(
                    tokens, expected[prompt.boundary + 1 :], rtol=1e-3, atol=1e-4
                )
                torch.testing.assert_close(last, tokens[-1], rtol=0, atol=0)
        plain = ModelRunner(own, budget, share_prompts=True).run(prompts)
    assert plain.tokens == ()
    torch.testing.assert_close(plain.responses, found.responses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", [*SHARING, *NOT_SHARING])
@pytest.mark.parametrize("budget", [9, 10_000])
@pytest.mark.filterwarnings("ignore:.*do not share")
def test_closed_prefixes_have_the_states_of_conversations_of_their_own(family, budget):
    name, shape = {**SHARING, **{k: v[:2] for k, v in NOT_SHARING.items()}}[family]
    own = make_model(name, shape)
    runner = ModelRunner(own, budget, share_prompts=True)
    prompt = make_prompts()[1]
    for closing in (0, 1, 3):
        one = EncodedPrompt(prompt.sequences[2:], prompt.boundary)
        first = prompt.boundary + 3
        found = prefix_features(runner, one, first, closing)
        apart = closed_prefixes(one, first, closing).sequences
        ids = one.sequences[0]
        assert apart[-1] == ids
        assert len(found.responses) == len(apart) == len(ids) - closing - first + 1
        with torch.inference_mode():
            for state, cut in zip(found.responses, apart, strict=True):
                expected = own(input_ids=torch.tensor([cut])).last_hidden_state[0]
                torch.testing.assert_close(state, expected[-1], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(
                found.prompts[0], expected[prompt.boundary], rtol=1e-3, atol=1e-4
            )
        if closing and family in SHARING:
            assert found.computed_tokens == len(ids) + closing * (len(apart) - 1)
