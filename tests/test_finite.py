"""The check for NaN and infinity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from armorm.finite import nonfinite_rows


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_rows_that_hold_nan_or_infinity_are_listed(convert):
    table = np.ones((5, 3), dtype=np.float32)
    table[1, 2] = np.nan
    table[4, 0] = -np.inf
    assert nonfinite_rows(convert(table)) == [1, 4]
    assert nonfinite_rows(convert(table[:, 0])) == [4]
    assert nonfinite_rows(convert(table[:0])) == []
    assert nonfinite_rows(convert(np.ones((2, 2, 2)))) == []
