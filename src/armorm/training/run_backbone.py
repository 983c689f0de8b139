"""Loading of a run's backbone: the recipe's, or the one that the run has trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from armorm.features import Backbone, FeatureBackbone, load_engine
from armorm.features.pooled import PooledExtraction
from armorm.jobs.pools import Workers, ray_pool
from armorm.training.recipe import Recipe
from armorm.training.run_folder import RunFolder
from armorm.training.tuning.folders import backbone_folder


def load_backbone(recipe: Recipe, run: str | Path | RunFolder) -> Backbone:
    """Load the backbone that features are read from: the recipe's, or the one that was trained.

    Raises:
        StoreError: The recipe trains the backbone and the run has not done so yet.
    """
    backbone = Backbone.from_pretrained(backbone_folder(recipe, run), recipe.backbone)
    backbone.name = recipe.backbone.model
    return backbone


@contextmanager
def feature_engine(
    recipe: Recipe, run: str | Path | RunFolder, backbone: FeatureBackbone | None = None
) -> Iterator[FeatureBackbone]:
    """Load the recipe's engine and close it at the end; a given backbone is used as it is."""
    if backbone is not None:
        yield backbone
        return
    with closing(load_engine(backbone_folder(recipe, run), recipe.backbone)) as engine:
        yield engine


@contextmanager
def extraction_on_ray(
    recipe: Recipe, output: str | Path, workers: Workers
) -> Iterator[PooledExtraction]:
    """Yield a function that extracts features on Ray, for :func:`features_stage`.

    The recipe's engine runs in each worker.  The output folder must be on a disk that all workers
    see under the same name.

    Raises:
        MissingExtraError: Ray is not installed.
        ArmormError: The cluster cannot be reached, or the backbone cannot be loaded.
    """
    folder = str(backbone_folder(recipe, RunFolder.of(output)))
    with ray_pool(workers) as pool:
        yield PooledExtraction(pool, folder, recipe.backbone)
