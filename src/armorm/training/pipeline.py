"""The paper's two stages, from a recipe to a model folder.

Each stage reads what the one before left in the run folder, so each can be run alone::

    pretrain_stage   ->  pretrained/    where the recipe has a section ``pretraining``
    finetune_stage   ->  finetuned/     where ``head.method`` is ``finetune``
    features_stage   ->  features/rated, features/preferences, held_out_pairs.jsonl, data.json
    fit_head_stage   ->  head/
    fit_gate_stage   ->  model/, metrics.json
"""

from __future__ import annotations

from pathlib import Path

from armorm.features import Process
from armorm.model import RewardModel
from armorm.training.features_stage import features_stage, read_data
from armorm.training.gate_stage import fit_gate_stage
from armorm.training.head_stage import fit_head_stage
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import load_backbone
from armorm.training.tuning.finetuning import finetune_stage
from armorm.training.tuning.pretraining import pretrain_stage


def train(recipe: Recipe, output: str | Path, *, show_progress: bool = False) -> RewardModel:
    """Train a reward model: the backbone where asked, features, stage 1, debiasing, stage 2.

    What an earlier, interrupted run of the same recipe left is used.

    Args:
        recipe: What to do.
        output: The run folder; the model ends up in ``output/model``, the figures in
            ``output/metrics.json``.
        show_progress: Draw progress bars on standard error.

    Raises:
        ArmormError: bad data, an unusable backbone, or leftovers of another run in ``output``.
    """
    Process.current().require_alone()
    output = Path(output)
    data = read_data(recipe, output, show_progress=show_progress)
    if recipe.pretraining is not None:
        pretrain_stage(recipe, output, data=data, show_progress=show_progress)
    if recipe.head.method == "finetune":
        finetune_stage(recipe, output, data=data, show_progress=show_progress)
    # Loaded once for both stages, unless another engine computes the features and is closed first.
    backbone = load_backbone(recipe, output) if recipe.backbone.engine == "transformers" else None
    features_stage(recipe, output, backbone=backbone, data=data, show_progress=show_progress)
    fit_head_stage(recipe, output)
    return fit_gate_stage(recipe, output, backbone=backbone, show_progress=show_progress)
