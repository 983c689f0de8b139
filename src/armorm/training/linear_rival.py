"""The Bradley–Terry linear head of a run's features, the gate's strongest simple rival."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from armorm.features import FeatureStore
from armorm.features.store import PairIndex
from armorm.heads import BradleyTerryHead, fit_bradley_terry_head

MOST_DIFFERENCES = 1 << 30
"""Numbers in the feature differences that the linear head is fitted on: 4 GiB of float32."""


def bradley_terry_head(store: FeatureStore, pairs: PairIndex, seed: int) -> BradleyTerryHead:
    """Fit a Bradley–Terry linear head on the training pairs."""
    training = np.flatnonzero(~pairs.held_out)
    most = MOST_DIFFERENCES // store.manifest.backbone["hidden_size"]
    if len(training) > most:
        drawn = np.random.default_rng([seed, 3]).choice(len(training), most, replace=False)
        training = training[np.sort(drawn)]
    prompt = pairs.prompt[training]
    folds = min(5, len(np.unique(prompt)))
    differences = _feature_differences(store, pairs, training)
    return fit_bradley_terry_head(differences, prompt, folds=folds, seed=seed)


def held_out_margins(
    head: BradleyTerryHead, store: FeatureStore, pairs: PairIndex
) -> Float[np.ndarray, " held_out"]:
    """Return the margins of a linear head on the held-out pairs."""
    shards = store.response_features()
    scores = np.concatenate([head.margins(shard.float().numpy()) for shard in shards])
    held_out: Float[np.ndarray, " held_out"] = scores[pairs.chosen] - scores[pairs.rejected]
    return held_out[pairs.held_out]


def _feature_differences(
    store: FeatureStore, pairs: PairIndex, wanted: Int[np.ndarray, " wanted"]
) -> Float[np.ndarray, "wanted features"]:
    """Return feature of chosen minus feature of rejected, reading the store shard by shard."""
    hidden = store.manifest.backbone["hidden_size"]
    differences = np.zeros((len(wanted), hidden), np.float32)
    start = 0
    for shard in store.response_features():
        features = shard.float().numpy()
        stop = start + len(features)
        for sign, side in ((1.0, pairs.chosen[wanted]), (-1.0, pairs.rejected[wanted])):
            inside = np.flatnonzero((side >= start) & (side < stop))
            differences[inside] += np.float32(sign) * features[side[inside] - start]
        start = stop
    return differences
