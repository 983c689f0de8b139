"""Lower triangles on disk: half the size of the square matrix that they represent."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.floating)


def pack_triangle(square: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return the lower triangle row by row. Shape (d (d + 1) / 2,)."""
    return np.asarray(square[np.tri(len(square), dtype=bool)])


def unpack_triangle(packed: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.float64]:
    """Return the square matrix in float64, zero above the diagonal, in the order LAPACK reads."""
    square = np.zeros((size, size), order="F")
    square[np.tri(size, dtype=bool)] = packed
    return square
