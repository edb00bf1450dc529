"""Errors of predicted data in closed form, and memory that grows with the sensors, not squared."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pddlvm
from pddlvm.linalg import precision as precision_module
from problems import poisson

MANY = [[0.1 + 0.2 * i, 0.1 + 0.2 * j] for i in range(5) for j in range(5)]


@pytest.fixture(scope="module")
def model():
    basis = pddlvm.ResidualEnriched(n_modes=24)
    model = pddlvm.LatentVariableModel(poisson.make(10, n_terms=3), basis=basis)
    pddlvm.train(model, max_steps=40)
    return model


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest tensor holds of all that are made, gradients too."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        leaves = [x for x in tree_leaves(found) if torch.is_tensor(x)]
        made = [x for x in leaves if x.layout == torch.strided]
        self.size = max([self.size, *(x.untyped_storage().nbytes() // 8 for x in made)])
        return found


def test_one_number_stays_one_number():
    n = 20_000
    with Largest() as largest:
        noise = pddlvm.Gaussian(0.01, n)
        misfit = noise.sample((2,), torch.Generator().manual_seed(0))
        noise.log_prob(misfit), noise.square(misfit), noise.precision(misfit).white(misfit)
        assert noise.variance().untyped_storage().nbytes() == 8
    assert largest.size == misfit.numel()


@pytest.mark.parametrize("crowded", [0.25, 0.0])
@pytest.mark.slow
def test_three_thousand_sensors_need_no_matrix_of_their_own(model, monkeypatch, crowded):
    monkeypatch.setattr(precision_module, "_CROWDED", crowded)
    n, problem = 3000, model.problem
    points = 0.05 + 0.9 * torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    sensors = pddlvm.PointObservation(problem, points, 0.01)
    z = problem.prior.sample((), seed=1)
    y = sensors.simulate(problem.solve(z), seed=2)
    with Largest() as largest:
        posterior = model.infer(y, sensors, method="laplace")
        assert torch.isfinite(posterior.mean).all()
    # Predictions at 256 draws of the prior, where searches may begin, are the largest.
    assert largest.size < n * n / 8


@pytest.mark.parametrize("corrections", [0, 1])
def test_the_error_of_predicted_data_is_that_of_draws_of_u(model, corrections):
    sensors = pddlvm.PointObservation(model.problem, MANY, 0.01)
    xi = torch.zeros(1, 3, dtype=torch.float64)
    z = model.problem.prior.unstandardise(xi)
    found = model.surrogate(sensors, corrections=corrections).error(xi).dense()[0]
    n_draws = 20_000
    draws = model.forward(z, corrections=corrections).sample((n_draws,), seed=0)[:, 0]
    std = found.diagonal().sqrt()
    expected = torch.cov(sensors.apply(draws - draws.mean(0)).T)
    # Entries of a sample covariance have a standard error of sqrt((1 + rho^2) / n) at most, in
    # units of both deviations; five of them.
    assert ((found - expected).abs() < 5 * (2 / n_draws) ** 0.5 * std * std[:, None]).all()


def test_the_error_of_predicted_data_is_the_dense_formula(model):
    sensors = pddlvm.PointObservation(model.problem, MANY, 0.01)
    xi = model.problem.prior.sample_standard((4,), generator=torch.Generator().manual_seed(0))
    surrogate = model.surrogate(sensors, corrections=1)
    forward = surrogate.forward(model.problem.prior.unstandardise(xi))
    expected = forward.covariance(torch.from_numpy(sensors.matrix.toarray()))
    found = surrogate.error(xi).dense()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize(
    "noise", [0.002, pddlvm.StudentT(0.002, 25), pddlvm.UnknownStd(0.002, 1.0, 25)], ids=repr
)
@pytest.mark.slow
def test_low_rank_and_dense_answers_agree(model, monkeypatch, noise):
    problem = model.problem
    sensors = pddlvm.PointObservation(problem, MANY, noise)
    y = sensors.simulate(problem.solve(problem.prior.sample((3,), seed=1)), seed=2)
    y[1, :5] = torch.nan
    dense = model.infer(y, sensors, method="laplace")
    monkeypatch.setattr(precision_module, "_FEW", 10)
    monkeypatch.setattr(precision_module, "_CROWDED", 0.0)
    found = model.infer(y, sensors, method="laplace")
    # Rounding, times the condition number of the information.
    torch.testing.assert_close(found.mean, dense.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.std, dense.std, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.diagnostics.masses, dense.diagnostics.masses)
