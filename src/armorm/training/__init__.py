"""Recipes: a YAML file in, a model folder out."""

from armorm.training.features_stage import features_stage
from armorm.training.gate_stage import TrainingResult, fit_gate_stage
from armorm.training.head_stage import fit_head_stage
from armorm.training.head_updates import head_errors, merge_heads, update_head
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
    "shipped_recipes",
    "train",
    "update_head",
]
