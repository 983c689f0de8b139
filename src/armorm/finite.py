"""The check that numbers are numbers: neither NaN nor infinite.

A hidden state that overflows in a low precision turns every number computed from it into NaN, and
NaN compares as neither smaller nor larger than anything, while ``argmax`` puts it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def nonfinite_rows(values: np.ndarray | Tensor) -> list[int]:
    """Return the positions on the first axis that hold a NaN or an infinity, in order.

    Args:
        values: Numbers with at least one axis, as an array or a tensor on any device.

    Example:
        >>> import numpy as np
        >>> nonfinite_rows(np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 1.0]]))
        [1, 2]
    """
    if isinstance(values, np.ndarray):
        mask = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        return [int(row) for row in np.flatnonzero(~mask)]
    finite = values.isfinite()[..., None].flatten(start_dim=1).all(dim=1)
    rows: list[int] = (~finite).nonzero()[:, 0].tolist()
    return rows
