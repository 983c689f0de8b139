"""Lower triangles on disk: half the size of the square matrix that they represent."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.floating)


def pack_triangle(square: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return the lower triangle row by row. Shape (d (d + 1) / 2,)."""
    size = len(square)
    packed = np.empty(size * (size + 1) // 2, square.dtype)
    start = 0
    for row in range(size):
        packed[start : start + row + 1] = square[row, : row + 1]
        start += row + 1
    return packed


def unpack_triangle(packed: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.float64]:
    """Return the square matrix in float64, zero above the diagonal, in the order LAPACK reads."""
    square = np.zeros((size, size), order="F")
    start = 0
    for row in range(size):
        square[row, : row + 1] = packed[start : start + row + 1]
        start += row + 1
    return square
