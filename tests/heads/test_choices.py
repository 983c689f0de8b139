"""A user's weights from few choices, against planted users and a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from armorm.heads.choices import TAUS, fit_choices

BETA = 60.0


def decided(pairs: int, share: float, added: np.ndarray, seed: int = 0):
    """Return gate margins, differences and own margins, of chosen less rejected responses."""
    generator = np.random.default_rng(seed)
    gates = generator.dirichlet(np.full(len(added), 0.5), pairs)
    differences = 0.1 * generator.normal(size=(pairs, len(added)))
    gate = (gates * differences).sum(axis=1)
    own = share * gate + differences @ added
    sign = np.where(generator.random(pairs) < expit(BETA * own), 1.0, -1.0)
    return gate * sign, differences * sign[:, None], own * sign


@pytest.mark.parametrize(("share", "added"), [(1.0, [0.3, 0, 0, -0.2]), (0.0, [0.5, 0.5, 0, 0.0])])
def test_planted_users_are_recovered(share, added):
    gate, differences, _ = decided(200, share, np.array(added))
    fitted = fit_choices(gate, differences, BETA)
    truth = np.array([share, *added])
    deviations = np.sqrt(np.diag(fitted.covariance))
    assert (np.abs(fitted.mean - truth) < 3 * deviations).all()
    new_gate, new_differences, _ = decided(4000, share, np.array(added), seed=1)
    margins = fitted.margins(new_gate, new_differences)
    best = np.mean(share * new_gate + new_differences @ added > 0)
    assert np.mean(margins > 0) > max(np.mean(new_gate > 0) + 0.01, best - 0.03)


def test_choices_that_the_gate_explains_leave_it():
    gate, differences, _ = decided(40, 1.0, np.zeros(4))
    fitted = fit_choices(gate, differences, BETA)
    assert fitted.tau == TAUS[0]
    new_gate, new_differences, _ = decided(2000, 1.0, np.zeros(4), seed=1)
    agree = np.sign(fitted.margins(new_gate, new_differences)) == np.sign(new_gate)
    assert agree.mean() > 0.98


def test_the_posterior_is_laplaces():
    gate, differences, _ = decided(30, 0.5, np.array([0.3, -0.1, 0.0]))
    tau = 1.0
    fitted = fit_choices(gate, differences, BETA, taus=(tau,))
    columns = np.column_stack([gate, differences])
    prior = tau / (BETA * np.sqrt(np.mean(columns**2, axis=0)))  # of each weight
    middle = np.array([1.0, 0, 0, 0])

    def negative(weights):
        logits = BETA * columns @ weights
        away = (weights - middle) / prior
        return np.logaddexp(0.0, -logits).sum() + away @ away / 2

    mode = minimize(
        negative, middle, method="Nelder-Mead", options={"maxiter": 9000, "xatol": 1e-9}
    )
    np.testing.assert_allclose(fitted.mean, mode.x, atol=1e-4)
    step = 1e-3
    moves = step * np.eye(4)
    hessian = [
        [
            negative(fitted.mean + a + b)
            - negative(fitted.mean + a - b)
            - negative(fitted.mean - a + b)
            + negative(fitted.mean - a - b)
            for b in moves
        ]
        for a in moves
    ]
    found = np.linalg.inv(np.array(hessian) / (4 * step**2))
    np.testing.assert_allclose(fitted.covariance, found, rtol=1e-2, atol=1e-5)


def test_an_objective_that_never_differs_keeps_its_weight():
    gate, differences, _ = decided(50, 1.0, np.array([0.3, 0.0, 0.0]))
    differences[:, 2] = 0.0
    fitted = fit_choices(gate, differences, BETA)
    assert fitted.mean[3] == pytest.approx(0.0, abs=1e-9)
    assert np.isfinite(fitted.covariance).all()
