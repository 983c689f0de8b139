"""Options of scorers besides those of loading a model."""

from __future__ import annotations

from pydantic import Field

from armorm.settings import Options


class ScorerOptions(Options):
    """Options of the scorers that are not gated reward models.

    Example:
        >>> from armorm.evaluation.scorers import ScorerOptions
        >>> ScorerOptions(attribute_weights={"helpfulness": 0.65}).attribute_weights
        {'helpfulness': 0.65}
    """

    attribute_weights: dict[str, float] = Field(default_factory=dict)
    """Weights of the attributes of a classifier with several labels; what is not named counts
    nothing."""
