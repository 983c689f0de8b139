"""Sequence classifiers of transformers, against their own forward pass without padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from armorm import PreferencePair
from armorm.errors import CheckpointError, RecipeError
from armorm.evaluation.scorers import ScorerOptions, open_scorer, score_all
from armorm.evaluation.scorers.classifiers import ClassifierScorer
from armorm.evaluation.scorers.linear_heads import LinearHeadScorer
from armorm.features import BackboneOptions
from tests.tiny import TEMPLATES, save_tiny_released, tiny_tokenizer
from tests.tiny_models import PROMPT

CPU = BackboneOptions(device="cpu", dtype="float32")
PAIRS = [
    PreferencePair(tuple(PROMPT), "Paris", "Lyon please"),
    PreferencePair(tuple(PROMPT), "ok no yes very long answer", "Paris"),
    PreferencePair(({"role": "user", "content": "hello"},), "a b c", "a b c"),
]
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
ATTRIBUTES = {0: "helpfulness", 1: "correctness", 2: "verbosity"}


def save(folder: Path, model, template: str = "chatml", **tokenizer_options) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer(TEMPLATES[template], **tokenizer_options).save_pretrained(folder)
    return folder


def llama(**config) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 64}
    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=512, max_position_embeddings=128, initializer_range=0.3, **sizes, **config
        )
    )


def own_logits(folder: Path, pairs=PAIRS) -> list[list[list[float]]]:
    """Logits of transformers' own forward pass, one conversation at a time, without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = None
    tokenizer = tiny_tokenizer(TEMPLATES["chatml"])
    found = []
    for pair in pairs:
        rows = []
        for response in pair.responses:
            messages = [*pair.prompt, {"role": "assistant", "content": response}]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                rows.append(model(input_ids=ids).logits[0].tolist())
        found.append(rows)
    return found


@pytest.mark.parametrize("pad", [None, "<|im_end|>", "<unk>"])
def test_one_label_is_a_bradley_terry_score_whatever_the_padding_token(tmp_path, pad):
    folder = save(tmp_path / "rm", llama(num_labels=1), pad_token=pad)
    scorer = open_scorer(str(folder), loading=CPU)
    assert isinstance(scorer, LinearHeadScorer)  # prompts are computed once
    assert scorer.objectives == ()
    for scored, logits in zip(scorer.score(PAIRS), own_logits(folder), strict=True):
        assert scored.scores == pytest.approx([row[0] for row in logits], abs=1e-4)
    equal = scorer.score(PAIRS)[2].scores
    assert equal[0] == equal[1]
    json.dumps(scorer.identity)


def test_several_labels_are_attributes_with_given_weights(tmp_path):
    folder = save(tmp_path / "rm", llama(id2label=ATTRIBUTES))
    weights = {"helpfulness": 0.65, "verbosity": -0.4}
    scorer = open_scorer(str(folder), open_options(attribute_weights=weights), CPU)
    assert scorer.objectives == ("helpfulness", "correctness", "verbosity")
    for scored, logits in zip(scorer.score(PAIRS), own_logits(folder), strict=True):
        expected = [0.65 * row[0] - 0.4 * row[2] for row in logits]
        assert scored.scores == pytest.approx(expected, abs=1e-4)
        assert scored.rewards[0] == pytest.approx(logits[0], abs=1e-4)
        assert scored.coefficients == (0.65, 0.0, -0.4)


def open_options(**fields) -> ScorerOptions:
    return ScorerOptions.validated(fields)


def test_labels_without_weights_are_named(tmp_path):
    folder = str(save(tmp_path / "rm", llama(id2label=ATTRIBUTES)))
    with pytest.raises(
        RecipeError, match=r"helpfulness, correctness, verbosity.*--attribute-weight"
    ):
        open_scorer(folder, loading=CPU)
    with pytest.raises(RecipeError, match=r"no label 'helpfulnes'\. Did you mean 'helpfulness'"):
        open_scorer(folder, open_options(attribute_weights="helpfulnes=1"), CPU)
    with pytest.raises(RecipeError, match=r"attribute_weights.*NAME=WEIGHT"):
        open_options(attribute_weights="helpfulness")


def test_weights_are_read_from_one_flag_or_several():
    weights = {"helpfulness": 0.65, "verbosity": -0.4}
    for given in (
        weights,
        "helpfulness=0.65,verbosity=-0.4",
        {"helpfulness": "0.65,verbosity=-0.4"},
    ):
        assert open_options(attribute_weights=given).attribute_weights == weights


def test_an_encoder_runs_as_a_whole(tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=512, intermediate_size=64, num_labels=1, initializer_range=0.3, **SIZES
        )
    )
    folder = save(tmp_path / "bert", model)
    scorer = open_scorer(str(folder), loading=CPU)
    assert isinstance(scorer, ClassifierScorer)
    for scored, logits in zip(scorer.score(PAIRS), own_logits(folder), strict=True):
        assert scored.scores == pytest.approx([row[0] for row in logits], abs=1e-4)
    json.dumps(scorer.identity)


def test_gpt2_scores_as_transformers_does(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=512, n_embd=32, n_layer=2, n_head=4, num_labels=1, initializer_range=0.3
    )
    folder = save(tmp_path / "gpt2", GPT2ForSequenceClassification(config))
    scorer = open_scorer(str(folder), loading=CPU)
    for scored, logits in zip(scorer.score(PAIRS), own_logits(folder), strict=True):
        assert scored.scores == pytest.approx([row[0] for row in logits], abs=1e-4)


def test_a_score_head_that_would_be_made_up_is_refused(tmp_path):
    folder = save(tmp_path / "rm", llama(num_labels=1))
    file = folder / "model.safetensors"
    body = {name: tensor for name, tensor in load_file(file).items() if name != "score.weight"}
    save_file(body, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks score.weight.*random numbers"):
        open_scorer(str(folder), loading=CPU)


def test_a_language_model_is_no_reward_model(tmp_path):
    sizes = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 64}
    folder = save(tmp_path / "lm", LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes)))
    with pytest.raises(CheckpointError, match=r"LlamaForCausalLM without a score head.*pairwise:"):
        open_scorer(str(folder), loading=CPU)


def test_adapters_alone_are_refused(tmp_path):
    folder = save(tmp_path / "rm", llama(num_labels=1))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapters without their model"):
        open_scorer(str(folder), loading=CPU)


def test_the_released_layout_is_recognised(tmp_path):
    save_tiny_released(tmp_path / "released")
    scorer = open_scorer(str(tmp_path / "released"), loading=CPU)
    assert scorer.objectives[0] == "helpsteer-helpfulness"
    with pytest.raises(RecipeError, match="is a gated reward model"):
        open_scorer(str(tmp_path / "released"), open_options(attribute_weights="a=1"), CPU)


def test_what_is_too_long_is_counted_and_never_cut(tmp_path):
    folder = save(tmp_path / "rm", llama(num_labels=1))
    long = PreferencePair(tuple(PROMPT), "a " * 200, "b")
    found = score_all(open_scorer(str(folder), loading=CPU), [PAIRS[0], long])
    assert (len(found.rows), found.too_long) == (1, 1)
