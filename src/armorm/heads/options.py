"""Options of the two stages and of the debiasing: the recipe's sections are these classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from armorm.settings import Options

Correlation = Literal["spearman", "pearson"]
Measure = Literal["objective", "tokens", "characters"]
Negative = Literal["keep", "solve"]
Treatment = Literal["dropped", "kept"]
Precision = Literal["float32", "tf32", "bfloat16"]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that every generator in use accepts."""

PAPER_ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""The nine penalties of the published method, 1e-4 … 1e4."""


class HeadOptions(Options):
    """Options of stage 1, the ridge regression of every objective.

    Example:
        >>> HeadOptions(alphas=(0.1, 1.0)).folds
        5
    """

    alphas: tuple[NonNegativeFloat, ...] = Field(default=PAPER_ALPHAS, min_length=1)
    """Penalties to choose from, per objective; 0 gives the minimum-norm solution."""
    folds: int = Field(default=5, ge=2, le=20)
    """Parts of the training prompts that the penalty is cross-validated on. The head is then
    fitted on all of them."""
    prefixes: bool = False
    """Fit on beginnings of the responses too, with the ratings of the whole, each read at its last
    token. A response counts as one row however many it has. For credit per token
    (docs/token-credit.md)."""
    prefix_cuts: int = Field(default=4, ge=1, le=64)
    """Beginnings of each response, where they are fitted on, drawn by the recipe's seed."""
    uncertainty: bool = True
    """Keep with the model what its uncertainty is computed from: 2 d (d + 1) bytes for each group
    of objectives that share their rows and penalty, and once more."""


class DebiasingOptions(Options):
    """Options of the debiasing: which objective is subtracted from the others, and how much.

    Example:
        >>> DebiasingOptions(objective="helpsteer-verbosity").correlation
        'spearman'
    """

    objective: str | None = None
    """Objective that is subtracted: the rated verbosity, or where there is none a computed length;
    null keeps the rewards as they are."""
    correlation: Correlation = "spearman"
    """Kind of correlation that is brought to zero: spearman or pearson."""
    measured_by: Measure = "objective"
    """Measure of the confounder in the correlation: the predicted reward of the objective (the
    paper's), or the length of each response in tokens or characters."""
    confounder: Treatment = "dropped"
    """Treatment of the objective itself: dropped from the score (the paper's), or kept, so that the
    gate can weigh it, and its reverse, by prompt; all others are debiased in either case."""
    negative: Negative = "keep"
    """Treatment of a correlation that is not positive to begin with: keep the reward (the
    published practice), or solve for a negative penalty."""
    reference: tuple[str, ...] | None = None
    """Sources of the preference data that make up the reference set; default all."""

    @model_validator(mode="after")
    def _kept_needs_an_objective(self) -> DebiasingOptions:
        if self.confounder == "kept" and self.objective is None:
            raise ValueError("confounder: kept needs debiasing.objective, the one to keep")
        return self


class GateOptions(Options):
    """Options of stage 2, the gate.

    The defaults are for up to some ten thousand pairs: a small gate that cannot do worse than fixed
    weights beyond noise.  The paper's gate, for a million pairs, is ``hidden_dim=1024, n_hidden=3,
    beta=100, steps=10_000, batch_size=1024, folds=0, shrinkage="none"``.

    Example:
        >>> GateOptions(steps=500).folds
        5
    """

    hidden_dim: int = Field(default=256, ge=1, le=65_536)
    """Width of the hidden layers, of each fold's gate."""
    n_hidden: int = Field(default=1, ge=0, le=64)
    """Number of hidden layers; 0 gives a linear gate."""
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6)
    """Divisor of the logits before the softmax."""
    beta: float | None = Field(default=None, ge=1e-6, le=1e6)
    """Scale of the Bradley–Terry model at the start; it is learned. Default: half of what suits
    fixed weights; a steeper start leaves the gate's choice of objectives blurred."""
    learning_rate: PositiveFloat = Field(default=1e-3, le=100)
    """Learning rate of AdamW, with cosine decay to zero."""
    weight_decay: NonNegativeFloat = Field(default=0.01, le=100)
    """Weight decay of AdamW."""
    steps: int = Field(default=1000, ge=1, le=10**9)
    """Gradient steps, at most."""
    batch_size: int = Field(default=256, ge=1, le=10**9)
    """Preference pairs in one step."""
    precision: Precision = "float32"
    """Precision of the matrix products: float32, tf32 (GPU) or bfloat16. The weights, the softmax
    and the loss stay in float32."""
    compile: bool = False
    """Compile the network with torch.compile; pays on a GPU."""
    folds: int = Field(default=5, ge=0, le=100)
    """Parts of the training prompts. A gate is trained without each part, keeps the weights of the
    step that does best on it, and the gates are averaged into one of that many times the width. 0
    trains one gate on all pairs and keeps the last step, as the paper does."""
    shrinkage: Literal["auto", "none"] = "auto"
    """Shrinkage of the gate's logits towards those of fixed weights: auto chooses how much on the
    pairs that each fold's gate has not seen, none keeps the gate as it is."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between points of the training curve; default a fortieth of all."""
    patience: int | None = Field(default=5, ge=1)
    """Points of the curve without a better validation loss after which training stops; null never
    stops early. Without folds there is no validation loss."""
    seeds: int = Field(default=1, ge=1, le=1000)
    """Number of gates trained with different seeds to report the spread; the first is kept."""
    report_to: Literal["none", "tensorboard"] = "none"
    """Receiver of the training curve besides metrics.json."""

    @model_validator(mode="after")
    def _check_folds(self) -> GateOptions:
        if self.folds == 1:
            raise ValueError("folds: 1 leaves nothing to train on; set 2 or more, or 0 for none")
        if self.shrinkage == "auto" and self.folds == 0:
            raise ValueError("shrinkage: auto needs folds of 2 or more; with folds: 0, set none")
        return self
