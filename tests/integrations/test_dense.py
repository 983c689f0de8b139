"""Rewards per token: sums are kept, and no reward comes before the text that earned it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import torch

from armorm import Backbone, RewardModel
from armorm.errors import InputError
from armorm.integrations import (
    TokenCredits,
    token_advantages,
    verl_dense_manager,
    verl_token_level_scores,
)
from armorm.integrations.token_credits import token_ends
from tests.templates import FAMILIES, family_tokenizer
from tests.tiny_models import PROMPT, make_heads

TEXTS = ["Paris and Lyon .", "é😀 and one\n\ntwo", "a", "  one two  ", "", "\ufffd one"]


@pytest.fixture(scope="module")
def model(tiny_backbone: Backbone) -> RewardModel:
    return RewardModel(tiny_backbone, make_heads())


def ids_of(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_ends_are_those_of_decoded_beginnings(family):
    tokenizer = family_tokenizer(family)
    for text in TEXTS:
        ids = ids_of(tokenizer, text)
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        ends = token_ends(tokenizer, ids, decoded)
        assert ends[-1] == len(decoded)
        assert ends == sorted(ends)
        for end, count in zip(ends, range(1, len(ids)), strict=False):
            beginning = tokenizer.decode(ids[:count], skip_special_tokens=True)
            if "\ufffd" not in beginning:
                assert beginning == decoded[:end]


@pytest.mark.parametrize("family", ["llama-2", "gpt-oss", "command-r"])
@pytest.mark.parametrize("closed", [True, False])
def test_sums_are_the_scores_with_a_tokenizer_of_its_own(model, family, closed):
    tokenizer = family_tokenizer(family if family in FAMILIES else sorted(FAMILIES)[0])
    ids = [ids_of(tokenizer, text) for text in TEXTS]
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    scores = model.score_responses(PROMPT, ["x", *filter(None, decoded)]).score[1:].tolist()
    found = TokenCredits(model, tokenizer, closed=closed)([PROMPT] * len(ids), ids)
    sums = [float(row.sum()) for row, text in zip(found, decoded, strict=True) if text]
    assert sums == pytest.approx(scores, abs=1e-5)
    assert [len(row) for row in found] == [len(row) for row in ids]
    without = TokenCredits(model, tokenizer, closed=closed, start=False)([PROMPT], ids[:1])[0]
    start = model.trajectories(
        [[*PROMPT, {"role": "assistant", "content": TEXTS[0]}]], closed=closed
    )
    assert float(found[0].sum() - without.sum()) == pytest.approx(start[0].start, abs=1e-5)


def test_rewards_depend_on_earlier_text_alone(model):
    tokenizer = family_tokenizer("gpt-oss")
    credits = TokenCredits(model, tokenizer)
    one, other = (ids_of(tokenizer, f"one two {end}") for end in ("three", "Lyon"))
    same = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    first, second = credits([PROMPT] * 2, [one, other])
    # The last token before the difference may be part of a token of the reward model's.
    torch.testing.assert_close(first[: same - 1], second[: same - 1])
    assert same > 2


def test_with_the_models_own_tokenizer_each_token_has_its_own_credit(model):
    tokenizer = model.backbone.tokenizer
    text = "one two three"
    trajectory = model.trajectory([*PROMPT, {"role": "assistant", "content": text}], closed=True)
    ids = list(trajectory.token_ids)
    found = TokenCredits(model, tokenizer, start=False)([PROMPT], [ids])[0]
    if "".join(trajectory.tokens) == tokenizer.decode(ids):
        torch.testing.assert_close(found, trajectory.credits)


def test_what_a_tool_wrote_is_not_rewarded(model):
    tokenizer = family_tokenizer("gpt-oss")
    ids = ids_of(tokenizer, "one two three four five")
    mask = [1] * len(ids)
    mask[1] = mask[2] = mask[-1] = 0
    found = TokenCredits(model, tokenizer)([PROMPT], [ids], [mask])[0]
    whole = TokenCredits(model, tokenizer)([PROMPT], [ids])[0]
    assert not found[torch.tensor(mask) == 0].any()
    assert float(found.sum()) == pytest.approx(float(whole.sum()), abs=1e-9)


def test_what_cannot_be_rewarded_is_refused(model):
    tokenizer = family_tokenizer("gpt-oss")
    credits = TokenCredits(model, tokenizer)
    ids = ids_of(tokenizer, "one")
    with pytest.raises(InputError, match="row 2"):
        credits([PROMPT, PROMPT], [ids, []])
    with pytest.raises(InputError, match="no token of the policy"):
        credits([PROMPT], [ids], [[0] * len(ids)])
    with pytest.raises(InputError, match="row 1"):
        credits([3], [ids])


def batch_of(tokenizer, texts):
    rows = [ids_of(tokenizer, text) for text in texts]
    width = max(map(len, rows)) + 2
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, real


def test_verls_tensor_holds_the_rewards_and_nothing_at_padding(model):
    tokenizer = family_tokenizer("gpt-oss")
    credits = TokenCredits(model, tokenizer)
    ids, real = batch_of(tokenizer, ["one two", "Paris and Lyon ok"])
    scores = verl_token_level_scores(credits)([PROMPT] * 2, ids, real, real)
    assert scores.shape == ids.shape
    assert scores.dtype == torch.float32
    assert not scores[real == 0].any()
    expected = model.score_responses(PROMPT, ["one two", "Paris and Lyon ok"]).score
    torch.testing.assert_close(scores.sum(dim=1), expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="attention_mask"):
        verl_token_level_scores(credits)([PROMPT] * 2, ids, real[:, 1:])


class Data(list):
    """The part of verl's DataProto that a reward manager reads; slices are batches again."""

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return Data(found) if isinstance(key, slice) else found

    @property
    def batch(self):
        return {"responses": torch.stack([item.batch["responses"] for item in self])}


