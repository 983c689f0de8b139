"""The Bradley–Terry linear head against scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from armorm import ArmormError
from armorm.heads import fit_bradley_terry_head


def _pairs(pairs: int, features: int, seed: int = 0) -> np.ndarray:
    """Feature differences of unlike scales, whose sign follows a hidden direction with noise."""
    generator = np.random.default_rng(seed)
    scales = np.logspace(1, -2, features)
    z = generator.normal(size=(pairs, features)) * scales
    margin = z @ (generator.normal(size=features) / scales)
    flip = generator.random(pairs) > 1 / (1 + np.exp(-margin))
    return np.where(flip[:, None], -z, z)


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_given_penalty_gives_the_weights_of_logistic_regression(alpha, dtype):
    z = _pairs(600, 12).astype(dtype)
    head = fit_bradley_terry_head(z, np.arange(600), alphas=(alpha,))
    both = np.concatenate([z, -z]).astype(np.float64)
    side = np.repeat([1, 0], 600)
    oracle = LogisticRegression(C=1 / (2 * alpha), fit_intercept=False, tol=1e-12, max_iter=10_000)
    expected = oracle.fit(both, side).coef_[0]
    np.testing.assert_allclose(head.weight, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(head.margins(z), z @ head.weight, rtol=1e-9, atol=1e-9)


def test_the_penalty_is_the_one_with_the_least_log_loss_on_folds_of_prompts():
    z = _pairs(300, 40)
    prompt = np.repeat(np.arange(100), 3)
    alphas = (1e-2, 1.0, 100.0)
    head = fit_bradley_terry_head(z, prompt, alphas=alphas, folds=4, seed=7)
    fold = (np.random.default_rng([7, 2]).permutation(100) % 4)[prompt]
    expected = []
    for alpha in alphas:
        loss = 0.0
        for held in range(4):
            rest = fit_bradley_terry_head(z[fold != held], prompt[fold != held], alphas=(alpha,))
            loss += np.logaddexp(0, -z[fold == held] @ rest.weight).sum() / 300
        expected.append(loss)
    assert head.losses == pytest.approx(expected, rel=1e-6)
    assert head.alpha == alphas[int(np.argmin(expected))]


def test_scaling_the_features_scales_the_default_penalties_and_changes_no_margin():
    z, prompt = _pairs(400, 10), np.arange(400)
    one, other = (fit_bradley_terry_head(scale * z, prompt) for scale in (1.0, 1e4))
    np.testing.assert_allclose(one.margins(z), other.margins(1e4 * z), rtol=1e-3, atol=1e-4)


def test_too_few_prompts_for_the_folds_are_an_error():
    with pytest.raises(ArmormError, match="there are 2"):
        fit_bradley_terry_head(_pairs(8, 3), np.repeat([0, 1], 4))
