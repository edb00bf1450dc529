"""Laplace approximations of many data sets: in chunks, and each as it would be alone."""

import threading
from dataclasses import replace

import joblib
import pytest
import torch

import pddlvm
from pddlvm.inference import pushed_gaussian as pushed_gaussian_module
from pddlvm.inference import search as search_module
from pddlvm.inference.basins import N_BETWEEN
from pddlvm.latent import surrogate as surrogate_module
from problems import nonlinear_poisson, poisson

MANY = [[0.1 + 0.2 * i, 0.1 + 0.2 * j] for i in range(5) for j in range(5)]


def trained(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=16))
    pddlvm.train(model, max_steps=40)
    return model


@pytest.fixture(
    scope="module", params=["linear", pytest.param("nonlinear", marks=pytest.mark.slow)]
)
def model(request):
    if request.param == "linear":
        return trained(poisson.make(8, n_terms=3))
    return trained(nonlinear_poisson.make_quasilinear(8, 3))


@pytest.fixture(scope="module")
def data(model):
    """Sensors, and data sets of which some have missing values and one contradicts the prior."""
    problem = model.problem
    sensors = pddlvm.PointObservation(problem, MANY, 0.005)
    y = sensors.simulate(problem.solve(problem.prior.sample((12,), seed=1)), seed=2)
    y[3, :7] = torch.nan
    y[5] *= 4
    return sensors, y


@pytest.fixture(scope="module")
def together(model, data):
    return model.infer(data[1], data[0], method="laplace")


def room_for_five(problem):
    """Data sets a chunk, with 7 starts each."""
    return 5 * (7 * len(MANY) * (1 + problem.n_parameters + N_BETWEEN) + problem.n_dofs)


@pytest.mark.parametrize("i", [0, 3, 5, 11])
def test_each_of_a_batch_is_as_it_would_be_alone(model, data, together, i):
    sensors, y = data
    alone = model.infer(y[i], sensors, method="laplace")
    # The rounding of the map, in float32, depends on the size of a batch; corrections square it.
    assert ((together.mean[i] - alone.mean).abs() < 1e-6 * alone.std).all()
    torch.testing.assert_close(together.std[i], alone.std, rtol=1e-6, atol=0)
    assert together.diagnostics.converged[i] == alone.diagnostics.converged
    assert (
        together.diagnostics.verdict[i].split(" (")[0] == alone.diagnostics.verdict.split(" (")[0]
    )


def test_chunks_change_nothing(model, data, together, monkeypatch):
    sensors, y = data
    monkeypatch.setattr(search_module, "_MOST", room_for_five(model.problem))
    found, expected = model.infer(y.reshape(3, 4, -1), sensors, method="laplace"), together
    assert ((found.mean.reshape(12, -1) - expected.mean).abs() < 1e-6 * expected.std).all()
    torch.testing.assert_close(found.std.reshape(12, -1), expected.std, rtol=1e-6, atol=0)
    masses, own = expected.diagnostics.masses, found.diagnostics.masses
    torch.testing.assert_close(own.reshape(masses.shape), masses, rtol=0, atol=1e-6)
    for name in ("converged", "misfit", "n_seen", "p_value"):
        one, other = getattr(found.diagnostics, name), getattr(expected.diagnostics, name)
        torch.testing.assert_close(one.flatten(), other, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_chunks_on_workers_are_those_in_turn(model, data, monkeypatch, backend):
    sensors, y = data
    monkeypatch.setattr(search_module, "_MOST", room_for_five(model.problem))
    expected = model.infer(y, sensors, method="laplace")
    threads = []
    original = search_module.laplace

    def watched(*arguments):
        threads.append(threading.get_ident())
        return original(*arguments)

    if backend == "threading":
        monkeypatch.setattr(search_module, "laplace", watched)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = model.infer(y, sensors, method="laplace")
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.std, expected.std)
    assert found.diagnostics.verdict == expected.diagnostics.verdict
    assert backend == "loky" or threading.get_ident() not in threads


def test_quantiles_are_those_of_draws_and_take_none(together):
    levels = [0.025, 0.5, 0.9]
    found = together.quantiles(levels)
    draws = together.sample((20_000,), seed=0)
    expected = draws.quantile(torch.tensor(levels).to(draws), dim=0)
    # Standard errors of quantiles at 0.025: 0.02 deviations; five of them.
    assert ((found - expected).abs() < 0.1 * together.std).all()
    lower, upper = together.interval(0.95)
    torch.testing.assert_close(lower, found[0])
    assert (upper > lower).all()


def test_moments_in_parts_are_the_same(together, monkeypatch):
    density = replace(together._density)
    monkeypatch.setattr(pushed_gaussian_module, "_MOST", 1)
    torch.testing.assert_close(density.mean, together.mean)
    torch.testing.assert_close(density.std, together.std)


def test_errors_of_a_batch_are_those_of_each_alone(model, data, monkeypatch):
    problem, (sensors, _) = model.problem, data
    monkeypatch.setattr(surrogate_module, "_MOST", 2 * problem.n_dofs)
    squares = pddlvm.FunctionObservation(problem, lambda u: sensors.apply(u) ** 2, 25, 0.01)
    xi = problem.prior.standardise(problem.prior.sample((5,), seed=6))
    for observation in (sensors, squares):
        surrogate = model.surrogate(observation, corrections=1)
        found = surrogate.error(xi).dense()
        for i in range(len(xi)):
            alone = surrogate.error(xi[i : i + 1]).dense()[0]
            # Rounded as the map is.
            torch.testing.assert_close(found[i], alone, rtol=1e-4, atol=1e-4 * alone.abs().max())
