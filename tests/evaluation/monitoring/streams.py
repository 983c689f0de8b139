"""Streams of scored responses with planted changes."""

from __future__ import annotations

import numpy as np

from armorm.evaluation.monitoring import DriftMonitor, MonitorOptions, Observation

OBJECTIVES = ("helpful", "correct", "courteous")


def step(random: np.random.Generator, number: int, *, move=(0.0, 0.0, 0.0), words=10, group=2):
    """Eight prompts with some responses each, which share much of their prompt's reward."""
    prompts = [f"prompt {number}.{i}" for i in range(8) for _ in range(group)]
    shared = np.repeat(random.normal(size=(8, 3)), group, axis=0)
    rewards = 0.5 + 0.1 * (shared + random.normal(size=shared.shape)) + np.array(move)
    contributions = rewards * np.array([0.5, 0.3, 0.2])
    texts = ["word " * int(words * random.uniform(0.5, 1.5)) for _ in prompts]
    novelty = random.gamma(20, 1 / 20, len(prompts))
    score = contributions.sum(axis=1)
    return Observation(tuple(prompts), tuple(texts), score, rewards, contributions, novelty)


def monitor(**options) -> DriftMonitor:
    return DriftMonitor(
        OBJECTIVES, MonitorOptions(**options), novelty=True, usual_novelty=1.6, model="model"
    )


def run(watch: DriftMonitor, steps: int, *, seed=0, first=0, change=None, **moved) -> DriftMonitor:
    random = np.random.default_rng([seed, first])
    for number in range(first, first + steps):
        changed = moved if change is not None and number >= change else {}
        watch.observe(step(random, number, **changed))
    return watch
