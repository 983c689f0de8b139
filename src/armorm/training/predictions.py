"""What a head predicts on stored features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from armorm.features import FeatureStore
from armorm.heads import RewardHead
from armorm.heads.metrics import RegressionFit, regression_fits


def held_out_fits(store: FeatureStore, head: RewardHead) -> list[RegressionFit]:
    """How well each objective is predicted on the rows that no training has seen."""
    ratings, held_out = store.ratings()
    return regression_fits(rewards_of_responses(store, head)[held_out], ratings[held_out])


def rewards_of_responses(
    store: FeatureStore, head: RewardHead
) -> Float[np.ndarray, "responses objectives"]:
    """Predicted rewards of all responses: the features are read once and forgotten."""
    shards = [head.rewards(shard.float().numpy()) for shard in store.response_features()]
    return np.concatenate(shards).astype(np.float64)
