"""Reward components of a group, as trainers with GDPO's normalisation take them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from armorm import InputError, RewardModel, Rewards
from armorm.errors import NonFiniteError
from armorm.integrations import (
    group_components,
    nemo_rl_rewards,
    trl_reward_funcs,
    verl_batch_compute_score,
    verl_compute_score,
)
from armorm.integrations.components import GROUP_KINDS
from tests.tiny_models import PROMPT, make_heads

HELLO = [{"role": "user", "content": "hello"}]
PROMPTS = [PROMPT, HELLO, PROMPT, HELLO, PROMPT]
TEXTS = ["Paris", "yes , ok", "Lyon , very long answer", "", "ok"]


@pytest.fixture(scope="module")
def model(tiny_backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


def made(rewards, coefficients) -> Rewards:
    """Return scores with these unit rewards and coefficients."""
    rewards, coefficients = (torch.as_tensor(t).float() for t in (rewards, coefficients))
    contributions = rewards * coefficients
    return Rewards(
        contributions.double().sum(dim=1).float(),
        rewards,
        coefficients,
        coefficients,
        contributions,
        tuple(f"objective-{i}" for i in range(rewards.shape[1])),
    )


def drawn(seed: int, prompts: int = 6, group: int = 8, objectives: int = 7):
    """Return scores of random groups: correlated objectives of unlike spread, a sharp gate."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(objectives, objectives))
    rewards = generator.normal(size=(prompts * group, objectives)) @ mixing
    rewards = rewards * 10.0 ** generator.uniform(-2, 1, objectives) + generator.normal()
    gate = generator.dirichlet(np.full(objectives, 0.3), prompts)
    signs = generator.choice([1, 1, 1, -1], objectives)
    groups = np.repeat(np.arange(prompts), group)
    return made(rewards, (gate * signs)[groups]), groups.tolist()


def normalise_then_sum(columns, groups, epsilon=1e-4) -> np.ndarray:
    """Return the sum of the normalised components, as TRL (epsilon 1e-4) and verl (1e-6) do."""
    total = np.zeros(len(groups))
    groups = np.asarray(groups)
    for column in columns:
        values = np.asarray(column, np.float64)
        for group in np.unique(groups):
            rows = groups == group
            part = values[rows]
            total[rows] += (part - part.mean()) / (part.std(ddof=1) + epsilon)
    return total


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.sampled_from([1e-4, 1e-6]))
def test_gate_weighted_orders_a_group_as_the_score_does(seed, epsilon):
    rewards, groups = drawn(seed)
    found = group_components(rewards, groups, "gate_weighted")
    total = normalise_then_sum(found.optimised.values(), groups, epsilon)
    for group in set(groups):
        rows = np.asarray(groups) == group
        assert spearmanr(total[rows], rewards.score.double().numpy()[rows]).statistic >= 0.99
    # Whatever the unit of the score: the trainer's epsilon does not matter.
    smaller = made(rewards.rewards, rewards.coefficients * 1e-6)
    again = group_components(smaller, groups, "gate_weighted").optimised["gate_weighted"]
    torch.testing.assert_close(again, found.optimised["gate_weighted"], rtol=1e-3, atol=1e-4)


def test_contributions_lose_the_gate_in_the_same_trainer():
    correlations = []
    for seed in range(20):
        rewards, groups = drawn(seed)
        found = group_components(rewards, groups, "contributions")
        assert sum(found.optimised.values()).tolist() == pytest.approx(
            rewards.score.tolist(), rel=1e-4, abs=1e-5
        )
        total = normalise_then_sum(found.optimised.values(), groups)
        rows = np.asarray(groups) == 0
        correlations.append(spearmanr(total[rows], rewards.score.numpy()[rows]).statistic)
    assert np.mean(correlations) < 0.8


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(GROUP_KINDS))
def test_parts_sum_to_a_component_of_mean_0_and_deviation_1(seed, kind):
    rewards, groups = drawn(seed)
    found = group_components(rewards, groups, kind)
    (component,) = found.optimised.values()
    torch.testing.assert_close(sum(found.parts.values()), component)
    by_group = component.view(6, 8)
    torch.testing.assert_close(by_group.mean(dim=1), torch.zeros(6).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(by_group.std(dim=1), torch.ones(6).double())
    assert sum(found.shares().values()) == pytest.approx(1.0)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(seed % 1000))
    moved = group_components(rewards.where(order), [groups[i] for i in order], kind)
    torch.testing.assert_close(moved.optimised[kind], component[order])


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_ties_and_lone_responses_have_the_component_0(kind):
    rewards, _ = drawn(3, prompts=1, group=4)
    same = rewards.where(torch.tensor([0, 0, 0, 1]))
    found = group_components(same, ["tied"] * 3 + ["alone"], kind)
    assert found.optimised[kind].tolist() == [0.0] * 4
    assert set(found.shares().values()) == {0.0}
    json.dumps(found.as_dict(), allow_nan=False)


