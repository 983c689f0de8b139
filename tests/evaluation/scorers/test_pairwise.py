"""Pairwise preference models: the layout, the letters, both orders, and training by TRL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from armorm import PreferencePair, Recipe
from armorm.conversations.pairwise import pairwise_question, pairwise_rows
from armorm.errors import CheckpointError
from armorm.evaluation.scorers import ScorerOptions, open_scorer, score_all
from armorm.features import BackboneOptions
from armorm.training import pairwise_stage
from tests.commands import invoke, write
from tests.tiny import TEMPLATES, save_tiny_backbone, tiny_tokenizer
from tests.tiny_models import PROMPT

CPU = BackboneOptions(device="cpu", dtype="float32")
TURNS = (
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "what ?"},
)
PAIRS = [
    PreferencePair(tuple(PROMPT), "Paris", "Lyon please"),
    PreferencePair(TURNS, "ok no", "Paris"),
]


def save_language_model(folder: Path, template: str = "llama3", positions: int = 256) -> Path:
    torch.manual_seed(0)
    spec = TEMPLATES[template]
    config = LlamaConfig(
        vocab_size=spec.size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer(spec).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("pairwise") / "model")


def own_probability(folder: Path, prompt, a: str, b: str, bos: bool = True) -> float:
    """Probability of A, by one forward pass written apart from the code."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer(TEMPLATES["llama3"])
    turns = "".join(f"\n<turn> {m['role']}\n {m['content']}" for m in prompt)
    text = f"[CONTEXT] \n{turns}\n [RESPONSE A] {a} [RESPONSE B] {b} \n"
    question = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    rendered = rendered if bos else rendered.replace(tokenizer.bos_token, "")
    ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    with torch.no_grad():
        return float(model(input_ids=ids).logits[0, -1, letters].softmax(dim=-1)[0])


@pytest.mark.parametrize("bos", [True, False])
def test_the_score_is_the_probability_of_the_letter_in_both_orders(folder, bos):
    scorer = open_scorer(f"pairwise:{folder}", ScorerOptions(pairwise_bos=bos), CPU)
    for pair, scored in zip(PAIRS, scorer.score(PAIRS), strict=True):
        first = own_probability(folder, pair.prompt, pair.chosen, pair.rejected, bos)
        second = own_probability(folder, pair.prompt, pair.rejected, pair.chosen, bos)
        expected = (first + 1 - second) / 2
        assert scored.scores == pytest.approx((expected, 1 - expected), abs=1e-5)


def test_more_responses_are_scored_by_mean_win_probabilities(folder):
    class Row:
        prompt, responses, id = tuple(PROMPT), ("Paris", "Lyon", "ok no"), ""

    scorer = open_scorer(f"pairwise:{folder}", loading=CPU)
    (scored,) = scorer.score([Row()])
    assert sum(scored.scores) == pytest.approx(1.5)
    wins = [
        scorer.score([PreferencePair(tuple(PROMPT), "Paris", other)])[0].scores[0]
        for other in ("Lyon", "ok no")
    ]
    assert scored.scores[0] == pytest.approx(sum(wins) / 2, abs=1e-5)


def test_equal_responses_have_one_half(folder):
    pair = PreferencePair(tuple(PROMPT), "Paris", "Paris")
    assert open_scorer(f"pairwise:{folder}", loading=CPU).score([pair])[0].scores == (0.5, 0.5)


def test_what_is_too_long_is_counted(tmp_path):
    short = save_language_model(tmp_path / "short", positions=128)
    long = PreferencePair(tuple(PROMPT), "a " * 60, "b")
    found = score_all(open_scorer(f"pairwise:{short}", loading=CPU), [PAIRS[0], long])
    assert (len(found.rows), found.too_long) == (1, 1)


def test_rows_for_training_have_both_orders():
    rows = pairwise_rows(PAIRS[0])
    assert [row["completion"][0]["content"] for row in rows] == ["A", "B"]
    assert rows[0]["prompt"] == pairwise_question(PROMPT, "Paris", "Lyon please")
    assert rows[1]["prompt"] == pairwise_question(PROMPT, "Lyon please", "Paris")


def test_a_backbone_without_a_language_model_head_is_refused(tmp_path):
    save_tiny_backbone(tmp_path / "body", TEMPLATES["llama3"])
    with pytest.raises(CheckpointError, match=r"lacks lm_head.weight.*train-pairwise"):
        open_scorer(f"pairwise:{tmp_path / 'body'}", loading=CPU)


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A recipe whose pairs prefer Paris; one in ten is held out."""
    names = ["hello", "what", "is", "the", "capital", "of", "France", "please", "one", "two"]
    rows = [
        {
            "prompt": f"{a} {b}",
            "chosen": "Paris",
            "rejected": "Lyon",
            "split": "test" if a == "one" else "train",
        }
        for a in names
        for b in names[:4]
    ]
    rated = [
        {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "yes"},
            ],
            "ratings": {"tone": 1},
            "split": "train",
        }
    ]
    content = {
        "objectives": [{"name": "tone", "minimum": 0, "maximum": 4}],
        "backbone": {"model": str(save_language_model(tmp_path / "lm", "chatml")), "device": "cpu"},
        "data": {
            "rated": [{"path": str(write(tmp_path / "rated.jsonl", rated))}],
            "preferences": [{"path": str(write(tmp_path / "pairs.jsonl", rows))}],
            "held_out": {"column": "split"},
        },
        "debiasing": {"objective": None},
        "pairwise": {"learning_rate": 0.01, "gradient_accumulation_steps": 2, "epochs": 2},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_language_model_is_trained_on_both_orders_of_the_training_pairs(recipe, tmp_path):
    pytest.importorskip("trl")
    run = tmp_path / "run"
    pairwise_stage(Recipe.load(recipe), run)
    rows = [json.loads(line) for line in (run / "pairwise_rows.jsonl").open()]
    assert all("one" not in row["prompt"][0]["content"].split("<turn>")[1] for row in rows)
    assert [row["completion"][0]["content"] for row in rows] == ["A", "B"] * (len(rows) // 2)
    report = json.loads((run / "pairwise" / "training.json").read_text())["report"]
    assert report["rows"] == len(rows)
    assert report["curve"][-1]["loss"] < report["curve"][0]["loss"]
    scorer = open_scorer(f"pairwise:{run / 'pairwise'}", loading=CPU)
    assert sum(scorer.score(PAIRS)[0].scores) == pytest.approx(1)


def test_rows_alone_are_written_by_the_command(recipe, tmp_path):
    invoke("train-pairwise", recipe, "-o", tmp_path / "run", "--rows-only")
    assert (tmp_path / "run" / "pairwise_rows.jsonl").exists()
    assert not (tmp_path / "run" / "pairwise").exists()
