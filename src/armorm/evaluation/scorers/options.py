"""Options of scorers besides those of loading a model."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from armorm.settings import Options


class ScorerOptions(Options):
    """Options of the scorers that are not gated reward models.

    Example:
        >>> from armorm.evaluation.scorers import ScorerOptions
        >>> ScorerOptions(attribute_weights="helpfulness=0.65,verbosity=-0.4").attribute_weights
        {'helpfulness': 0.65, 'verbosity': -0.4}
    """

    attribute_weights: dict[str, float] = Field(default_factory=dict)
    """Weights of the labels of a classifier with several, as NAME=WEIGHT,NAME=WEIGHT; a label that
    is not named counts nothing."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that a server may take for one request."""
    retries: int = Field(default=6, ge=0)
    """Further tries when a server does not answer or is overloaded."""
    concurrency: int = Field(default=8, ge=1)
    """Requests to a server at the same time."""
    template: str | None = None
    """Folder or hub id of the model whose chat template renders the text for a server that takes
    text (/get_reward, /score)."""

    @field_validator("attribute_weights", mode="before")
    @classmethod
    def _parse_weights(cls, value: Any) -> Any:
        """Read NAME=WEIGHT,NAME=WEIGHT, also as a list of such texts."""
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple):
            return value
        parts = [part.partition("=") for text in texts for part in str(text).split(",")]
        if not all(name and separator for name, separator, _ in parts):
            raise ValueError("write it as NAME=WEIGHT,NAME=WEIGHT.")
        return {name.strip(): weight for name, _, weight in parts}