class ManagerBase:
    """verl 0.9.1's RewardManagerBase, as far as a subclass meets it."""

    def __init__(self, config, tokenizer, compute_score):
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score

    @property
    def loop(self):
        return asyncio.get_running_loop()


def test_the_manager_takes_verls_calls(model):
    tokenizer = family_tokenizer("gpt-oss")
    ids, real = batch_of(tokenizer, ["one two", "Paris and Lyon ok"])
    prompt = torch.ones(2, 3, dtype=torch.long)
    data = Data(
        SimpleNamespace(
            batch={
                "responses": ids[i],
                "attention_mask": torch.cat([prompt[i], real[i]]),
                "response_mask": real[i],
            },
            non_tensor_batch={"extra_info": {"prompt": PROMPT}},
        )
        for i in range(2)
    )
    manager = verl_dense_manager(ManagerBase, lambda given: TokenCredits(model, given))
    settings = SimpleNamespace(enable=True, enable_resource_pool=False)
    config = SimpleNamespace(reward=SimpleNamespace(reward_model=settings))
    worker = manager(config, tokenizer, None, reward_router_address="http://localhost")
    answers = [asyncio.run(worker.run_single(data[i : i + 1])) for i in range(2)]
    tensor = manager.assemble_rm_scores(data, [one["reward_score"] for one in answers])
    expected = verl_token_level_scores(TokenCredits(model, tokenizer))([PROMPT] * 2, ids, real)
    torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-6)
    settings.enable = False
    with pytest.raises(InputError, match="agent loop"):
        manager(config, tokenizer, None)


def test_advantages_are_the_score_less_that_of_the_text_before(model):
    text = "one two three"
    one = model.trajectory([*PROMPT, {"role": "assistant", "content": text}], closed=True)
    (advantages,) = token_advantages([one.credits])
    torch.testing.assert_close(advantages, one.score - one.scores[:-1])
    half = token_advantages([one.credits], 0.5)[0]
    expected = [
        sum(0.5 ** (k - t) * float(one.credits[k]) for k in range(t, len(one)))
        for t in range(len(one))
    ]
    assert half.tolist() == pytest.approx(expected)
