"""Risk: what a score is worth when the head that gave it may be wrong.

The best of many responses is the one whose score errs most upwards: the more candidates, and the
less like the rated rows, the more of the winner's score is error.  The head's posterior is Gaussian
and the score linear in it, so the cautious score is exact.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, ValidationError, model_validator

from armorm.errors import RecipeError
from armorm.settings import Options, describe_problems


class Risk(Options):
    """Price of the head's own uncertainty: give one of the two.

    The deviation is epistemic: that of the predicted score, without the noise of raters.  Between
    responses to one prompt only differences matter, and the error that they share cancels; there it
    is the deviation of the difference from the responses' mean.

    Args:
        aversion: See the field.
        **settings: The other field.

    Raises:
        RecipeError: A value that cannot be used.

    Example:
        >>> import numpy as np
        >>> Risk(1.0)
        Risk(aversion=1.0)
        >>> Risk(kl=0.05).price(np.array([0.1])).round(6)
        array([0.1])
    """

    aversion: Annotated[float, Field(strict=True, ge=0)] | None = None
    """Deviations taken off the score: ``mean - aversion * deviation``."""
    kl: Annotated[float, Field(strict=True, gt=0)] | None = None
    """Strength beta of a penalty on the divergence from the policy: ``mean - deviation**2 / (2
    beta)``, the score of a policy that is robust to the posterior."""

    def __init__(self, aversion: Any = None, **settings: Any) -> None:
        try:
            super().__init__(**{"aversion": aversion, **settings})
        except ValidationError as error:
            problems = "; ".join(describe_problems(error, Risk))
            raise RecipeError(f"Risk cannot be used: {problems}") from None

    @model_validator(mode="after")
    def _check_together(self) -> Risk:
        if (self.aversion is None) == (self.kl is None):
            raise ValueError("give aversion or kl.")
        return self

    def __repr__(self) -> str:
        return f"Risk({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    @classmethod
    def of(cls, risk: Risk | float | None) -> Risk | None:
        """Return the risk that a number (an aversion) or nothing stands for."""
        return risk if risk is None or isinstance(risk, Risk) else cls(float(risk))

    def as_dict(self) -> dict[str, float]:
        """Return the setting that is given, JSON-ready."""
        return self.model_dump(exclude_none=True)

    def price(self, deviation: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return what is taken off scores of these deviations.

        Raises:
            RecipeError: It is more than a score can hold.
        """
        price: Float[np.ndarray, " n"]
        with np.errstate(over="ignore"):
            if self.kl is not None:
                price = deviation**2 / (2 * self.kl)
            else:
                assert self.aversion is not None
                price = self.aversion * deviation
            fits = bool(np.isfinite(price.astype(np.float32)).all())
        if not fits:
            raise RecipeError(
                f"{self!r}: takes more off a score than a number holds. Ask for less."
            )
        return price
