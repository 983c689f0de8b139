"""The gated model inside vLLM: the numbers of transformers, whatever is cached or cut in chunks."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is installed in an environment of its own: make test-vllm")

from vllm import LLM, PoolingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

from armorm import RewardModel
from armorm.vllm_plugin.boundary import KEY
from armorm.vllm_plugin.configuring import keep_cache_off_the_boundary
from armorm.vllm_plugin.pooling import BoundaryPooler
from tests.on_vllm.conftest import FAMILIES, conversations, export

OPTIONS = {"runner": "pooling", "dtype": "float32", "enforce_eager": True}


def encoded(model: RewardModel, conversation: list) -> list[int]:
    encoder = model.backbone.encoder
    return encoder.encode(conversation[:-1], [conversation[-1]["content"]]).sequences[0]


def check(llm: LLM, model: RewardModel, judged: list) -> int:
    """Compare with transformers; returns how many tokens came from the prefix cache."""
    rewards = model.score(judged)
    expected = torch.cat([rewards.rewards, rewards.gating, rewards.score[:, None]], dim=1)
    prompts = [{"prompt_token_ids": encoded(model, one)} for one in judged]
    outputs = llm.classify(prompts, use_tqdm=False)
    found = torch.tensor([output.outputs.probs for output in outputs])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    return sum(output.num_cached_tokens for output in outputs)


def metric(llm: LLM, name: str) -> int:
    return next(metric.value for metric in llm.get_metrics() if metric.name == name)


@pytest.fixture(scope="module")
def model(released):
    return RewardModel.from_pretrained(released, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def crowded(released):
    """Little memory, small chunks, several requests in the middle of theirs at once.

    So boundaries and ends fall into different chunks, cached blocks are thrown out, and requests
    are preempted and begun again.
    """
    llm = LLM(
        str(released),
        **OPTIONS,
        block_size=32,
        num_gpu_blocks_override=11,
        max_num_seqs=6,
        max_num_batched_tokens=128,
        long_prefill_token_threshold=32,
        scheduler_reserve_full_isl=False,
        disable_log_stats=False,
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


def test_scores_do_not_depend_on_cache_chunks_or_preemption(crowded, model):
    judged = conversations()
    cached = [check(crowded, model, judged)]
    for seed in range(4):
        random.Random(seed).shuffle(judged)
        cached.append(check(crowded, model, [*judged, *judged[:3]]))
    assert all(cached)
    assert metric(crowded, "vllm:num_preemptions") > 0


@pytest.mark.parametrize("repeat", [1, 2])
def test_the_same_conversation_again_is_answered_from_the_state_not_from_the_end(
    crowded, model, repeat
):
    one = conversations()[6]
    assert check(crowded, model, [one] * repeat) >= 0
    assert check(crowded, model, [one]) > 0  # the prompt's whole blocks were kept


def test_what_cannot_be_judged_is_refused_alone(crowded, model):
    ids = encoded(model, conversations()[1])
    end = ids.index(128009)
    for wrong, words in (
        (ids[: end + 5], "followed by a response"),
        (ids[:end], "no end of a user turn"),
        ([ids[0], *ids], "two BOS tokens"),
    ):
        with pytest.raises(VLLMValidationError, match=words):
            crowded.classify([{"prompt_token_ids": wrong}], use_tqdm=False)
    check(crowded, model, conversations()[:2])


def test_a_missing_state_is_not_a_number_and_never_a_guess():
    def metadata(lengths: list[int], boundaries: list[int | None]) -> PoolingMetadata:
        one = PoolingMetadata(
            prompt_lens=torch.tensor([10, 10]),
            prompt_token_ids=None,
            prompt_token_ids_cpu=None,
            pooling_params=[
                PoolingParams(task="classify", extra_kwargs=b and {KEY: b}) for b in boundaries
            ],
            pooling_states=[PoolingStates(), PoolingStates()],
        )
        counts = np.array([4, 4])
        one.build_pooling_cursor(counts, torch.tensor(lengths), torch.device("cpu"))
        return one

    pooler = BoundaryPooler("classify", lambda boundaries, last: boundaries + 100 * last)
    states = torch.arange(8.0)[:, None]
    # Both scheduled tokens 6 to 9: the first's boundary among them, the second's before them.
    here, before = pooler(states, metadata([10, 10], [7, 2]))
    assert here.item() == 1 + 100 * 3
    assert before.isnan().all()
    # An unfinished request is not answered, one without a boundary has no number.
    waiting, unknown = pooler(states, metadata([9, 10], [7, None]))
    assert waiting is None
    assert unknown.isnan().all()


def test_a_scheduler_that_does_not_know_the_boundary_gets_no_prefix_cache():
    for given, cached in ((None, True), ("some.Scheduler", False)):
        config = SimpleNamespace(
            scheduler_config=SimpleNamespace(scheduler_cls=given),
            cache_config=SimpleNamespace(enable_prefix_caching=True),
        )
        keep_cache_off_the_boundary(config)
        assert config.cache_config.enable_prefix_caching is cached


@pytest.mark.parametrize("family", FAMILIES)
def test_exports_of_other_families_score_the_same(family, tmp_path):
    folder = export(family, tmp_path)
    # Gemma 2 caps its attention logits; of transformers' kinds of attention only this one does.
    model = RewardModel.from_pretrained(
        folder, dtype="float32", device="cpu", attn_implementation="eager", verify=False
    )
    llm = LLM(str(folder), **OPTIONS, max_num_batched_tokens=64, max_num_seqs=8)
    try:
        check(llm, model, conversations())
        assert check(llm, model, conversations()) > 0
    finally:
        llm.llm_engine.engine_core.shutdown()
