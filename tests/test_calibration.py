"""Calibrated variances: the variance model recovers known spreads, a calibrated model covers."""

import math

import pytest
import torch

import pddlvm
from pddlvm.calibration import COVERAGE_2_STD, VarianceModel, coverage_factor
from problems import poisson


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_variance_model_recovers_a_known_spread():
    torch.manual_seed(0)
    x = torch.randn(2000, 2, generator=generator())
    base = 0.5 * x[:, :1]
    shift = torch.tensor([-2.0, 0.0, 1.0])
    log_variance = base + shift + 2 * torch.tanh(x[:, 1:])
    errors = (0.5 * log_variance).exp() * torch.randn(2000, 3, generator=generator(1))
    model = VarianceModel(2, 3)
    model.fit(x, base, errors, generator(2))
    with torch.no_grad():
        difference = model(x, base) - log_variance
    # A log variance estimated from 1500 samples of 3 has a standard error of 0.02; the network's
    # shape adds to it. Without the features it would miss by tanh's spread, 1.3.
    assert float(difference.square().mean().sqrt()) < 0.3
    assert difference.mean(0).abs().max() < 0.15


def test_errors_that_do_not_count_are_ignored():
    errors = torch.randn(2000, 2, generator=generator())
    counts = (torch.rand(2000, 2, generator=generator(1)) < 0.5).float()
    spoiled = torch.where(counts > 0, errors, 1e6)
    model, x = VarianceModel(1, 2), torch.zeros(2000, 1)
    model.fit(x, torch.zeros(2000, 1), spoiled, generator(2), counts=counts)
    with torch.no_grad():
        # A log variance from 750 samples has a standard error of 0.05.
        assert model(x, torch.zeros(2000, 1))[0].abs().max() < 0.25


def test_coverage_factor_of_gaussian_errors_is_one():
    errors = torch.randn(20_000, generator=generator())
    # The quantile at 0.9545 of 20,000 draws has a standard error of 0.7 %.
    assert coverage_factor(errors) == pytest.approx(1, abs=0.03)


def test_coverage_factor_gives_the_coverage_that_it_promises():
    errors = torch.randn(5000, generator=generator()).sinh()
    std = torch.ones_like(errors)
    factor = coverage_factor(errors / std)
    inside = (errors.abs() <= 2 * factor * std).double().mean()
    assert float(inside) == pytest.approx(COVERAGE_2_STD, abs=1 / 5000)
    assert math.isclose(COVERAGE_2_STD, 0.9545, abs_tol=1e-4)


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    trained = pddlvm.LatentVariableModel(
        poisson.make(8, n_terms=3), basis=pddlvm.ResidualEnriched(n_modes=8)
    )
    pddlvm.train(trained, max_steps=200, calibrate=False)
    trained.calibrate(1024)
    return trained


@pytest.mark.parametrize("corrections", [0, 1])
def test_forward_map_covers_the_solution(model, corrections):
    z = model.problem.prior.sample((200,), seed=11)
    u = model.problem.solve(z)
    free = torch.from_numpy(model.problem.free_dofs)
    forward = model.forward(z, corrections=corrections)
    error, std = (forward.mean - u)[:, free], forward.std[:, free]
    # 200 samples with errors correlated over the nodes: some 3 % of sampling error either way.
    assert 0.88 < float((error.abs() <= 2 * std).double().mean()) < 0.99
    logs = torch.stack([error.norm(dim=1), std.norm(dim=1)]).log()
    assert float(torch.corrcoef(logs)[0, 1]) > 0.4


def test_inverse_map_covers_the_parameters(model):
    z = model.problem.prior.sample((200,), seed=12)
    inverse = model.inverse(model.problem.solve(z))
    inside = ((inverse.mean - z).abs() <= 2 * inverse.std).double().mean()
    # 600 values: a standard error of 1 %, and what the calibration's own draws add.
    assert 0.88 < float(inside) < 0.99


def test_predicted_std_grows_where_the_map_is_wrong(model):
    z = model.problem.prior.sample((100,), seed=13)
    with torch.no_grad():
        model.forward_map.network.head.bias += 0.05
        worse = model.forward(z).std.mean()
        model.forward_map.network.head.bias -= 0.05
    # The std reads the residual of each query, so a map that got worse says so unasked.
    assert worse > 2 * model.forward(z).std.mean()


def test_too_few_samples_are_refused(model):
    with pytest.raises(pddlvm.InputError, match="at least"):
        model.calibrate(5)


@pytest.mark.parametrize("n", [0, -1, 31])
def test_zero_samples_are_no_default(model, n):
    with pytest.raises(pddlvm.InputError, match="at least"):
        model.calibrate(n)


def test_calibration_leaves_the_global_random_state_alone(model):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.calibrate(64)
    assert torch.equal(torch.rand(1), expected)
