"""The loss through the backbone, against plain PyTorch on one conversation at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from armorm.conversations import EncodedPrompt
from armorm.training.tuning.regression import (
    RatedConversations,
    RewardRegression,
    collate,
    masked_squared_error,
)

MISSING = float("nan")
IDS = [[3, 8, 5, 9, 4], [7, 3], [6, 6, 12, 3]]
TARGETS = np.array([[0.1, MISSING, 0.9], [MISSING, MISSING, MISSING], [0.4, 0.0, MISSING]])


def _oracle(decoder: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """Row by row, rating by rating, without padding or masks."""
    total = torch.zeros(())
    for ids, targets in zip(IDS, TARGETS, strict=True):
        state = decoder(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        for objective, target in enumerate(targets):
            if not np.isnan(target):
                total = total + (weight[objective] @ state - target) ** 2
    return total / len(IDS)


ROWS = [(None, EncodedPrompt((ids,), 0)) for ids in IDS]


def test_loss_and_all_gradients_are_the_oracles(tiny_folder):
    weight = np.random.default_rng(0).normal(size=(3, 32))
    decoder = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32)
    model = RewardRegression(decoder, weight)
    dataset = RatedConversations(ROWS, TARGETS)
    loss = model(**collate([dataset[i] for i in range(len(dataset))]))["loss"]
    loss.backward()

    plain = AutoModel.from_pretrained(tiny_folder, dtype=torch.float32)
    plain_weight = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    expected = _oracle(plain, plain_weight)
    expected.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.head.weight.grad, plain_weight.grad)
    found = dict(decoder.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad, atol=5e-5, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_what_is_not_rated_neither_counts_nor_pulls(rows, objectives, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(rows, objectives, generator=generator, requires_grad=True)
    targets = torch.randn(rows, objectives, generator=generator)
    missing = torch.rand(rows, objectives, generator=generator) < 0.5
    loss = masked_squared_error(rewards, targets.masked_fill(missing, MISSING))
    expected = (((rewards - targets) ** 2)[~missing]).sum() / rows
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (rewards.grad[missing] == 0).all()
    assert torch.isfinite(rewards.grad).all()


def test_the_head_is_float32_whatever_the_decoder_is(tiny_folder):
    decoder = AutoModel.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    model = RewardRegression(decoder, np.zeros((3, 32)))
    dataset = RatedConversations(ROWS, TARGETS)
    with torch.autocast("cpu", torch.bfloat16):
        rewards = model(**collate([dataset[0], dataset[1]]))["rewards"]
    assert rewards.dtype == model.head.weight.dtype == torch.float32


@pytest.mark.parametrize("frozen", [True, False])
def test_a_checkpoint_holds_what_learns(tiny_folder, frozen):
    decoder = AutoModel.from_pretrained(tiny_folder).requires_grad_(not frozen)
    names = set(RewardRegression(decoder, np.zeros((3, 32))).state_dict())
    assert "head.weight" in names
    assert any(name.startswith("decoder.") for name in names) == (not frozen)
