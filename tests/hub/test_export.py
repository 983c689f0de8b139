"""An exported folder as its users see it: transformers alone, or with this package imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GemmaConfig,
    GemmaModel,
    GPT2Config,
    GPT2Model,
    Qwen2Config,
    Qwen2Model,
    pipeline,
)

from armorm import Backbone, Objective, ObjectiveSet, RewardModel
from armorm.hub.modeling_armorm import RewardModelWithGating
from tests.tiny import TEMPLATES, save_tiny_released, tiny_tokenizer
from tests.tiny_models import conversation, make_heads

TEXTS = ["Paris", "Lyon , very long answer one two three four five", "ok", "a b c d e"]

BLOG_DEMO = """
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
device = {device!r}
path = {path!r}
model = AutoModelForSequenceClassification.from_pretrained(path, device_map=device,
                               trust_remote_code=True, torch_dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)
prompt = 'What are some synonyms for the word "beautiful"?'
response = "Nicely, Beautifully, Handsome, Stunning, Wonderful, Gorgeous, Pretty, Stunning, Elegant"
messages = [{{"role": "user", "content": prompt}},
           {{"role": "assistant", "content": response}}]
input_ids = tokenizer.apply_chat_template(messages, return_tensors="pt").to(device)
with torch.no_grad():
   output = model(input_ids)
   multi_obj_rewards = output.rewards.cpu().float()
   gating_output = output.gating_output.cpu().float()
   preference_score = output.score.cpu().float()
obj_transform = model.reward_transform_matrix.data.cpu().float()
multi_obj_coeffs = gating_output @ obj_transform.T
assert torch.isclose(torch.sum(multi_obj_rewards * multi_obj_coeffs, dim=1), preference_score, atol=1e-3)
K = 3
top_obj_dims = torch.argsort(torch.abs(multi_obj_coeffs), dim=1, descending=True,)[:, :K]
top_obj_coeffs = torch.gather(multi_obj_coeffs, dim=1, index=top_obj_dims)
attributes = ['helpsteer-helpfulness','helpsteer-correctness','helpsteer-coherence',
   'helpsteer-complexity','helpsteer-verbosity','ultrafeedback-overall_score',
   'ultrafeedback-instruction_following', 'ultrafeedback-truthfulness',
   'ultrafeedback-honesty','ultrafeedback-helpfulness','beavertails-is_safe',
   'prometheus-score','argilla-overall_quality','argilla-judge_lm','code-complexity',
   'code-style','code-explanation','code-instruction-following','code-readability']
example_index = 0
for i in range(K):
   attribute = attributes[top_obj_dims[example_index, i].item()]
   coeff = top_obj_coeffs[example_index, i].item()
   print(f"{{attribute}}: {{round(coeff,5)}}")
