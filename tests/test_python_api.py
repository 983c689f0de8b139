"""The paper from the names of ``armorm`` alone, and a gate of another shape from outside."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from armorm import Backbone, Gate, GateOptions, RewardModel, RewardPairs, fit_gate
from armorm.errors import CheckpointError
from armorm.heads.gating import margins
from armorm.model import Heads
from armorm.quickstart import QUICKSTART_OBJECTIVES

PAPER = """
import torch
from armorm import Backbone, GateOptions, RewardModel, RewardPairs, RidgeStatistics, extract_features, fit_debiasing, fit_gate, fit_reward_head
from armorm.data import DataSource, HeldOut, read_preferences, read_rated
from armorm.model import Heads
from armorm.quickstart import QUICKSTART_OBJECTIVES as objectives

source, backbone = DataSource(catalog="quickstart", limit=400), Backbone.from_pretrained("builtin", device="cpu")
rated = extract_features(read_rated([source], objectives, held_out=HeldOut()).rows, backbone, "rated", objectives=objectives)
pairs = extract_features(read_preferences([source], held_out=HeldOut()).rows, backbone, "pairs")
head = fit_reward_head(RidgeStatistics.of(rated), names=objectives.names)
debiasing = fit_debiasing(head.rewards_of(pairs, held_out=False), objectives.column("helpdesk-verbosity"))
options = GateOptions(hidden_dim=64, n_hidden=1, steps=200, batch_size=64, learning_rate=3e-3)
gate = fit_gate(RewardPairs.of(pairs, head, debiasing), options)
weight, transform = (torch.from_numpy(matrix).float() for matrix in (head.weight, debiasing.transform))
model = RewardModel(backbone, Heads(objectives, weight, transform, gate.gate, gate.beta))
model.save_pretrained("model")
"""  # noqa: E501


def test_the_paper_takes_fifteen_lines_and_nothing_of_the_training_package(tmp_path):
    assert len([line for line in PAPER.splitlines() if line]) <= 15
    check = """
    import sys
    assert not any(name.startswith("armorm.training") for name in sys.modules)
    from armorm.heads.gating import margins
    held = RewardPairs.of(pairs, head, debiasing, held_out=True)
    print(float((margins(gate.gate, held) > 0).float().mean()), len(held))
    print(model.score_responses("What is the capital of France?", ["Paris."]).score.item())
    """
    script = PAPER + textwrap.dedent(check)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    accuracy, held = map(float, result.stdout.splitlines()[0].split())
    assert held > 20
    assert accuracy > 0.6
    again = RewardModel.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    score = again.score_responses("What is the capital of France?", ["Paris."]).score.item()
    assert score == pytest.approx(float(result.stdout.splitlines()[1]), abs=1e-4)


class LowRankGate(Gate):
    """A gate that no file of the package knows: two factors and no hidden activation."""

    def __init__(self, features: int, objectives: int) -> None:
        super().__init__(temperature=2.0)
        self.down = torch.nn.Linear(features, 4, bias=False)
        self.up = torch.nn.Linear(4, objectives)

    def logits(self, prompts):
        return self.up(self.down(prompts))


def test_a_gate_of_another_shape_is_one_class_and_is_not_saved_as_the_released_one(tmp_path):
    backbone = Backbone.from_pretrained("builtin", device="cpu")
    generator = torch.Generator().manual_seed(0)
    size, objectives = backbone.identity["hidden_size"], QUICKSTART_OBJECTIVES
    prompts = torch.randn(40, size, generator=generator)
    prompt = torch.randint(0, 40, (600,), generator=generator)
    differences = torch.randn(600, len(objectives), generator=generator)
    deciding = (prompts[:, 0] > 0).long()[prompt]
    differences *= differences[torch.arange(600), deciding].sign()[:, None]
    pairs = RewardPairs(prompts, prompt, differences)
    trained = fit_gate(pairs, GateOptions(steps=300, learning_rate=0.03), gate=LowRankGate)
    assert isinstance(trained.gate, LowRankGate)
    assert (margins(trained.gate, pairs) > 0).float().mean() > 0.9
    weight = torch.randn(len(objectives), size, generator=generator)
    heads = Heads(objectives, weight, torch.eye(len(objectives)), trained.gate, trained.beta)
    model = RewardModel(backbone, heads)
    rewards = model.score_responses("What is the capital of France?", ["Paris.", "Lyon."])
    torch.testing.assert_close(rewards.gating.sum(dim=1), torch.ones(2))
    with pytest.raises(CheckpointError, match="LowRankGate"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
