"""Samples of a policy, their text in its template, and the model's scores of them."""

from __future__ import annotations

import pytest

from armorm.conversations.messages import with_response
from tests.tiny import TEMPLATES, tiny_tokenizer
from tests.tiny_models import PROMPT

HELLO = [{"role": "user", "content": "hello"}]
TURNS = [*PROMPT, {"role": "assistant", "content": "Paris"}, {"role": "user", "content": "ok ?"}]
PROMPTS = [PROMPT, HELLO, PROMPT, TURNS]
TEXTS = ["Paris", "yes , ok", "Lyon , very long answer", ""]


def rendered(prompts, texts, template):
    """Return prompts and whole conversations, as a policy with this template reads and writes."""
    tokenizer = tiny_tokenizer(TEMPLATES[template])
    asked = [
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    answers = [f"{text}{tokenizer.eos_token}" for text in texts]
    return asked, [a + b for a, b in zip(asked, answers, strict=True)]


def scored(model, prompts=PROMPTS, texts=TEXTS):
    """Return the model's own answers, one conversation at a time."""
    encode = model.backbone.encoder.encode
    return [
        model.score_encoded([encode(prompt, [text])])
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def scores(model, prompts=PROMPTS, texts=TEXTS):
    return [float(one.score[0]) for one in scored(model, prompts, texts)]


def vectors(model, prompts=PROMPTS, texts=TEXTS):
    """Return rewards, gating coefficients and the score of each conversation."""
    return [
        [*one.rewards[0].tolist(), *one.gating[0].tolist(), float(one.score[0])]
        for one in scored(model, prompts, texts)
    ]


def whole(prompt, text):
    return with_response(prompt, text)


def close(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-6)
