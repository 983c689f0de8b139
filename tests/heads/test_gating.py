"""The gate against a plain PyTorch loop, and on data where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from armorm import ArmormError, GatingNetwork, fit_gate
from armorm.errors import StoreError
from armorm.heads import GateOptions, RewardPairs
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


OPTIONS = {"hidden_dim": 32, "n_hidden": 2, "steps": 300, "batch_size": 128, "learning_rate": 1e-2}


def test_the_gate_finds_the_deciding_objective_and_fixed_weights_cannot():
    pairs, domain = _planted()
    trained = fit_gate(pairs, GateOptions(**OPTIONS))
    fixed = fit_gate(pairs.without_prompts(), GateOptions(**OPTIONS))
    coefficients = trained.gate(pairs.prompts).numpy()
    for number in range(3):
        assert coefficients[domain == number].mean(axis=0).argmax() == number
    gate_accuracy = (margins(trained.gate, pairs) > 0).float().mean()
    fixed_accuracy = (margins(fixed.gate, pairs.without_prompts()) > 0).float().mean()
    assert gate_accuracy > 0.95
    assert fixed_accuracy < 0.85
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.step == trained.curve[-1].step == 300


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
    trained = fit_gate(pairs, GateOptions(**options), seed=9)

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


@pytest.mark.parametrize("kill_at", [30, 90])
def test_a_killed_training_resumes_and_ends_with_the_same_weights(tmp_path, kill_at):
    pairs, _ = _planted(600)
    validation, _ = _planted(200, seed=1)
    options = GateOptions(**{**OPTIONS, "steps": 120}, evaluate_every=10)
    whole = fit_gate(pairs, options, validation=validation)

    def kill(point):
        if point.step == kill_at:
            raise _KillError

    file = tmp_path / "gate.safetensors"
    with pytest.raises(_KillError):
        fit_gate(pairs, options, validation=validation, checkpoint=file, on_point=kill)
    seen = []
    resumed = fit_gate(pairs, options, validation=validation, checkpoint=file, on_point=seen.append)
    assert seen[0].step == kill_at + 10
    for name, tensor in whole.gate.state_dict().items():
        torch.testing.assert_close(tensor, resumed.gate.state_dict()[name], rtol=0, atol=0)
    assert (resumed.beta, resumed.curve) == (whole.beta, whole.curve)
    assert not file.exists()


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
    pairs, _ = _planted(64)  # few enough to be learned by heart, wrong labels included
    pairs.differences[::6] *= -1
    validation, _ = _planted(2000, seed=1)
    options = GateOptions(
        **{**OPTIONS, "steps": 2000, "hidden_dim": 256},
        evaluate_every=10,
        patience=3,
        validation_fraction=0.1,
    )
    trained = fit_gate(pairs, options, validation=validation)
    losses = {point.step: point.validation_loss for point in trained.curve}
    assert trained.curve[-1].step < 2000
    assert losses[trained.step] == min(losses.values())
    loss = bradley_terry_loss(margins(trained.gate, validation), torch.tensor(trained.beta))
    assert float(loss) == pytest.approx(losses[trained.step], rel=1e-5)


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


def test_validation_pairs_are_split_off_by_prompt():
    pairs, _ = _planted(2000)
    options = GateOptions(**{**OPTIONS, "steps": 20}, validation_fraction=0.2)
    training, validation = pairs.split(0.2, seed=3)
    assert len(training) + len(validation) == 2000
    assert not set(training.prompt.tolist()) & set(validation.prompt.tolist())
    drawn = fit_gate(pairs, options, seed=3)
    given = fit_gate(training, options, seed=3, validation=validation)
    assert drawn.curve == given.curve
    assert drawn.curve[-1].validation_accuracy is not None
    for fraction, prompts in ((1e-9, 1), (0.999999, len(pairs.prompt.unique()) - 1)):
        assert len(pairs.split(fraction, seed=0)[1].prompt.unique()) == prompts
    one_prompt = pairs.where((pairs.prompt == pairs.prompt[0]).numpy())
    with pytest.raises(ArmormError, match="at least 2 prompts"):
        one_prompt.split(0.5, seed=0)
