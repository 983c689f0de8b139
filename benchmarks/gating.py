"""Stage 2: a training step of the published loop and of ours, on the same pairs in one run::

    python benchmarks/gating.py --features 4096

The published loop evaluates the gate on both responses' copies of the prompt, multiplies both
hidden states with the regression weights in every step, and uses dropout.  Held-out accuracy is
compared after the same number of steps on pairs whose deciding objective hangs on the prompt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from armorm.heads import GateOptions, GateTraining, RewardPairs, fit_gate
from armorm.heads.gating import margins
from armorm.heads.options import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

OBJECTIVES = 19


class Pairs(NamedTuple):
    """What the published loop holds: hidden states of prompts, chosen and rejected responses."""

    prompts: Tensor
    chosen: Tensor
    rejected: Tensor
    weight: Tensor


def main(
    features: int = 4096,
    pairs: int = 6000,
    steps: int = 12,
    accuracy_steps: int = 150,
    batch_size: int = 1024,
    device: str = "cpu",
) -> None:
    """Compare the published step and ours in float32 and with bfloat16 products."""
    data, ours = planted_pairs(pairs, features, device)
    held = torch.arange(len(ours)) >= 0.8 * pairs
    training, held_out = ours.where(~held.numpy()), ours.where(held.numpy())

    def train(steps: int, precision: Precision) -> GateTraining:
        options = GateOptions(
            hidden_dim=1024,
            n_hidden=3,
            steps=steps,
            batch_size=batch_size,
            precision=precision,
            folds=0,
            shrinkage="none",
        )
        return fit_gate(training, options, device=device)

    ways: dict[str, Callable[[int], object]] = {
        "published": lambda n: published_loop(data, n, batch_size, ~held),
        "ours_float32": lambda n: train(n, "float32"),
        "ours_bfloat16": lambda n: train(n, "bfloat16"),
    }
    seconds = {name: _step_seconds(run, steps) for name, run in ways.items()}
    accuracies = {
        "published": _accuracy(published_loop(data, accuracy_steps, batch_size, ~held), held_out),
        **{
            f"ours_{precision}": _accuracy(train(accuracy_steps, precision).gate, held_out)
            for precision in PRECISIONS
        },
    }
    result = {
        "features": features,
        "batch_size": batch_size,
        "step_ms": {name: 1e3 * value for name, value in seconds.items()},
        "ratio": {name: seconds["published"] / value for name, value in seconds.items()},
        "paper_run_minutes": {name: 10_000 * value / 60 for name, value in seconds.items()},
        "held_out_accuracy": accuracies,
    }
    print(json.dumps(_rounded(result), indent=2))


def planted_pairs(pairs: int, features: int, device: str) -> tuple[Pairs, RewardPairs]:
    """Pairs whose deciding objective is written in the prompt's hidden state."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OBJECTIVES, features, generator=generator) / features**0.5
    deciding = torch.randint(0, OBJECTIVES, (pairs,), generator=generator)
    prompts = torch.randn(pairs, features, generator=generator)
    prompts[:, :OBJECTIVES] += 8 * functional.one_hot(deciding, OBJECTIVES)
    chosen = torch.randn(pairs, features, generator=generator)
    rejected = torch.randn(pairs, features, generator=generator)
    differences = (chosen - rejected) @ weight.T
    wrong = differences[torch.arange(pairs), deciding] < 0
    chosen[wrong], rejected[wrong] = rejected[wrong].clone(), chosen[wrong].clone()
    data = Pairs(*(t.to(device) for t in (prompts, chosen, rejected, weight)))
    return data, RewardPairs(prompts, torch.arange(pairs), (chosen - rejected) @ weight.T)


def published_loop(data: Pairs, steps: int, batch_size: int, training: Tensor) -> nn.Module:
    """The published way: both sides through gate and regression, dropout, plain AdamW."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = data.prompts.shape[1]
    for _ in range(3):
        layers += [nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.2)]
        width = 1024
    gate = nn.Sequential(*layers, nn.Linear(width, OBJECTIVES), nn.Softmax(dim=-1))
    gate.to(data.prompts.device)
    beta = nn.Parameter(torch.tensor(10.0, device=data.prompts.device))
    optimizer = torch.optim.AdamW([*gate.parameters(), beta], lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    prompts = torch.stack([data.prompts, data.prompts], dim=1)  # one copy a response, as published
    responses = torch.stack([data.chosen, data.rejected], dim=1)
    rows = torch.nonzero(training)[:, 0].to(prompts.device)
    for _ in range(steps):
        batch = rows[torch.randint(0, len(rows), (batch_size,), device=rows.device)]
        coefficients = gate(prompts[batch].flatten(0, 1))
        rewards = responses[batch].flatten(0, 1) @ data.weight.T
        scores = (coefficients * rewards).sum(dim=-1).view(-1, 2)
        loss = -functional.logsigmoid(beta * (scores[:, 0] - scores[:, 1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return gate.eval()


def _step_seconds(run: Callable[[int], object], steps: int) -> float:
    """Seconds of one step: of a long run less those of a short one, so that setting up is out."""
    run(2)
    differences = []
    for _ in range(3):
        started = time.perf_counter()
        run(2)
        short = time.perf_counter() - started
        started = time.perf_counter()
        run(2 + steps)
        differences.append((time.perf_counter() - started - short) / steps)
    return min(differences)


@torch.no_grad()
def _accuracy(gate: nn.Module, held_out: RewardPairs) -> float:
    return float((margins(gate.cpu(), held_out) > 0).float().mean())


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    typer.run(main)
