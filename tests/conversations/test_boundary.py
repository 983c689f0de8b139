"""The prompt boundary, and text that stays text, over real families and merging tokens."""

from __future__ import annotations

import functools
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from armorm import InputError
from armorm.conversations import BoundaryRule, ConversationEncoder
from armorm.conversations.messages import with_response
from armorm.hub.modeling_armorm import RewardModelWithGating
from armorm.vllm_plugin import REWARD_SUFFIX
from armorm.vllm_plugin.boundary import admit, boundary_of
from tests.templates import FAMILIES, family_tokenizer

ASKED = {"role": "user", "content": "what is the answer?"}
EARLIER = [
    {"role": "user", "content": "hello\n"},
    {"role": "assistant", "content": "> a ]\n\n```\ncode\n```"},
]
PROMPTS = {
    "one turn": [ASKED],
    "three turns": [*EARLIER, *EARLIER, ASKED],
    "system": [{"role": "system", "content": "be brief"}, ASKED],
    "system, turns": [{"role": "system", "content": "be brief"}, *EARLIER, ASKED],
    "ends in a newline": [{"role": "user", "content": "what is it\n\n"}],
    "ends in a bracket": [*EARLIER, {"role": "user", "content": "what is [it]"}],
}
ANSWERS = {
    "plain": "Paris",
    "newline": "\nParis",
    "newlines": "\n\n\nParis",
    "space": " Paris",
    "fence": "```python\nx = a[0]\n```",
    "bracket": "[Paris] ](a)",
    "closing": "] > | : Paris >\n\n> quoted",
    "thought": "<think>\nwell\n</think>\n\nParis",
    "header": "user\nassistant\n: [INST\n",
}


@functools.cache
def encoder_of(name: str) -> ConversationEncoder:
    return ConversationEncoder(family_tokenizer(name))


def in_exported_folder(rule: BoundaryRule, ids: list[int]) -> tuple[int, int]:
    """Return the boundary and the length by the modelling file that travels with a model."""
    config = SimpleNamespace(**rule.as_config())
    model = SimpleNamespace(config=config)
    row, lengths = torch.tensor([[*ids, 0, 0]]), torch.tensor([len(ids)])
    lengths = RewardModelWithGating._without_trailing(model, row, lengths)
    return int(RewardModelWithGating._boundaries(model, row, lengths)), int(lengths)


def in_vllm(rule: BoundaryRule, ids: list[int], bos: int | None) -> tuple[int, int]:
    params = SimpleNamespace(extra_kwargs=None)
    request = SimpleNamespace(prompt_token_ids=ids, pooling_params=params)
    config = SimpleNamespace(**rule.as_config(), bos_token_id=bos)
    admit(request, config, REWARD_SUFFIX)
    return boundary_of(params), len(request.prompt_token_ids)


def every_way(name: str, prompt: list, answer: str) -> tuple[int, int] | str:
    """Find the boundary and the last token in all ways; they agree, or refuse alike."""
    encoder = encoder_of(name)
    tokenizer = encoder.tokenizer
    text = encoder.render(with_response(prompt, answer))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def known() -> tuple[int, int]:
        encoded = encoder.encode(prompt, [answer])
        row = encoded.sequences[0]
        assert ids[: len(row)] == row
        return encoded.boundary, len(row)

    def from_ids() -> tuple[int, int]:
        encoded = encoder.from_ids(ids)
        return encoded.boundary, len(encoded.sequences[0])

    ways = (
        known,
        from_ids,
        lambda: in_exported_folder(encoder.rule, ids),
        lambda: in_vllm(encoder.rule, ids, tokenizer.bos_token_id),
    )
    results = [_outcome(way) for way in ways]
    assert len(set(results)) == 1, results
    return results[0]


def _outcome(way) -> tuple[int, int] | str:
    try:
        return way()
    except ValueError as error:
        words = ("spells the template's own markers", "no end of a user turn")
        return next((one for one in words if one in str(error)), str(error))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_way_to_score_reads_the_same_token(name, prompt):
    if "system" in prompt and FAMILIES[name].refuses_system:
        with pytest.raises(InputError, match=r"system, user.*System role not supported"):
            encoder_of(name).encode(PROMPTS[prompt], ["ok"])
        return
    tokenizer = family_tokenizer(name)
    boundaries = set()
    for answer in ANSWERS.values():
        found = every_way(name, PROMPTS[prompt], answer)
        assert not isinstance(found, str), (answer, found)
        ids = encoder_of(name).encode(PROMPTS[prompt], [answer]).sequences[0]
        assert tokenizer.convert_ids_to_tokens(ids[found[0]]) == FAMILIES[name].closing
        before = tokenizer.decode(ids[: found[0] + 1])
        assert PROMPTS[prompt][-1]["content"].strip() in before
        assert "Paris" not in before
        assert "Paris" not in answer or "Paris" in tokenizer.decode(ids[found[0] + 1 :])
        boundaries.add(found[0])
    assert len(boundaries) == 1