helpsteer_rewards_pred = multi_obj_rewards[0, :5] * 5 - 0.5
print(helpsteer_rewards_pred)
"""  # noqa: E501 (the authors' post, with only the device and the path filled in)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> RewardModel:
    folder = tmp_path_factory.mktemp("released")
    save_tiny_released(folder)
    return RewardModel.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    model.save_pretrained(folder)
    return folder


def without_armorm(program: str, tmp_path: Path) -> str:
    """Run a program in a process that cannot import this package."""
    guard = "import sys; sys.modules['armorm'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_of_the_authors_post_runs_unchanged(exported, tmp_path):
    printed = without_armorm(BLOG_DEMO.format(device="cpu", path=str(exported)), tmp_path)
    assert len([line for line in printed.splitlines() if ": " in line]) == 3
    assert "tensor(" in printed


def test_without_this_package_it_scores_the_same_or_refuses(model, exported, tmp_path):
    program = f"""
    import json
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path, texts = {str(exported)!r}, {TEXTS!r}
    try:
        AutoModelForSequenceClassification.from_pretrained(path)
        raise SystemExit("loaded without the gate")
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(path, trust_remote_code=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompt = [{{"role": "user", "content": "what is the capital of France ?"}}]
    texts = [
        tokenizer.apply_chat_template(
            [*prompt, {{"role": "assistant", "content": text}}], tokenize=False
        )
        for text in texts
    ]
    tokenizer.pad_token = tokenizer.eos_token
    found = {{}}
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            output = model(**batch)
        assert output.logits.shape == (len(texts), 1)
        assert torch.equal(output.logits[:, 0], output.score)
        found[side] = output.score.tolist()
    print("\\n" + json.dumps(found))
    """
    found = json.loads(without_armorm(program, tmp_path).splitlines()[-1])
    expected = model.score([conversation(text) for text in TEXTS]).score.tolist()
    assert found["left"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found["right"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def loaded(exported) -> RewardModelWithGating:
    """With this package imported, the same call needs no remote code."""
    return AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def batch_of(tokenizer, texts=TEXTS, side="right"):
    tokenizer.padding_side = side
    rendered = [tokenizer.apply_chat_template(conversation(t), tokenize=False) for t in texts]
    return tokenizer(rendered, padding=True, add_special_tokens=False, return_tensors="pt")


@torch.no_grad()
def test_the_output_has_the_released_fields(model, loaded, tokenizer):
    assert type(loaded) is RewardModelWithGating
    output = loaded(**batch_of(tokenizer))
    expected = model.score([conversation(text) for text in TEXTS])
    options = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(output.rewards, expected.rewards, **options)
    torch.testing.assert_close(output.gating_output, expected.gating, **options)
    torch.testing.assert_close(output.score, expected.score, **options)
    assert output.logits.shape == (4, 1)
    assert output.prompt_embedding.shape == output.hidden_state.shape == (4, 32)
    torch.testing.assert_close(output.prompt_embedding[0], output.prompt_embedding[1], **options)
    assert set(loaded.config.id2label.values()) == set(model.objectives.names)
    assert loaded.config.hidden_size == 32
    assert len(loaded(**batch_of(tokenizer), return_dict=False)) == 6


@torch.no_grad()
def test_bfloat16_keeps_the_heads_in_float32(model, exported, tokenizer):
    low = AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.bfloat16)
    assert low.regression_layer.weight.dtype == low.gating.layers[0].weight.dtype == torch.float32
    assert low.model.embed_tokens.weight.dtype == torch.bfloat16
    expected = model.score([conversation(text) for text in TEXTS])
    scale = expected.contributions.abs().sum(dim=1)
    assert ((low(**batch_of(tokenizer)).score - expected.score).abs() <= 0.05 * scale).all()


@torch.no_grad()
def test_what_would_score_silently_wrong_is_refused(loaded, tokenizer):
    batch = batch_of(tokenizer)
    loaded.config.pad_token_id = tokenizer.eos_token_id
    with pytest.raises(ValueError, match="Pass attention_mask"):
        loaded(batch["input_ids"])
    single = batch_of(tokenizer, TEXTS[:1])["input_ids"]
    torch.testing.assert_close(loaded(single).score, loaded(**batch).score[:1])
    loaded.config.pad_token_id = 0
    padded = torch.nn.functional.pad(single, (2, 3), value=0)
    torch.testing.assert_close(loaded(padded).score, loaded(single).score)
    prompt = tokenizer.apply_chat_template(
        [*conversation("ok"), {"role": "user", "content": "hello"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    with pytest.raises(ValueError, match="add_generation_prompt"):
        loaded(prompt)
    with pytest.raises(ValueError, match=r"Rows \[1\]"):
        loaded(torch.cat([single, torch.full_like(single, 7)]))
    with pytest.raises(ValueError, match="not inputs_embeds"):
        loaded(inputs_embeds=torch.zeros(1, 2, 32))


@torch.no_grad()
def test_a_bos_that_the_tokenizer_adds_before_the_templates_own_is_left_out(loaded, tokenizer):
    batch = batch_of(tokenizer, side="left")
    bos = torch.full((len(TEXTS), 1), tokenizer.bos_token_id)
    single = batch_of(tokenizer, TEXTS[:1])["input_ids"]
    doubled = torch.cat([bos[:1], single], dim=1)
    expected = loaded(**batch).score
    torch.testing.assert_close(loaded(doubled).score, expected[:1], rtol=1e-4, atol=1e-5)
    # The same behind padding on the left.
    rows = [row[mask.bool()] for row, mask in zip(*batch.values(), strict=True)]
    width = max(map(len, rows)) + 1
    ids, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) - 1 :] = torch.cat([bos[0], row])
        mask[i, width - len(row) - 1 :] = 1
    found = loaded(ids, attention_mask=mask).score
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_text_classification_pipeline_gives_the_score_unsquashed(loaded, tokenizer):
    classify = pipeline("text-classification", model=loaded, tokenizer=tokenizer)
    text = tokenizer.apply_chat_template(conversation("Paris"), tokenize=False)
    with torch.no_grad():
        expected = float(loaded(**batch_of(tokenizer, ["Paris"])).score)
    assert classify(text)[0]["score"] == pytest.approx(expected, abs=1e-5)


def test_a_missing_tensor_is_never_made_up(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    del tensors["gating.layers.1.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"gating\.layers\.1\.bias.*never initialised"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")


@torch.no_grad()
def test_saved_by_transformers_it_loads_everywhere_again(loaded, tokenizer, tmp_path):
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_armorm.py").exists()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again", num_labels=1)
    batch = batch_of(tokenizer)
    torch.testing.assert_close(again(**batch).score, loaded(**batch).score)
    assert again.config.boundary_pattern == loaded.config.boundary_pattern


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
FAMILIES = {
    "gemma": (
        "gemma",
        lambda size: GemmaModel(GemmaConfig(vocab_size=size, head_dim=8, **SIZES, **HEADS)),
    ),
    "qwen2": (
        "chatml",
        lambda size: Qwen2Model(
            Qwen2Config(
                vocab_size=size, rope_theta=1234.0, use_sliding_window=False, **SIZES, **HEADS
            )
        ),
    ),
    "gpt2": (
        "chatml",
        lambda size: GPT2Model(
            GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=256)
        ),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_any_decoder_family_is_exported(family, tmp_path):
    template, build = FAMILIES[family]
    spec = TEMPLATES[template]
    torch.manual_seed(0)
    build(spec.size).save_pretrained(tmp_path / "b")
    tiny_tokenizer(spec).save_pretrained(tmp_path / "b")
    backbone = Backbone.from_pretrained(tmp_path / "b", dtype="float32", device="cpu")
    model = RewardModel(backbone, make_heads())
    model.save_pretrained(tmp_path / "m")
    expected = model.score([conversation(text) for text in TEXTS]).score
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.pad_token = tokenizer.eos_token
    for side in ("left", "right"):
        found = loaded(**batch_of(tokenizer, side=side)).score
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    native = RewardModel.from_pretrained(tmp_path / "m", device="cpu", dtype="float32")
    again = native.score([conversation(text) for text in TEXTS]).score
    torch.testing.assert_close(again, expected)


def test_importing_the_package_does_not_import_transformers():
    program = (
        "import sys, armorm; assert 'transformers' not in sys.modules;"
        "import transformers; transformers.AutoModelForSequenceClassification;"
        "assert 'armorm' in transformers.AutoConfig.for_model('armorm').model_type"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_card_says_what_the_model_is(model, tmp_path):
    model.save_pretrained(tmp_path / "m", license_id="llama3")
    card = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.license == "llama3"
    assert card.data.library_name == "transformers"
    assert "reward-model" in card.data.tags
    for name in model.objectives.names:
        assert name in card.text
    assert "not probabilities" in card.text
    assert "trust_remote_code=True" in card.text


def test_the_card_of_a_trained_model_has_its_figures_and_data(tiny_backbone, tmp_path):
    heads = make_heads()
    heads.debiasing.update({"objective": "verbosity", "penalties": {"tone": 0.25}})
    heads.training.update(
        {
            "metrics": {
                "accuracy": {"gate": 0.875},
                "methods": {
                    "gate": {
                        "all": {"accuracy": 0.875, "low": 0.74, "high": 0.945},
                        "shorter_won": {"accuracy": 0.5, "low": 0.3, "high": 0.7},
                        "longer_won": {"accuracy": None, "low": None, "high": None},
                        "mcnemar_p": None,
                    },
                    "length": {"mcnemar_p": 0.0004},
                },
                "pairs": {"held_out": 40},
            },
            "recipe": {
                "data": {
                    "rated": [{"dataset": "nvidia/HelpSteer"}],
                    "preferences": [{"path": "/home/someone/pairs.jsonl"}],
                }
            },
        }
    )
    RewardModel(tiny_backbone, heads).save_pretrained(tmp_path / "m")
    card = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.datasets == ["nvidia/HelpSteer"]
    assert card.data.eval_results[0].metric_value == 0.875
    assert "| gate | 87.5 (74.0–94.5) | 50.0 (30.0–70.0) | – | – |" in card.text
    assert "| length | – | – | – | < 0.001 |" in card.text
    assert "| 0.250 |" in card.text
    assert "the file `pairs.jsonl`" in card.text
    assert "/home/someone" not in card.content
    assert "Not stated" in card.text


def test_push_to_hub_uploads_the_folder_only_when_asked(model, tmp_path, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append(("create", repo_id, private))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            names = {file.name for file in Path(folder_path).iterdir()}
            calls.append(("upload", repo_id, names))
            return "https://huggingface.co/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model.save_pretrained(tmp_path / "m")
    assert calls == []
    assert model.push_to_hub("someone/armorm") == "https://huggingface.co/commit"
    assert calls[1] == ("create", "someone/armorm", True)
    assert calls[2][1] == "someone/armorm"
    assert {"README.md", "armorm.json", "modeling_armorm.py", "model.safetensors"} <= calls[2][2]


def test_the_config_is_the_decoders_with_the_gates_beside_it(exported):
    config = AutoConfig.from_pretrained(exported)
    assert config.model_type == "armorm"
    assert config.backbone_model_type == "llama"
    assert config.backbone_config.rope_parameters["rope_theta"] == 10000.0
    with pytest.raises(AttributeError):
        _ = config.no_such_setting


def test_names_from_data_are_shown_on_the_card_and_never_act(tiny_backbone, tmp_path):
    hostile = "<script>alert(1)</script>\n# x | ![p](http://a/b.png) `c` *d*"
    objectives = ObjectiveSet(
        [Objective(name=hostile, dataset=hostile), Objective(name="safe_1"), Objective(name="v")]
    )
    heads = make_heads(objectives=objectives)
    heads.debiasing.update({"objective": hostile, "penalties": {hostile: 0.5}})
    section = {"dataset": f"{hostile}\n---\nlicense: mit"}
    heads.training.update({"recipe": {"data": {"rated": [section]}}})
    RewardModel(tiny_backbone, heads).save_pretrained(tmp_path / "m")
    card = huggingface_hub.ModelCard.load(tmp_path / "m" / "README.md")
    for markup in ("<script", "![p]", "\n# x", "`c`", "*d*", "| !"):
        assert markup not in card.text
    assert "&lt;script&gt;" in card.text
    assert card.data.license is None
    rows = [line for line in card.text.splitlines() if line.startswith("| ") and "0 to" in line]
    assert [row.count("|") for row in rows] == [6, 6, 6]
    assert "safe_1" in card.text
