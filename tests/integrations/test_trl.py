"""TRL's own trainers, run for some steps on tiny models against our rewards."""

from __future__ import annotations

import importlib.util
import random
import statistics
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from armorm import ArmormError, Backbone, Objective, ObjectiveSet, RewardModel
from armorm.heads import GatingNetwork
from armorm.integrations import (
    TokenCredits,
    drift_reporter,
    trl_dense_trainer,
    trl_drift_callback,
    trl_reward_funcs,
)
from armorm.model import Heads
from tests.commands import write
from tests.tiny import TinyTemplate, tiny_tokenizer

pytest.importorskip("trl")

EXAMPLES = Path(__file__).parents[2] / "examples"
CHATML = TinyTemplate(
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    {"<|im_start|>": 3, "<|im_end|>": 4, "<|pad|>": 5},
    None,
    "<|im_end|>",
    None,
    224,
)
PROMPTS = ["what is the capital of France ?", "hello", "the answer please", "is a b c ok ?"]
WORDS = "Paris Lyon ok yes no one two three four five".split()  # noqa: SIM905
LONGEST = 14  # tokens of a completion
QUIET = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
GRPO = {
    **QUIET,
    "per_device_train_batch_size": 32,
    "num_generations": 8,
    "max_completion_length": LONGEST,
    "learning_rate": 8e-3,
    "lr_scheduler_type": "constant",
    "seed": 0,
}


def load_example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(**sizes) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=CHATML.size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=4,
        pad_token_id=5,
        **sizes,
    )


