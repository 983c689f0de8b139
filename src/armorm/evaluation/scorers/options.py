"""Options of scorers besides those of loading a model."""

from __future__ import annotations

from typing import Any, Literal

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

    pairwise_bos: bool = True
    """Begin the question to a pairwise model as its chat template does; RLHFlow's own models are
    asked without the first token."""
    judge_mode: Literal["pairwise", "absolute"] = "pairwise"
    """Question to a judge: pairwise compares two responses in both orders, absolute rates each from
    1 to 10."""
    judge_cache: str | None = None
    """File of the judge's answers, JSON lines: what is in it is not asked again."""
    judge_max_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens of a judge's answer. Default: the server's."""
    judge_requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests to a judge in a minute. Default: no limit."""
    judge_input_price: float | None = Field(default=None, ge=0)
    """Price of a million tokens of requests, for the cost in the report."""
    judge_output_price: float | None = Field(default=None, ge=0)
    """Price of a million tokens of answers."""
    judge_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of the judge's endpoint; a server on this machine needs
    none."""

    @field_validator("attribute_weights", mode="before")
    @classmethod
    def _parse_weights(cls, value: Any) -> Any:
        """Read NAME=WEIGHT,NAME=WEIGHT, also where the first name is a key already."""
        text = value
        if isinstance(value, dict) and any(isinstance(weight, str) for weight in value.values()):
            text = ",".join(f"{name}={weight}" for name, weight in value.items())
        if not isinstance(text, str):
            return value
        parts = [part.partition("=") for part in text.split(",")]
        if not all(name and separator for name, separator, _ in parts):
            raise ValueError("write it as NAME=WEIGHT,NAME=WEIGHT.")
        return {name.strip(): weight for name, _, weight in parts}
