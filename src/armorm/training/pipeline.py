"""Training from a recipe to a model folder, through both stages of the paper.

Each stage reads the files of the earlier ones in the run folder, so each can be run alone::

    pretrain_stage   ->  pretrained/    where the recipe has a section ``pretraining``
    finetune_stage   ->  finetuned/     where ``head.method`` is ``finetune``
    features_stage   ->  features/rated, features/preferences, held_out_pairs.jsonl, data.json
    fit_head_stage   ->  head/
    fit_gate_stage   ->  model/, metrics.json, report.html
"""

from __future__ import annotations

from pathlib import Path

from armorm.features import Process
from armorm.training.feature_stage import features_stage, read_data
from armorm.training.gate_stage import TrainingResult, fit_gate_stage
from armorm.training.head_stage import fit_head_stage
from armorm.training.recipe import Recipe
from armorm.training.run_backbone import load_backbone
from armorm.training.run_folder import RunFolder
from armorm.training.tuning.finetuning import finetune_stage
from armorm.training.tuning.pretraining import pretrain_stage


def train(recipe: Recipe, output: str | Path, *, show_progress: bool = False) -> TrainingResult:
    """Train a reward model: the backbone if asked, features, stage 1, debiasing and stage 2.

    An interrupted run of the same recipe is resumed.  All that the recipe and the data determine
    is checked before the first feature is computed.

    Args:
        recipe: Everything that the run depends on.
        output: Run folder; the model is written to ``output/model``, the figures to
            ``output/metrics.json`` and ``output/report.html``.
        show_progress: Draw progress bars on standard error.

    Raises:
        ArmormError: The data are bad or too few, the backbone is unusable, or ``output`` holds
            another run, is in use by another process or cannot be written.

    Example:
        >>> from armorm import Recipe, train
        >>> small = ["data.rated.0.limit=300", "data.preferences.0.limit=200", "gate.steps=20"]
        >>> result = train(Recipe.load("recipes/quickstart.yaml", small), "runs/small")
        >>> result.metrics.as_dict()["accuracy"]["gate"] > 0.5
        True
        >>> result.model.objectives.names[0]
        'helpdesk-correctness'
    """
    Process.current().require_alone()
    run = RunFolder.of(output)
    with run.locked("training"):
        data = read_data(recipe, run, show_progress=show_progress)
        if recipe.pretraining is not None:
            pretrain_stage(recipe, run, data=data, show_progress=show_progress)
        if recipe.head.method == "finetune":
            finetune_stage(recipe, run, data=data, show_progress=show_progress)
        # One backbone for both stages, unless another engine computes the features.
        shared = recipe.backbone.engine == "transformers"
        backbone = load_backbone(recipe, run) if shared else None
        features_stage(recipe, run, backbone=backbone, data=data, show_progress=show_progress)
        fit_head_stage(recipe, run)
        return fit_gate_stage(recipe, run, backbone=backbone, show_progress=show_progress)
