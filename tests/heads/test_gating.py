"""The gate against a plain PyTorch loop, and on data where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from pydantic import ValidationError
from torch.nn import functional

from armorm import ArmormError, GatingNetwork, fit_gate
from armorm.errors import StoreError
from armorm.heads import GateOptions, RewardPairs, blended_gate, fit_fixed_weights
from armorm.heads.gating import bradley_terry_loss, margins


def _planted(pairs: int = 4000, domains: int = 3, seed: int = 0) -> tuple[RewardPairs, np.ndarray]:
    """Pairs whose deciding objective is the number of their prompt's domain."""
    generator = torch.Generator().manual_seed(seed)
    domain = torch.randint(0, domains, (300,), generator=generator)
    prompts = functional.one_hot(domain, 8).float()
    prompts += 0.1 * torch.randn(300, 8, generator=generator)
    prompt = torch.randint(0, 300, (pairs,), generator=generator)
    differences = 0.2 * torch.randn(pairs, domains + 1, generator=generator)
    deciding = differences[torch.arange(pairs), domain[prompt]]
    differences = differences * deciding.sign()[:, None]
    return RewardPairs(prompts, prompt, differences), domain.numpy()


OPTIONS = {
    "hidden_dim": 32,
    "n_hidden": 2,
    "beta": 100.0,
    "steps": 300,
    "batch_size": 128,
    "learning_rate": 1e-2,
    "folds": 0,
    "shrinkage": "none",
}


