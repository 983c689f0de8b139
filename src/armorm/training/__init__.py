"""Recipes: a YAML file in, a model folder out."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.training.feature_stage import features_stage
    from armorm.training.gate_stage import TrainingResult, fit_gate_stage
    from armorm.training.head_stage import fit_head_stage
    from armorm.training.head_updates import (
        head_errors,
        merge_heads,
        remove_licence,
        update_head,
    )
    from armorm.training.influence import head_influence, label_suspects
    from armorm.training.layers_stage import compare_layers
    from armorm.training.pipeline import train
    from armorm.training.prepared_recipe import prepare_data
    from armorm.training.recipe import Recipe
    from armorm.training.recipe_file import shipped_recipes
    from armorm.training.run_folder import RunFolder
    from armorm.training.tuning.finetuning import finetune_stage
    from armorm.training.tuning.pairwise import pairwise_stage
    from armorm.training.tuning.pretraining import pretrain_stage

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        # A recipe is checked without waiting for torch.
        "armorm.training.feature_stage": ("features_stage",),
        "armorm.training.gate_stage": (
            "TrainingResult",
            "fit_gate_stage",
        ),
        "armorm.training.head_stage": ("fit_head_stage",),
        "armorm.training.head_updates": (
            "head_errors",
            "merge_heads",
            "remove_licence",
            "update_head",
        ),
        "armorm.training.influence": (
            "head_influence",
            "label_suspects",
        ),
        "armorm.training.layers_stage": ("compare_layers",),
        "armorm.training.pipeline": ("train",),
        "armorm.training.prepared_recipe": ("prepare_data",),
        "armorm.training.recipe": ("Recipe",),
        "armorm.training.recipe_file": ("shipped_recipes",),
        "armorm.training.run_folder": ("RunFolder",),
        "armorm.training.tuning.finetuning": ("finetune_stage",),
        "armorm.training.tuning.pairwise": ("pairwise_stage",),
        "armorm.training.tuning.pretraining": ("pretrain_stage",),
    },
)

__all__ = [
    "Recipe",
    "RunFolder",
    "TrainingResult",
    "compare_layers",
    "features_stage",
    "finetune_stage",
    "fit_gate_stage",
    "fit_head_stage",
    "head_errors",
    "head_influence",
    "label_suspects",
    "merge_heads",
    "pairwise_stage",
    "prepare_data",
    "pretrain_stage",
    "remove_licence",
    "shipped_recipes",
    "train",
    "update_head",
]
