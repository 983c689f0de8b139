"""Train a policy with TRL's GRPO against an ArmoRM reward.

    pip install 'armorm' trl
    python examples/trl_grpo.py --model MODEL --policy POLICY --prompts prompts.jsonl -o runs/grpo

--components trains on components in place of the score, with GDPO's normalisation. One per
objective (``contributions``, ``rewards``) loses the gate: GDPO divides each by its deviation within
a prompt's group, where the gate's coefficients are constant. ``gate_weighted`` and ``whitened``
keep it, and have deviation 1, so that they mix with rewards of other kinds; see
docs/integrations.md.

``prompts.jsonl`` holds rows of ``{"prompt": [{"role": "user", "content": "…"}]}``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from armorm import RewardModel, Steering
from armorm.integrations import ComponentKind, trl_reward_funcs


def reward_functions(arguments: argparse.Namespace) -> list[Any]:
    """What GRPO is given: functions over our model, or the exported model itself."""
    if arguments.exported:
        # `import armorm` above is what lets this load without remote code.
        return [AutoModelForSequenceClassification.from_pretrained(arguments.model)]
    model = RewardModel.from_pretrained(arguments.model)
    if arguments.steer:
        model = model.steer(Steering.parse(arguments.steer))
    return trl_reward_funcs(model, components=arguments.components, risk=arguments.risk)


def train(arguments: argparse.Namespace, **settings: Any) -> GRPOTrainer:
    """Run GRPO; ``settings`` override the configuration."""
    aggregation = "normalize_then_sum" if arguments.components else "sum_then_normalize"
    config = GRPOConfig(
        output_dir=str(arguments.output),
        max_steps=arguments.steps,
        logging_steps=1,
        multi_objective_aggregation=aggregation,
        **settings,
    )
    trainer = GRPOTrainer(
        model=arguments.policy,
        reward_funcs=reward_functions(arguments),
        args=config,
        train_dataset=load_dataset("json", data_files=str(arguments.prompts), split="train"),
    )
    trainer.train()
    return trainer


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="ArmoRM folder or hub id")
    parser.add_argument("--policy", required=True, help="language model to train")
    parser.add_argument("--prompts", required=True, type=Path, help="JSON lines")
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--steer", action="append", default=[], help="objective=factor …")
    parser.add_argument("--risk", type=float, help="deviations taken off every score")
    kind = parser.add_mutually_exclusive_group()
    kinds = get_args(ComponentKind)
    kind.add_argument("--components", choices=kinds, help="GDPO on components of this kind")
    kind.add_argument("--exported", action="store_true", help="hand TRL the model itself")
    return parser.parse_args(words)


if __name__ == "__main__":
    train(parse())
