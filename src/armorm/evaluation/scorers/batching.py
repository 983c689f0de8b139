"""Batches of conversations of one length: without padding, no result depends on its neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@torch.inference_mode()
def by_length(
    sequences: Sequence[Sequence[int]],
    width: int,
    batch_tokens: int,
    device: torch.device,
    run: Callable[[Tensor], Tensor],
) -> Float[np.ndarray, "sequences width"]:
    """Run sequences of token ids in batches of one length, in float64 in their own order.

    Args:
        sequences: Token ids.
        width: Numbers per sequence.
        batch_tokens: Most tokens of a batch.
        device: Device of the ids.
        run: Function from ids of shape (batch, length) to numbers of shape (batch, width).
    """
    found = np.empty((len(sequences), width))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for length, group in itertools.groupby(order, key=lambda i: len(sequences[i])):
        members = list(group)
        step = max(1, batch_tokens // length)
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            ids = torch.tensor([sequences[i] for i in batch], device=device)
            found[batch] = run(ids).double().cpu().numpy()
    return found
