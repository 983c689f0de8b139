"""Random heads with three objectives, and conversations for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from armorm import (
    Backbone,
    Objective,
    ObjectiveSet,
    RewardModel,
    RidgeStatistics,
    fit_reward_head,
)
from armorm.heads import GatingNetwork, HeadOptions, HeadUncertainty, fit_uncertainty
from armorm.model import Heads, ModelUncertainty

OBJECTIVES = ObjectiveSet(
    [
        Objective(name="tone", minimum=0, maximum=4, unit_zero=-0.5, unit_one=4.5),
        Objective(name="safe", dataset="panel"),
        Objective(name="verbosity", minimum=0, maximum=4, direction="neutral"),
    ]
)
PROMPT = [{"role": "user", "content": "what is the capital of France ?"}]


def make_heads(hidden: int = 32, seed: int = 0, objectives: ObjectiveSet = OBJECTIVES) -> Heads:
    """Return random heads; the third objective is taken out of all others."""
    torch.manual_seed(seed)
    k = len(objectives)
    transform = torch.eye(k)
    transform[2] -= torch.linspace(0.1, 0.9, k)
    gate = GatingNetwork(hidden, k, 16, 2, temperature=2.0).eval().requires_grad_(False)
    return Heads(objectives, 0.1 * torch.randn(k, hidden), transform, gate, beta=7.0)


def conversation(
    response: str, prompt: Sequence[Mapping[str, str]] = PROMPT
) -> list[Mapping[str, str]]:
    """Return the prompt with one answer."""
    return [*prompt, {"role": "assistant", "content": response}]


def make_rated_model(backbone: Backbone) -> tuple[RewardModel, HeadUncertainty, np.ndarray]:
    """Return a model whose head is fitted on the features of random answers; the features too."""
    generator = np.random.default_rng(0)
    words = ["a", "b", "c", "d", "e", "one", "two", "three", "four", "yes", "no", "thanks"]
    rows = [conversation(" ".join(generator.choice(words, 4))) for _ in range(150)]
    encoded = [backbone.encoder.encode(row[:-1], [row[-1]["content"]]) for row in rows]
    features = backbone.features(encoded).responses.double().numpy()
    statistics = RidgeStatistics(32, 3)
    statistics.update(features, generator.random((150, 3)))
    head = fit_reward_head(statistics, HeadOptions(alphas=(1.0,)))
    uncertainty = fit_uncertainty(statistics, head)
    uncertainty = uncertainty.with_usual_novelty(uncertainty.novelty(features))
    heads = replace(make_heads(), weight=torch.from_numpy(head.weight.astype(np.float32)))
    model = RewardModel(backbone, heads, uncertainty=ModelUncertainty(uncertainty))
    return model, uncertainty, features
