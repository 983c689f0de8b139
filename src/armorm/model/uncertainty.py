"""The uncertainty of a model's head, in a folder of its own inside the model folder.

It is not beside the weights, because engines that serve a model take every safetensors file there
for weights.  It is read when it is first asked for, so that plain scoring does not wait for it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.errors import ArmormError, CheckpointError, StoreError
from armorm.files import write_atomically
from armorm.heads import HeadUncertainty
from armorm.heads.uncertainty import fingerprint_of_weight
from armorm.model.rewards import RewardUncertainty

PLACE = Path("uncertainty") / "head.safetensors"


class ModelUncertainty:
    """How sure a model is of its rewards; read from the model folder on first use.

    Args:
        source: The uncertainty itself, or the file that holds it.
    """

    def __init__(self, source: HeadUncertainty | Path) -> None:
        self._source = source

    @classmethod
    def in_folder(cls, folder: Path) -> ModelUncertainty | None:
        """What a model folder holds, not yet read; ``None`` where it holds none."""
        return cls(folder / PLACE) if (folder / PLACE).is_file() else None

    @cached_property
    def head(self) -> HeadUncertainty:
        """The statistics behind it.

        Raises:
            StoreError: the file is damaged.
        """
        if isinstance(self._source, HeadUncertainty):
            return self._source
        try:
            return HeadUncertainty.from_bytes(self._source.read_bytes())
        except StoreError as error:
            raise StoreError(f"{self._source}: {error} Export the model again.") from error

    def check_belongs(self, weight: Float[Tensor, "k hidden"]) -> None:
        """Raise CheckpointError unless it was fitted together with this regression layer."""
        if self.head.weight_sha256 != fingerprint_of_weight(weight.numpy()):
            raise CheckpointError(
                f"{PLACE} belongs to another regression layer than the model's. Run `armorm "
                "fit-gate` again, or delete it to score without uncertainty."
            )

    def of(
        self, features: Float[Tensor, "n hidden"], coefficients: Float[Tensor, "n k"]
    ) -> RewardUncertainty:
        """The uncertainty of n responses, from their features and the coefficients in use."""
        finite = features.isfinite().all(dim=1, keepdim=True)
        inputs = torch.where(finite, features, 0.0).double().cpu().numpy()  # LAPACK stops at NaN
        deviations = self.head.deviations(inputs)
        weights = torch.where(coefficients.isfinite(), coefficients, 0.0).double().cpu().numpy()
        score = self.head.score_deviations(deviations, weights)
        return RewardUncertainty(
            deviations=torch.from_numpy(deviations).float(),
            score=torch.from_numpy(score).float(),
            novelty=torch.from_numpy(self.head.novelty(inputs)).float(),
            usual_novelty=self.head.usual_novelty,
        )

    def save(self, folder: Path) -> None:
        """Write it into a model folder."""
        write_atomically(folder / PLACE, self.head.to_bytes())


def remove_uncertainty(folder: Path) -> None:
    """What an earlier save left must not speak of the weights that are there now."""
    (folder / PLACE).unlink(missing_ok=True)


def no_uncertainty() -> ArmormError:
    """The error of a question that this model folder cannot answer."""
    return ArmormError(
        f"The model has no {PLACE}, so it cannot say how sure it is. It is written by `armorm "
        "train` unless the recipe says `head.uncertainty: false`, or the ratings are too few "
        "(head/head.json says so); the released checkpoint has none."
    )