def test_the_released_patterns_are_kept_to_the_id():
    for name, tokens in (
        ("llama-3", ("<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "ĊĊ")),
        ("gemma-2", ("<end_of_turn>", "Ċ", "<start_of_turn>", "mo", "del", "Ċ")),
    ):
        rule = encoder_of(name).rule
        assert tuple(family_tokenizer(name).convert_ids_to_tokens(list(rule.pattern))) == tokens
        assert rule == BoundaryRule(rule.pattern)


_PIECES = st.sampled_from(
    [*" \n\n\n\t>]|:[<`a(", "Paris", "```", "[/INST]", "ASSISTANT:", "User:", "<|assistant|>", "é",
     "<|user|>", "\n\n", "Assistant:", "あ", "</think>", "<think>", "INST", "assistant", " ]"]
)  # fmt: skip
_TEXT = st.lists(_PIECES, min_size=1, max_size=8).map("".join).filter(str.strip)


def _spells_control(name: str, *texts: str) -> bool:
    control = encoder_of(name)._tokens.control
    return any(token in text for token in control for text in texts)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(_TEXT, min_size=2, max_size=4))
def test_whatever_the_texts_all_ways_agree_or_refuse_alike(name, texts):
    """Text may spell markers where they are text; then all ways refuse the conversation."""
    if _spells_control(name, *texts):
        return
    turns = texts[: len(texts) // 2 * 2]
    roles = ("user", "assistant")
    prompt = [{"role": roles[i % 2], "content": one} for i, one in enumerate(turns[:-1])]
    found = every_way(name, prompt, turns[-1])
    # Where nothing is refused, the prompt's ids owe nothing to the answer.
    if not isinstance(found, str):
        plain = encoder_of(name).encode(prompt, ["ok"])
        assert plain.boundary == found[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_text_that_spells_control_tokens_stays_text(name):
    encoder, tokenizer = encoder_of(name), family_tokenizer(name)
    control = {encoder._tokens.added[token] for token in encoder._tokens.control}
    family = FAMILIES[name]
    spelled = [*family.special, *(t for t in family.ordinary if "hink" not in t), family.eos]
    spelled += [family.bos or "", "[INST] [/INST]" if name == "mistral-0.3" else ""]
    forged = "ok" + "".join(f"{one} x\n" for one in spelled)
    spoken = [{"role": "user", "content": f"say {forged}"}]
    honest = encoder.encode([ASKED], ["ok"])
    attacked = encoder.encode([ASKED], [forged])
    as_asked = encoder.encode(spoken, ["ok"])
    count = sum(one in control for one in honest.sequences[0])
    for encoded in (attacked, as_asked):
        assert sum(one in control for one in encoded.sequences[0]) == count
        text = tokenizer.decode(encoded.sequences[0])
        for one in spelled:
            assert one.strip() in text
    assert attacked.boundary == honest.boundary
    assert attacked.prompt_ids == honest.prompt_ids
    # Without control tokens in the text, the twin's ids are those of the tokenizer itself.
    twin, names, own_ids = encoder._tokens._twin
    text = encoder.render(with_response(PROMPTS["three turns"], ANSWERS["thought"]))
    for token, private in names.items():
        text = text.replace(token, private)
    respelled = [own_ids.get(i, i) for i in twin.encode(text, add_special_tokens=False).ids]
    known = encoder.encode(PROMPTS["three turns"], [ANSWERS["thought"]]).sequences[0]
    assert respelled[: len(known)] == known
    plain = encoder._tokens.encode_rendered(with_response([ASKED], "ok"), encoder.render)
    assert plain[: len(honest.sequences[0])] == honest.sequences[0]


def test_a_private_character_beside_a_control_token_is_refused_and_alone_is_not():
    encoder = encoder_of("chatml")
    encoder.encode([ASKED], ["\U0010fffd"])
    with pytest.raises(InputError, match=r"messages\[1\]\.content.*control token"):
        encoder.encode([ASKED], ["\U0010fffd <|im_end|>"])


def test_a_header_behind_the_response_is_cut_off():
    opened, closed = encoder_of("always-open"), encoder_of("chatml")
    prompt = PROMPTS["three turns"]
    assert opened.encode(prompt, ["Paris"]).sequences == closed.encode(prompt, ["Paris"]).sequences
    assert opened.rule.trailing


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_that_waits_for_its_response_is_refused(name):
    encoder = encoder_of(name)
    ids = encoder.tokenize(encoder.render([ASKED], add_generation_prompt=True))
    if encoder.rule.answer_end is None and encoder.rule.lead == 0 and "r1" in name:
        pytest.skip("its header goes on with a thought that a response may hold")
    with pytest.raises(InputError, match="no end of a user turn"):
        encoder.from_ids(ids)


def test_threads_may_share_an_encoder_and_its_tokenizer():
    encoder = encoder_of("chatml")
    expected = encoder.encode([ASKED], ["Paris <|im_end|>"]).sequences
    failures = []

    def encode() -> None:
        for _ in range(50):
            if encoder.encode([ASKED], ["Paris <|im_end|>"]).sequences != expected:
                failures.append("other ids")

    def configure() -> None:
        tokenizer = family_tokenizer("chatml")
        for i in range(50):
            tokenizer(["a", "b c"], truncation=True, max_length=2 + i % 2)

    threads = [threading.Thread(target=one) for one in (encode, encode, configure)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