def test_the_gate_finds_the_deciding_objective_and_fixed_weights_cannot():
    pairs, domain = _planted()
    trained = fit_gate(pairs, GateOptions(**OPTIONS))
    fixed = fit_fixed_weights(pairs)
    coefficients = trained.gate(pairs.prompts).numpy()
    for number in range(3):
        assert coefficients[domain == number].mean(axis=0).argmax() == number
    gate_accuracy = (margins(trained.gate, pairs) > 0).float().mean()
    fixed_accuracy = (fixed.margins(pairs.differences.numpy()) > 0).mean()
    assert gate_accuracy > 0.95
    assert fixed_accuracy < 0.85
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.steps == (trained.curve[-1].step,) == (300,)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    pairs, _ = _planted(500)
    options = {**OPTIONS, "steps": 20}
    first, again, other = (fit_gate(pairs, GateOptions(**options), seed=s) for s in (1, 1, 2))
    for name, tensor in first.gate.state_dict().items():
        torch.testing.assert_close(tensor, again.gate.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(first.gate.layers[0].weight, other.gate.layers[0].weight)
    assert first.beta == again.beta


def test_training_equals_a_plain_loop():
    """The oracle evaluates the gate on every pair and recomputes both rewards in every step."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(64, 6, generator=generator)
    chosen = torch.randn(64, 3, generator=generator)
    rejected = torch.randn(64, 3, generator=generator)
    pairs = RewardPairs(features, torch.arange(64), chosen - rejected)
    steps = 15
    options = {"hidden_dim": 16, "n_hidden": 1, "beta": 5.0, "steps": steps, "batch_size": 64}
    trained = fit_gate(pairs, GateOptions(**{**OPTIONS, "learning_rate": 1e-3, **options}), seed=9)

    torch.manual_seed(9)
    oracle = GatingNetwork(6, 3, 16, 1)
    log_beta = torch.tensor(5.0).log().requires_grad_()
    decayed = torch.optim.AdamW(oracle.layers.parameters(), lr=1e-3, weight_decay=0.01)
    free = torch.optim.AdamW([log_beta], lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
        for optimizer in (decayed, free):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        gate = oracle(features)
        score_chosen, score_rejected = (gate * chosen).sum(1), (gate * rejected).sum(1)
        beta = log_beta.exp()
        loss = -torch.log(torch.sigmoid(beta * (score_chosen - score_rejected))).mean()
        loss.backward()
        decayed.step()
        free.step()
    for mine, theirs in zip(trained.gate.layers, oracle.layers, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-4, atol=1e-6)
    assert trained.beta == pytest.approx(float(log_beta.exp()), rel=1e-5)


def test_bradley_terry_loss_has_the_right_gradient():
    margin = torch.randn(7, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bradley_terry_loss, (margin, beta))


def test_coefficients_are_a_distribution_and_temperature_flattens_it():
    torch.manual_seed(0)
    gate = GatingNetwork(5, 4, 8, 2, temperature=1.0)
    prompts = 10 * torch.randn(6, 5)
    coefficients = gate(prompts)
    assert (coefficients >= 0).all()
    torch.testing.assert_close(coefficients.sum(dim=1), torch.ones(6))
    gate.temperature = 100.0
    assert gate(prompts).max() < coefficients.max()


def test_no_pairs_is_an_error():
    pairs, _ = _planted(10)
    with pytest.raises(ArmormError, match="no preference pairs"):
        fit_gate(pairs.where(np.zeros(10, dtype=bool)))


class _KillError(Exception):
    pass


FOLDS = {"folds": 3, "shrinkage": "auto", "patience": None}


@pytest.mark.parametrize("kill_at", [(0, 30), (1, 90)])
def test_a_killed_training_resumes_and_ends_with_the_same_weights(tmp_path, kill_at):
    pairs, _ = _planted(600)
    options = GateOptions(**{**OPTIONS, **FOLDS, "steps": 120}, evaluate_every=10)
    whole = fit_gate(pairs, options)

    def kill(point):
        if (point.fold, point.step) == kill_at:
            raise _KillError

    file = tmp_path / "gate.safetensors"
    with pytest.raises(_KillError):
        fit_gate(pairs, options, checkpoint=file, on_point=kill)
    seen = []
    resumed = fit_gate(pairs, options, checkpoint=file, on_point=seen.append)
    assert (seen[0].fold, seen[0].step) == (kill_at[0], kill_at[1] + 10)
    for name, tensor in whole.gate.state_dict().items():
        torch.testing.assert_close(tensor, resumed.gate.state_dict()[name], rtol=0, atol=0)
    assert (resumed.beta, resumed.curve) == (whole.beta, whole.curve)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_pairs_is_refused(tmp_path):
    pairs, _ = _planted(300)
    options = GateOptions(**{**OPTIONS, "steps": 20})
    file = tmp_path / "gate.safetensors"

    def kill(point):
        raise _KillError

    with pytest.raises(_KillError):
        fit_gate(pairs, options, checkpoint=file, on_point=kill)
    with pytest.raises(StoreError, match="other pairs or options"):
        fit_gate(_planted(300, seed=5)[0], options, checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="damaged"):
        fit_gate(pairs, options, checkpoint=file)


def test_training_stops_early_and_keeps_the_weights_that_did_best_on_validation():
    pairs, _ = _planted(96)  # few enough to be learned by heart, wrong labels included
    pairs.differences[::4] *= -1
    options = GateOptions(
        **{**OPTIONS, **FOLDS, "steps": 2000, "hidden_dim": 256, "patience": 3}, evaluate_every=10
    )
    trained = fit_gate(pairs, options)
    assert len(trained.steps) == 3
    for fold, step in enumerate(trained.steps):
        losses = {p.step: p.validation_loss for p in trained.curve if p.fold == fold}
        assert max(losses) < 2000
        assert losses[step] == min(losses.values())


def test_bfloat16_products_learn_as_well():
    pairs, _ = _planted()
    accuracy = {}
    for precision in ("float32", "bfloat16"):
        trained = fit_gate(pairs, GateOptions(**OPTIONS, precision=precision))
        assert trained.gate.layers[0].weight.dtype == torch.float32
        accuracy[precision] = float((margins(trained.gate, pairs) > 0).float().mean())
    assert accuracy["bfloat16"] == pytest.approx(accuracy["float32"], abs=0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("temperature", "beta", "learning_rate") for value in (0, -1)],
        *[
            (name, value)
            for name in ("temperature", "beta", "learning_rate", "weight_decay")
            for value in (float("nan"), float("inf"), 1e300)
        ],
        *[(name, -1) for name in ("n_hidden", "hidden_dim", "weight_decay", "steps", "patience")],
        ("n_hidden", 10**7),
        ("hidden_dim", 10**9),
    ],
)
def test_options_outside_their_bounds_are_refused_by_name(name, value):
    with pytest.raises(ValidationError, match=name):
        GateOptions(**{name: value})


def test_folds_share_no_prompt_and_cover_all_pairs():
    pairs, _ = _planted(2000)
    folds = pairs.folds(4, seed=3)
    for training, validation in folds:
        assert len(training) + len(validation) == 2000
        assert not set(training.prompt.tolist()) & set(validation.prompt.tolist())
    assert sum(len(validation) for _, validation in folds) == 2000
    assert len(pairs.where((pairs.prompt < 3).numpy()).folds(5, seed=0)) == 3
    one_prompt = pairs.where((pairs.prompt == pairs.prompt[0]).numpy())
    with pytest.raises(ArmormError, match="at least 2"):
        one_prompt.folds(5, seed=0)


@pytest.mark.parametrize("n_hidden", [0, 1, 3])
def test_the_averaged_and_shrunk_gate_has_the_logits_of_the_formula(n_hidden):
    torch.manual_seed(0)
    gates = [GatingNetwork(6, 4, 8, n_hidden, temperature=3.0) for _ in range(3)]
    prompts, fixed = torch.randn(10, 6), np.array([1.0, -2.0, 0.5, 0.5])
    found = blended_gate(gates, 0.3, fixed)
    mean = torch.stack([gate.logits(prompts) / 3.0 for gate in gates]).mean(dim=0)
    expected = torch.softmax(0.3 * mean + 0.7 * torch.tensor(fixed).float(), dim=-1)
    torch.testing.assert_close(found(prompts), expected)
    assert isinstance(found, GatingNetwork)
    assert (found.n_hidden, found.temperature) == (n_hidden, 3.0)
    if n_hidden:
        assert found.hidden_dim == 24
    torch.testing.assert_close(
        blended_gate(gates, 0.0, fixed)(prompts),
        torch.softmax(torch.tensor(fixed), 0).float().tile(10, 1),
    )


def test_a_gate_with_nothing_to_learn_is_shrunk_to_fixed_weights():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(300, 16, generator=generator)  # say nothing of the pairs
    differences = torch.randn(300, 4, generator=generator)
    differences[:, 0] += 0.7
    pairs = RewardPairs(prompts, torch.arange(300), differences)
    trained = fit_gate(pairs, GateOptions(hidden_dim=32, steps=200))
    fixed = fit_fixed_weights(pairs)
    assert trained.shrinkage.share <= 0.3
    coefficients = trained.gate(prompts).double().numpy()
    assert np.abs(coefficients - fixed.coefficients).mean() < 0.05
    assert trained.shrinkage.losses[0] <= min(trained.shrinkage.losses) + 0.01


def test_fixed_weights_are_the_optimum_of_their_loss():
    """The oracle minimises the same convex loss over non-negative weights beta * coefficients."""
    pairs, _ = _planted(3000)
    found = fit_fixed_weights(pairs)
    differences = pairs.differences.double().numpy()

    def loss(weights):
        return np.logaddexp(0, -differences @ weights).sum()

    start = np.full(differences.shape[1], 1.0)
    oracle = scipy.optimize.minimize(
        loss, start, method="L-BFGS-B", bounds=[(0, None)] * len(start)
    )
    mine = loss(found.beta * found.coefficients)
    assert oracle.fun <= mine <= oracle.fun + 10  # the prior's |z|^2 / 2, of 3,000 pairs
    assert found.coefficients.sum() == pytest.approx(1)
    separable = fit_fixed_weights(RewardPairs(pairs.prompts, pairs.prompt, pairs.differences.abs()))
    assert np.isfinite(separable.logits).all()
    assert separable.beta < 1000
    as_gate = found.as_gate(8)
    torch.testing.assert_close(
        as_gate(pairs.prompts[:1])[0], torch.tensor(found.coefficients, dtype=torch.float32)
    )
