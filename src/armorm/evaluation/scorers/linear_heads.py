"""Linear heads on the features of a backbone as scorers: prompts are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt
from armorm.evaluation.scorers.base import Answered, Scored, Scorer, score_encoded_rows
from armorm.features import FeatureBackbone, merge_prompts
from armorm.files import sha256_of_json


class LinearHeadScorer(Scorer):
    """Linear functions of the state at the last token: ``scores = coefficients . (W f + b)``.

    Args:
        backbone: The model that the features are read from.
        weight: W. Shape (outputs, features).
        bias: b; default zero. Shape (outputs,).
        coefficients: Weights of the outputs by name; ``None`` for a single output that is the
            score.
        name: Name in tables.
        kind: Name of the sort of model, for :attr:`identity`.
    """

    def __init__(
        self,
        backbone: FeatureBackbone,
        weight: Float[Tensor, "outputs features"],
        bias: Float[Tensor, " outputs"] | None = None,
        coefficients: Mapping[str, float] | None = None,
        *,
        name: str,
        kind: str,
    ) -> None:
        self.backbone = backbone
        self.weight = weight.double()
        self.bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
        self.objectives = tuple(coefficients or ())
        self.coefficients = np.array([*coefficients.values()] if coefficients else [1.0])
        self.name = name
        self.kind = kind

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The backbone, and a hash of the head."""
        encoder = self.backbone.encoder
        head = [self.weight.tolist(), self.bias.tolist(), self.coefficients.tolist()]
        return {
            "kind": self.kind,
            "backbone": self.backbone.identity,
            "head_sha256": sha256_of_json([self.objectives, *head]),
            "max_length": encoder.max_length,
            "overlong": encoder.overlong,
        }

    def score(self, rows: Sequence[Answered]) -> list[Scored]:
        """Score rows, each prompt computed once for all its responses."""
        return score_encoded_rows(self.backbone.encoder, rows, self._score)

    @torch.inference_mode()
    def outputs(self, encoded: Sequence[EncodedPrompt]) -> npt.NDArray[np.float64]:
        """Return W f + b of all responses, prompt by prompt. Shape (responses, outputs)."""
        # Equal conversations tie bit by bit, since each is computed once.
        merged = merge_prompts(encoded)
        features = self.backbone.features(merged.prompts).responses.double()
        found: npt.NDArray[np.float64] = (features @ self.weight.T + self.bias).numpy()
        return found[list(merged.response_numbers)]

    def _score(self, encoded: list[EncodedPrompt]) -> list[Scored]:
        return scored_outputs(
            self.outputs(encoded),
            [len(one.sequences) for one in encoded],
            self.coefficients,
            named=bool(self.objectives),
        )

    def close(self) -> None:
        """Release the backbone."""
        self.backbone.close()


def scored_outputs(
    outputs: Float[np.ndarray, "responses outputs"],
    sizes: Sequence[int],
    coefficients: Float[np.ndarray, " outputs"],
    *,
    named: bool,
) -> list[Scored]:
    """Return the scores of rows from a model's outputs for all responses.

    Args:
        outputs: Outputs, row by row.
        sizes: Number of responses of each row.
        coefficients: Weights of the outputs in the score.
        named: The outputs are objectives with names, and are kept beside the score.
    """
    found = []
    for part in np.split(outputs, np.cumsum(sizes)[:-1]):
        details = {
            "rewards": tuple(map(tuple, part.tolist())),
            "coefficients": tuple(coefficients.tolist()),
        }
        found.append(Scored.of((part @ coefficients).tolist(), **(details if named else {})))
    return found
