"""The paper from the names of ``armorm`` alone, and a gate of another shape from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from armorm import Backbone, Gate, GateOptions, RewardModel, RewardPairs, fit_gate
from armorm.errors import CheckpointError
from armorm.heads.gating import margins
from armorm.heads.shrinkage import BlendedGate
from armorm.model import Heads
from armorm.quickstart import QUICKSTART_OBJECTIVES

README = Path("README.md").read_text("utf-8")
PAPER = re.search(r"## The paper in fifteen lines\n+```python\n(.*?)```", README, re.S)[1]


def test_the_paper_takes_fifteen_lines_and_nothing_of_the_training_package(tmp_path):
    assert len([line for line in PAPER.splitlines() if line]) <= 15
    check = """
    import sys
    assert not any(name.startswith("armorm.training") for name in sys.modules)
    from armorm.heads.gating import margins
    held = armorm.RewardPairs.of(pairs, head, debiasing, held_out=True)
    print(float((margins(gate.gate, held) > 0).float().mean()), len(held))
    model = armorm.RewardModel.of(backbone, objectives, head, debiasing, gate)
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
    options = GateOptions(steps=300, learning_rate=0.03, folds=0, shrinkage="none")
    single = fit_gate(pairs, options, gate=LowRankGate)
    assert isinstance(single.gate, LowRankGate)
    assert (margins(single.gate, pairs) > 0).float().mean() > 0.9
    options = GateOptions(steps=300, learning_rate=0.03, folds=2)
    trained = fit_gate(pairs, options, gate=LowRankGate)
    assert isinstance(trained.gate, BlendedGate)
    assert (margins(trained.gate, pairs) > 0).float().mean() > 0.7  # stopped early
    weight = torch.randn(len(objectives), size, generator=generator)
    heads = Heads(objectives, weight, torch.eye(len(objectives)), trained.gate, trained.beta)
    model = RewardModel(backbone, heads)
    rewards = model.score_responses("What is the capital of France?", ["Paris.", "Lyon."])
    torch.testing.assert_close(rewards.gating.sum(dim=1), torch.ones(2))
    with pytest.raises(CheckpointError, match="BlendedGate"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
