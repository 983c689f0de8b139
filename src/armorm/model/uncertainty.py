"""Uncertainty of a model's head, in a folder of its own inside the model folder.

It is read on first use, so that plain scoring does not wait for it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from armorm.errors import ArmormError, CheckpointError, StoreError
from armorm.files import write_atomically
from armorm.heads import HeadUncertainty
from armorm.heads.uncertainty import fingerprint_of_weight
from armorm.hub import UNCERTAINTY_FILE
from armorm.model.answers import RewardUncertainty


class ModelUncertainty:
    """Uncertainty of a model's rewards, read from the model folder on first use.

    Args:
        source: The statistics, or the file that holds them.
    """

    def __init__(self, source: HeadUncertainty | Path) -> None:
        self._source = source
        self._belongs_to: Tensor | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> ModelUncertainty | None:
        """Return the uncertainty that a model folder holds, not yet read, or ``None``."""
        return cls(folder / UNCERTAINTY_FILE) if (folder / UNCERTAINTY_FILE).is_file() else None

    @cached_property
    def head(self) -> HeadUncertainty:
        """Statistics of the rated rows.

        Raises:
            StoreError: The file is damaged.
        """
        if isinstance(self._source, HeadUncertainty):
            return self._source
        try:
            return HeadUncertainty.from_bytes(self._source.read_bytes())
        except StoreError as error:
            raise StoreError(f"{self._source}: {error}") from error

    def mirrored(self, column: int, weight: Float[np.ndarray, "k hidden"]) -> ModelUncertainty:
        """Return the uncertainty of a head with the reverse of an objective at its end."""
        return ModelUncertainty(self.head.mirrored(column, weight))

    def check_belongs(self, weight: Float[Tensor, "k hidden"]) -> None:
        """Raise CheckpointError unless it was fitted with this regression layer."""
        if self._belongs_to is weight:  # hashing it for every answer would be slow
            return
        if self.head.weight_sha256 != fingerprint_of_weight(weight.numpy()):
            raise CheckpointError(
                f"{UNCERTAINTY_FILE} belongs to another regression layer than the model's. Run "
                "`armorm fit-gate` again, or delete it to score without uncertainty."
            )
        self._belongs_to = weight

    def of(
        self, features: Float[Tensor, "n hidden"], coefficients: Float[Tensor, "n k"]
    ) -> RewardUncertainty:
        """Return the uncertainty of n responses.

        Args:
            features: Features of the responses.
            coefficients: Weights of the rewards in the score.
        """
        inputs, weights = _finite(features), _finite(coefficients)
        leverages = self.head.leverages(inputs)
        epistemic = self.head.epistemic(leverages)
        deviations = self.head.with_noise(epistemic)
        score_epistemic = self.head.score_epistemic(leverages, weights)
        score = np.hypot(self.head.score_noise(weights), score_epistemic)
        factors = np.nan if self.head.conformal is None else self.head.conformal
        return RewardUncertainty(
            deviations=torch.from_numpy(deviations).float(),
            epistemic=torch.from_numpy(epistemic).float(),
            half_widths=torch.from_numpy(deviations * factors).float(),
            score=torch.from_numpy(score).float(),
            score_epistemic=torch.from_numpy(score_epistemic).float(),
            novelty=torch.from_numpy(self.head.novelty(inputs)).float(),
            usual_novelty=self.head.usual_novelty,
        )

    def of_scores(
        self, features: Float[Tensor, "n hidden"], coefficients: Float[Tensor, "n k"]
    ) -> Float[np.ndarray, " n"]:
        """Return the epistemic standard deviation of scores, or of differences of scores.

        Args:
            features: Features of responses, or differences of features.
            coefficients: Weights of the rewards in the score.

        Raises:
            ArmormError: An objective that counts has no deviation, since too few rows rate it.
        """
        weights = _finite(coefficients)
        if bool((np.isnan(self.head.noise) & (weights != 0)).any()):
            raise ArmormError(
                "An objective that counts in the score is rated by too few rows for a deviation, "
                "so the score has none either. Rate more rows, or steer its weight to 0."
            )
        leverages = self.head.leverages(_finite(features))
        return self.head.score_epistemic(leverages, weights)

    def save(self, folder: Path) -> None:
        """Write it into a model folder."""
        write_atomically(folder / UNCERTAINTY_FILE, self.head.to_bytes())


def _finite(values: Float[Tensor, "n columns"]) -> Float[np.ndarray, "n columns"]:
    """Return the rows in float64, 0 where one is not finite: LAPACK stops at NaN."""
    finite = values.isfinite().all(dim=1, keepdim=True)
    rows: Float[np.ndarray, "n columns"] = torch.where(finite, values, 0.0).double().cpu().numpy()
    return rows


def no_uncertainty() -> ArmormError:
    """Return the error for a model folder without uncertainty."""
    return ArmormError(
        f"The model has no {UNCERTAINTY_FILE}, so it cannot say how sure it is. It is written by "
        "`armorm train` unless the recipe says `head.uncertainty: false`, or the ratings are too "
        "few (head/head.json says so); the released checkpoint has none."
    )


def group_differences(
    features: Float[Tensor, "n hidden"], groups: Int[Tensor, " n"]
) -> Float[Tensor, "n hidden"]:
    """Return features less the mean of their group; those of a group of one as they are.

    Rows that are not finite are left out of the means.
    """
    finite = features.isfinite().all(dim=1)
    count = int(groups.max()) + 1 if len(groups) else 0
    sizes = torch.bincount(groups[finite], minlength=count)
    sums = features.new_zeros(count, features.shape[1]).double()
    sums.index_add_(0, groups[finite], features[finite].double())
    means = sums / sizes.clamp(min=1)[:, None]
    alone = (sizes < 2)[groups][:, None]
    return torch.where(alone, features.double(), features.double() - means[groups])
