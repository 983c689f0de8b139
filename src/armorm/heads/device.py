"""Sums and solves of stage 1 on a GPU, in float64 throughout.

The arithmetic is that of :mod:`armorm.heads.statistics` and :mod:`armorm.heads.regression`; only
where it happens differs.  What leaves the device is numpy's again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float


def float64_device() -> str | None:
    """Return the GPU, if there is one with float64; ``None`` means the CPU."""
    return "cuda" if torch.cuda.is_available() else None


class DeviceSums:
    """X'X and X'R of one label pattern, growing on a device.

    Args:
        features: Length d of a feature.
        rated: Number of rated objectives.
        device: Where, as torch names it.
    """

    def __init__(self, features: int, rated: int, device: str) -> None:
        self._gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        self._moments = torch.zeros(features, rated, dtype=torch.float64, device=device)

    def add_rows(
        self,
        features: Float[np.ndarray, "rows features"],
        rewards: Float[np.ndarray, "rows rated"],
    ) -> None:
        """Add rows. Features travel in their own dtype and are widened on the device."""
        x = torch.from_numpy(features).to(self._gram.device).double()
        r = torch.from_numpy(rewards).to(self._gram.device)
        self._gram.addmm_(x.T, x)
        self._moments.addmm_(x.T, r)

    def gram(self) -> Float[np.ndarray, "features features"]:
        """X'X: its lower triangle, in Fortran order; above is zero."""
        return np.asfortranarray(self._gram.tril().cpu().numpy())

    def moments(self) -> Float[np.ndarray, "features rated"]:
        """Return X'R."""
        return np.asarray(self._moments.cpu().numpy())


def solve_path_on(
    device: str,
    gram: Float[np.ndarray, "features features"],
    moments: Float[np.ndarray, "features members"],
    alphas: Sequence[float],
) -> list[Float[np.ndarray, "features members"] | None]:
    """(X'X + alpha I)^-1 X'r for every penalty; ``None`` where that is singular in float64.

    Args:
        device: Where, as torch names it.
        gram: Lower triangle of X'X.
        moments: X'r of several objectives.
        alphas: Penalties.
    """
    lower = torch.from_numpy(np.ascontiguousarray(gram)).to(device)
    whole = lower + lower.tril(-1).T
    right = torch.from_numpy(np.ascontiguousarray(moments)).to(device)
    solutions: list[Float[np.ndarray, "features members"] | None] = []
    for alpha in alphas:
        damped = whole.clone()
        damped.diagonal().add_(alpha)
        factor, failed = torch.linalg.cholesky_ex(damped)
        pivots = factor.diagonal()
        rounding = len(pivots) * np.finfo(np.float64).eps
        if int(failed) or float((pivots.min() / pivots.max()) ** 2) < rounding:
            solutions.append(None)
        else:
            solutions.append(torch.cholesky_solve(right, factor).cpu().numpy())
    return solutions