def test_whitened_keeps_uncorrelated_objectives_and_counts_copies_less():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), 8).tolist()
    independent = generator.normal(size=(4000, 6))
    coefficients = np.full((4000, 6), 1 / 6)
    apart = made(independent, coefficients)
    plain = group_components(apart, groups, "gate_weighted").optimised["gate_weighted"]
    found = group_components(apart, groups, "whitened").optimised["whitened"]
    assert np.corrcoef(plain, found)[0, 1] > 0.999
    # Five copies of one objective beside another: 25 of 26 parts of the variance, then 5 of 6.
    copies = made(np.column_stack([independent[:, :1]] * 5 + [independent[:, 1:2]]), coefficients)
    plain = group_components(copies, groups, "gate_weighted").shares()
    found = group_components(copies, groups, "whitened")
    assert plain["objective-5"] == pytest.approx(1 / 26, abs=0.02)
    assert found.shares()["objective-5"] == pytest.approx(1 / 6, abs=0.02)


def test_whitened_parts_are_uncorrelated_in_a_large_group():
    rewards, groups = drawn(1, prompts=1, group=20000, objectives=4)
    gate = torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(20000, 4)
    rewards = made(rewards.rewards, gate)
    parts = torch.stack(
        list(group_components(rewards, groups, "whitened").parts.values()), dim=1
    ).numpy()
    assert np.abs(np.corrcoef(parts.T) - np.eye(4)).max() < 0.02


def test_few_responses_are_hardly_decorrelated():
    rewards, groups = drawn(5, prompts=1, group=2)
    plain = group_components(rewards, groups, "gate_weighted").optimised["gate_weighted"]
    found = group_components(rewards, groups, "whitened").optimised["whitened"]
    torch.testing.assert_close(found, plain)


def test_what_cannot_be_grouped_is_named():
    rewards, groups = drawn(0)
    with pytest.raises(InputError, match="there are 48 responses"):
        group_components(rewards, groups[1:])
    bad = made(torch.tensor([[1.0], [float("nan")]]), torch.ones(2, 1))
    with pytest.raises(NonFiniteError, match="row 2"):
        group_components(bad, [0, 0])
    with pytest.raises(InputError, match="single component"):
        group_components(rewards, groups, "contributions").shares()


# ------------------------------------------------------------------------------------- trainers


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_trainers_get_the_component_of_their_batch(model, kind):
    answers = [{"role": "assistant", "content": text} for text in TEXTS]
    logs = [[*prompt, answer] for prompt, answer in zip(PROMPTS, answers, strict=True)]
    encode = model.backbone.encoder.encode
    rewards = model.score_encoded(
        [encode(prompt, [text]) for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    )
    groups = [0, 1, 0, 1, 0]
    found = group_components(rewards, groups, kind)
    expected = pytest.approx(found.optimised[kind].tolist(), abs=1e-3)
    logged: dict[str, float] = {}
    (reward,) = trl_reward_funcs(model, components=kind)
    assert reward.__name__ == kind
    got = reward(
        prompts=[*PROMPTS, HELLO],
        completions=[*TEXTS, "one " * 400],
        log_metric=logged.__setitem__,
    )
    assert got[:5] == expected
    assert got[5] is None
    assert logged["armorm/too_long"] == 1
    shares = [logged[f"armorm/share/{name}"] for name in model.objectives.names]
    assert sum(shares) == pytest.approx(1.0)
    assert reward(prompts=[HELLO], completions=["one " * 400]) == [None]
    rows = verl_batch_compute_score(model, kind)(
        solution_strs=TEXTS, extra_infos=[{"prompt": prompt} for prompt in PROMPTS]
    )
    assert [row[kind] for row in rows] == expected
    for row in rows:
        assert sum(row[name] for name in model.objectives.names) == pytest.approx(row[kind])
    (values,) = nemo_rl_rewards(model, kind)(logs).values()
    assert values.tolist() == expected


def test_verl_refuses_group_components_of_one_response(model):
    with pytest.raises(InputError, match="gdpo_reward_keys"):
        verl_compute_score(model, components="gate_weighted")
