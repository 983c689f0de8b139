"""Feature extraction on Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from armorm.features.pooled import PooledExtraction
from armorm.scaling.pool import Workers, ray_pool
from armorm.training.features_stage import MakeStore
from armorm.training.recipe import Recipe
from armorm.training.tuning.folders import backbone_folder


@contextmanager
def ray_extraction(recipe: Recipe, run: Path, workers: Workers) -> Iterator[MakeStore]:
    """Yield a function that extracts features on Ray, for ``features_stage``.

    The recipe's engine runs in each worker.  The output folder must be on a disk that all workers
    see under the same name.

    Raises:
        MissingExtraError: Ray is not installed.
        ArmormError: The cluster cannot be reached, or the backbone cannot be loaded.
    """
    with ray_pool(workers) as pool:
        yield PooledExtraction(pool, str(backbone_folder(recipe, run)), recipe.backbone)
