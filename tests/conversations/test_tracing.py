"""Tokens of a response find the text that they stand for, whatever the tokenizer makes of it."""

from __future__ import annotations

import pytest

from armorm.conversations import ConversationEncoder
from tests.templates import FAMILIES, family_tokenizer
from tests.tiny import TEMPLATES, tiny_tokenizer

PROMPT = [{"role": "user", "content": "Who?"}]
RESPONSES = [
    "Paris and Lyon.",
    "a",
    "é😀 日本 and é",
    "one\n\n- two\n\n```\ncode\n```",
    "a <|eot_id|> b<|im_end|>c </s> d",
    "user\nassistant\n\nuser",
]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_pieces_join_to_the_response_and_ids_are_the_encoders(family):
    encoder = ConversationEncoder(family_tokenizer(family))
    for response in RESPONSES:
        encoded, traced = encoder.trace(PROMPT, response)
        assert encoded == encoder.encode(PROMPT, [response])
        assert traced.text == response
        assert "".join(traced.pieces) == response
        ids = encoded.sequences[0]
        assert len(traced.pieces) == len(ids) - traced.first
        closing = len(ids) - traced.closing
        assert all(not piece for piece in traced.pieces[len(traced.pieces) - traced.closing :])
        # Whole characters of text that a token stands for alone are what it decodes to.
        for token, piece in zip(ids[traced.first : closing], traced.pieces, strict=False):
            alone = encoder.tokenizer.decode([token])
            if piece.strip() and "\ufffd" not in alone and traced.first > encoded.boundary + 1:
                assert alone.strip() in piece or piece.strip() in alone


def test_a_character_of_several_tokens_belongs_to_the_last_of_them():
    encoder = ConversationEncoder(family_tokenizer("gpt-oss"))
    encoded, traced = encoder.trace(PROMPT, "x😀y")
    assert len(encoded.sequences[0]) - traced.first - traced.closing > 3
    pieces = [piece for piece in traced.pieces if piece]
    assert pieces == ["x", "😀", "y"]
    place = traced.pieces.index("😀")
    assert place > 1
    assert traced.pieces[1:place] == ("",) * (place - 1)


def test_the_response_is_the_text_that_the_template_writes():
    spec = TEMPLATES["llama3"]
    tokenizer = tiny_tokenizer(spec)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].strip()"
    )
    encoder = ConversationEncoder(tokenizer)
    traced = encoder.trace(PROMPT, "  one two \n")[1]
    assert (traced.text, "".join(traced.pieces)) == ("one two", "one two")


def test_dropped_turns_do_not_move_the_response():
    tokenizer = tiny_tokenizer(TEMPLATES["chatml"])
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one " * 40},
        {"role": "assistant", "content": "two"},
        *PROMPT,
    ]
    encoder = ConversationEncoder(tokenizer, max_length=40, overlong="drop_oldest_turns")
    encoded, traced = encoder.trace(turns, "three four")
    assert encoded.dropped_turns == 2
    assert "".join(traced.pieces) == "three four"
    assert traced.first == encoder.response_start(encoded.boundary)