def conversation(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def random_response(generator: random.Random) -> str:
    words = 1 + min(int(generator.expovariate(0.5)), 5)
    return " ".join(generator.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A tiny language model that answers with one to six words and then stops."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(hidden_size=32))
    tokenizer = tiny_tokenizer(CHATML, pad_token="<|pad|>")
    generator = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        texts = [
            tokenizer.apply_chat_template(
                conversation(generator.choice(PROMPTS), random_response(generator)), tokenize=False
            )
            for _ in range(16)
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory) -> Path:
    """A reward model that likes `Paris`, and, being un-debiased, length.

    Its two objectives are regressed on a random backbone's features, as any are: the share of
    words that are `Paris`, and the number of words. The gate weighs both the same.
    """
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(1)
    LlamaForCausalLM(config(hidden_size=64, initializer_range=0.2)).model.save_pretrained(folder)
    tiny_tokenizer(CHATML, pad_token="<|pad|>").save_pretrained(folder)
    backbone = Backbone.from_pretrained(folder, dtype="float32", device="cpu")
    generator = random.Random(1)
    prompts = [generator.choice(PROMPTS) for _ in range(1500)]
    responses = [random_response(generator) for _ in prompts]
    encoded = [
        backbone.encoder.encode([{"role": "user", "content": prompt}], [response])
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    features = backbone.features(encoded).responses.double()
    words = [response.split() for response in responses]
    ratings = torch.tensor(
        [[w.count("Paris") / len(w), len(w) / 6] for w in words], dtype=torch.float64
    )
    gram = features.T @ features + 0.1 * torch.eye(64, dtype=torch.float64)
    weight = torch.linalg.solve(gram, features.T @ ratings).T.float()
    gate = GatingNetwork(64, 2, 8, 1)
    for parameter in gate.parameters():
        parameter.data.zero_()
    gate.logit_scale.data.fill_(1.0)
    objectives = ObjectiveSet([Objective(name="paris"), Objective(name="verbosity")])
    heads = Heads(objectives, weight, torch.eye(2), gate.eval().requires_grad_(False))
    RewardModel(backbone, heads).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def prompts(tmp_path) -> Path:
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS * 8]
    return write(tmp_path / "prompts.jsonl", rows)


def run_grpo(reward, policy, prompts, output, steps, *extra):
    example = load_example("trl_grpo")
    words = ["--model", reward, "--policy", policy, "--prompts", prompts, "-o", output]
    arguments = example.parse([str(w) for w in [*words, "--steps", steps, *extra]])
    return example.train(arguments, **GRPO).state.log_history


def course(history: list[dict], name: str) -> list[float]:
    return [entry[name] for entry in history if name in entry]


def test_grpo_raises_the_reward_and_steering_against_verbosity_shortens_answers(
    reward_folder, policy, prompts, tmp_path
):
    steps = 40
    biased = run_grpo(reward_folder, policy, prompts, tmp_path / "biased", steps)
    steered = run_grpo(
        reward_folder, policy, prompts, tmp_path / "steered", steps, "--steer", "verbosity=-1"
    )
    lengths = {}
    for name, history in (("biased", biased), ("steered", steered)):
        rewards = course(history, "rewards/armorm/mean")
        assert len(rewards) == steps
        assert statistics.mean(rewards[-5:]) > statistics.mean(rewards[:3]) + 0.05
        lengths[name] = statistics.mean(course(history, "completions/mean_length")[-5:])
    assert lengths["steered"] < lengths["biased"] / 2
    assert course(biased, "armorm/verbosity")[-1] > course(biased, "armorm/verbosity")[0]


def test_grpo_takes_one_reward_per_objective(reward_folder, policy, prompts, tmp_path):
    kind = ("--components", "contributions")
    history = run_grpo(reward_folder, policy, prompts, tmp_path, 2, *kind)
    assert len(course(history, "rewards/paris/mean")) == 2
    assert len(course(history, "rewards/verbosity/mean")) == 2


def test_a_drift_monitor_is_saved_in_checkpoints_and_resumed_exactly(
    reward_folder, policy, prompts, tmp_path
):
    example = load_example("trl_grpo")
    words = ["--model", reward_folder, "--policy", policy, "--prompts", prompts, "-o", tmp_path]
    arguments = example.parse([str(word) for word in [*words, "--steps", 2]])
    model = RewardModel.from_pretrained(reward_folder, device="cpu", dtype="float32")
    with drift_reporter(model) as reporter:
        example.trl_reward_funcs = lambda *_, **__: trl_reward_funcs(model, monitor=reporter)
        trainer = example.train(arguments, **{**GRPO, "save_strategy": "steps", "save_steps": 1})
    assert reporter.monitor.steps == 2
    assert course(trainer.state.log_history, "armorm/drift_alarms") == [0, 0]
    callback = trl_drift_callback(reporter)
    callback.on_save(trainer.args, trainer.state, None)
    with drift_reporter(model) as again:
        trl_drift_callback(again).on_train_begin(trainer.args, trainer.state, None)
        assert again.monitor.state() == reporter.monitor.state()
    trainer.state.global_step = 1  # a checkpoint without a monitor's state
    with pytest.raises(ArmormError, match="without this monitor"):
        callback.on_train_begin(trainer.args, trainer.state, None)


def test_gdpo_on_one_gate_weighted_component_orders_groups_as_the_score_does(
    reward_folder, policy, prompts, tmp_path
):
    example = load_example("trl_grpo")
    scores: list[float] = []

    def with_record(model, components, **_):
        (component,), (plain,) = (
            trl_reward_funcs(model, components=kind) for kind in (components, None)
        )

        def gate_weighted(prompts, completions, **columns):
            scores.extend(plain(prompts, completions))
            return component(prompts, completions, **columns)

        return [gate_weighted]

    example.trl_reward_funcs = with_record
    words = ["--model", reward_folder, "--policy", policy, "--prompts", prompts, "-o", tmp_path]
    kind = ["--steps", 1, "--components", "gate_weighted"]
    trainer = example.train(example.parse([str(word) for word in [*words, *kind]]), **GRPO)
    advantages = torch.tensor(list(trainer._logs["advantages"])).view(-1, 8)
    for group, score in zip(advantages, torch.tensor(scores).view(-1, 8), strict=True):
        assert spearmanr(group, score).statistic >= 0.99
    shares = [
        course(trainer.state.log_history, f"armorm/share/{name}")[0]
        for name in ("paris", "verbosity")
    ]
    assert sum(shares) == pytest.approx(1.0)


def test_grpo_takes_the_exported_model_itself(reward_folder, policy, prompts, tmp_path):
    by_function = run_grpo(reward_folder, policy, prompts, tmp_path / "a", 1)
    by_model = run_grpo(reward_folder, policy, prompts, tmp_path / "b", 1, "--exported")
    found = course(by_model, f"rewards/{reward_folder.name}/mean")
    assert found == pytest.approx(course(by_function, "rewards/armorm/mean"), abs=1e-4)


def test_online_dpo_takes_the_reward_functions(reward_folder, policy, prompts, tmp_path):
    example = load_example("trl_online_dpo")
    words = ["--model", reward_folder, "--policy", policy, "--prompts", prompts, "-o", tmp_path]
    arguments = example.parse([str(word) for word in [*words, "--steps", "2"]])
    settings = {**QUIET, "per_device_train_batch_size": 4, "max_new_tokens": 8, "max_length": 64}
    trainer = example.train(arguments, **settings, logging_steps=1)
    assert trainer.state.global_step == 2


def test_reward_trainer_reads_our_pairs(reward_folder, policy, tmp_path):
    from armorm.integrations import annotate_file, write_pairs

    rows = [{"prompt": text, "responses": ["Paris", "no no no", "ok"]} for text in PROMPTS]
    model = RewardModel.from_pretrained(reward_folder, device="cpu", dtype="float32")
    annotate_file(model, write(tmp_path / "in.jsonl", rows), tmp_path / "annotated.jsonl")
    summary = write_pairs(tmp_path / "annotated.jsonl", tmp_path / "pairs.jsonl")
    assert summary.pairs == len(PROMPTS)
    example = load_example("trl_reward_trainer")
    words = ["--base", policy, "--pairs", tmp_path / "pairs.jsonl", "-o", tmp_path, "--steps", 2]
    arguments = example.parse([str(word) for word in words])
    trainer = example.train(arguments, **QUIET, logging_steps=1)
    assert trainer.state.global_step == 2
    assert "margin" in trainer.train_dataset.column_names


def test_grpo_trains_on_advantages_per_token(reward_folder, policy, prompts, tmp_path):
    model = RewardModel.from_pretrained(reward_folder)
    example = load_example("trl_grpo")
    seen: list[torch.Tensor] = []

    class Recording(example.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            seen.append(inputs["advantages"])
            return super()._compute_loss(model, inputs)

    tokenizer = AutoTokenizer.from_pretrained(policy)
    credits = TokenCredits(model, tokenizer, start=False)
    example.GRPOTrainer = trl_dense_trainer(Recording, credits)
    words = ["--model", reward_folder, "--policy", policy, "--prompts", prompts, "-o", tmp_path]
    arguments = example.parse([str(word) for word in [*words, "--steps", 2]])
    history = example.train(arguments, **GRPO, reward_weights=[0.0]).state.log_history
    assert len(course(history, "loss")) == 2
    assert len(course(history, "rewards/armorm/mean")) == 2
    assert seen[0].shape[0] == 32
    assert seen[0].dim() == 2
    assert all(row.unique().numel() > 1 for row in seen[0])
