"""The confounder of a model, length as a rule: how much of a score or a preference it is.

Debiasing splits a score exactly.  With c the coefficients, v the confounder, v' its reverse (where
it is kept) and lambda the penalties of the others::

    sum_i c_i r_i = sum_{i not v, v'} c_i (r_i - lambda_i r_v) + L r_v
    L = c_v - c_v' + sum_{i not v, v'} lambda_i c_i

The first part is the debiased rest.  L is all that the score has of the confounder beyond it,
whatever the steering: without any it is g_v - g_v' where the confounder is kept, and 0 where it is
dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from armorm.objectives import ObjectiveSet


@dataclass(frozen=True, slots=True)
class Confounder:
    """The objective that debiasing takes out of all others.

    Attributes:
        name: Its name.
        column: Its column.
        mirror: Column of its reverse; ``None`` where the confounder is dropped.
        penalties: lambda of the other objectives, 0 for itself and its reverse. Shape (k,).
    """

    name: str
    column: int
    mirror: int | None
    penalties: Float[Tensor, " k"]

    @classmethod
    def of(cls, objectives: ObjectiveSet, transform: Float[Tensor, "k k"]) -> Confounder | None:
        """Return the confounder of a debiasing transform; ``None`` if it debiases nothing."""
        mirrors = [(i, one.mirrors) for i, one in enumerate(objectives) if one.mirrors is not None]
        emptied = (transform.diagonal() == 0).nonzero()[:, 0].tolist()
        mirror: int | None = None
        if mirrors:
            mirror, name = mirrors[0]
            column = objectives.column(name)
        elif len(emptied) == 1:
            column = emptied[0]
        else:
            return None
        penalties = -transform[column].double()
        penalties[column] = 0.0
        if mirror is not None:
            penalties[mirror] = 0.0
        return cls(objectives.names[column], column, mirror, penalties)

    @property
    def columns(self) -> list[int]:
        """Columns of the confounder and its reverse."""
        return [self.column] if self.mirror is None else [self.column, self.mirror]

    def coefficient(self, coefficients: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Return L, the weight of the confounder's reward beside the debiased rest."""
        coefficients = coefficients.double()
        weight = coefficients[:, self.column] + coefficients @ self.penalties
        return weight if self.mirror is None else weight - coefficients[:, self.mirror]
