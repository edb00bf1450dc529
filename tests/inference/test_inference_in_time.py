"""Finite element likelihoods in time: derivatives of trajectories, and what chains make of them."""

from functools import partial

import flows
import numpy as np
import parabolic
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.inference.finite_element_surrogate import FiniteElements

CALM = pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))


def setting_off(x, speed, t):
    return speed * torch.tanh(8 * t) * flows.lid(x)


def cooling(u, du, x, k):
    return 0.5 * k * (du @ du)


def bar():
    """How fast it cools, and how warm it was: two parameters."""
    space = fem.Space(fem.interval(12))
    steady = pddlvm.Problem(
        "bar",
        space,
        terms=[pddlvm.Energy(space.interior(), cooling)],
        fields={
            "k": pddlvm.Constant(pddlvm.LogNormal(-1.0, 0.5)),
            "start": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "t": pddlvm.Time(0.4),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )
    stepping = pddlvm.Stepping(0.4, 12)
    return pddlvm.TransientProblem(steady, stepping=stepping, initial=hill)


def hill(x, start):
    return start * 4 * x[0] * (1 - x[0])


def cavity(function):
    """A pressure without mass, known up to a constant."""
    problem = pddlvm.Problem(
        "cavity",
        flows.SPACE,
        terms=[pddlvm.Flux(flows.SPACE.interior(), function)],
        fields={"nu": flows.VISCOSITY, "speed": CALM, "t": pddlvm.Time(0.4)},
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", setting_off)],
        constraints=[pddlvm.MeanValue("p")],
    )
    return pddlvm.TransientProblem(problem, stepping=pddlvm.Stepping(0.4, 8), density={"u": 1.0})


def pushed(x, left, t):
    return left * torch.sin(4 * t) * (1 - x[0])


def pushed_wave():
    """Second order in time, and the velocity of the boundary follows z."""
    made = parabolic.make("wave", 4, 8)
    fields = {**made.steady.fields, "left": CALM, "t": made.steady.fields["t"]}
    fields["t"] = fields.pop("t")
    dirichlet = [pddlvm.Dirichlet("left", pushed), pddlvm.Dirichlet("right")]
    steady = pddlvm.Problem("pushed", made.space, made.steady.terms, fields, dirichlet)
    return pddlvm.TransientProblem(
        steady, stepping=made.stepping, initial=parabolic.warm, velocity=0.0
    )


KINDS = ["heat", "moving", "boundary", "wave", "hot", "reaction", "spring", "advection"]
UNLIKE = {kind: partial(parabolic.make, kind, 3, 6) for kind in KINDS}
UNLIKE |= {
    "Stokes": partial(cavity, flows.stokes),
    "Navier-Stokes": partial(cavity, flows.navier_stokes),
    "pushed wave": pushed_wave,
}
# What differs in the code: boundary values, matrices that move, a pressure, a second derivative.
FEW = {"boundary", "moving", "hot", "Stokes", "pushed wave"}
each = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=kind, marks=() if kind in FEW else pytest.mark.slow)
        for kind, make in UNLIKE.items()
    ],
)


def sensors(problem, noise=0.05):
    """A few degrees of freedom, at an early and a late time."""
    free = problem.steady.free_dofs
    rows = pddlvm.mask_matrix(problem.steady, free[:: max(1, len(free) // 7)].tolist())
    times = problem.times[[1, -1]]
    return pddlvm.LinearObservation(problem, problem.seen_at(rows, times), noise)


def some(problem):
    generator = torch.Generator().manual_seed(0)
    return problem.prior.sample_standard((2,), generator=generator)


@each
@pytest.mark.slow
def test_the_gradient_is_that_of_the_density(make):
    problem = make()
    obs = sensors(problem)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=5)), seed=6)
    density, xi, h = FiniteElementPosterior(obs, y), some(problem), 1e-5
    value, gradient = density.log_prob_and_gradient(xi)
    torch.testing.assert_close(value, density.log_prob(xi))
    for j in range(xi.shape[1]):
        step = torch.zeros_like(xi)
        step[:, j] = h
        difference = (density.log_prob(xi + step) - density.log_prob(xi - step)) / (2 * h)
        # Steps stop at 1e-11: differences are good to some 1e-6 of the largest entry.
        assert ((gradient[:, j] - difference).abs() < 2e-5 * gradient.abs().max()).all()


@each
@pytest.mark.slow
def test_derivatives_are_those_of_differences(make):
    problem = make()
    surrogate, xi, h = FiniteElements(sensors(problem)), some(problem), 1e-4
    data, slope = surrogate.linearise(xi)
    torch.testing.assert_close(data, surrogate.mean(xi))
    for j in range(xi.shape[1]):
        step = torch.zeros_like(xi)
        step[:, j] = h
        difference = (surrogate.mean(xi + step) - surrogate.mean(xi - step)) / (2 * h)
        # Both are differences of second order.
        assert (slope[..., j] - difference).abs().max() < 1e-5 * slope.abs().max()


@pytest.fixture(scope="module")
def data():
    problem = bar()
    obs = pddlvm.PointObservation(problem, [[0.3], [0.6]], 0.06, times=[0.1, 0.2, 0.4])
    return obs, obs.simulate(problem.solve(torch.tensor([0.5, 1.1]).double()), seed=3)


@pytest.fixture(scope="module")
def of_grid(data):
    """Mean and std of z by the march at all points of a fine grid, (2,) each."""
    (obs, y), n = data, 24
    prior = obs.problem.prior
    bounds = prior.standardise(torch.tensor([[1.0, 0.5], [1.0, 1.5]]).double())[:, 1].tolist()
    edges = torch.from_numpy(np.linspace(-2, 2.5, n)), torch.from_numpy(np.linspace(*bounds, n))
    xi = torch.cartesian_prod(*(0.5 * (one[1:] + one[:-1]) for one in edges))
    z = prior.unstandardise(xi)
    value = obs.log_prob(y, obs.problem.solve(z)) + prior.standard_log_prob(xi)
    weight = value.softmax(0)
    assert weight.max() < 0.1
    mean = weight @ z
    return mean, (weight @ (z - mean) ** 2).sqrt()


def samples(found, of_grid):
    """Its moments are those of the grid, up to the error of some hundred draws."""
    mean, std = of_grid
    assert (found.diagnostics.rhat < 1.1).all()
    assert (((found.mean - mean) / std).abs() < 0.25).all()
    assert ((found.std / std - 1).abs() < 0.25).all()


@pytest.mark.slow
def test_exact_samples_what_a_grid_of_marches_has(data, of_grid):
    obs, y = data
    model = pddlvm.LatentVariableModel(obs.problem, n_shapes=8, n_modes=8)
    found = model.infer(y, obs, "exact", n_samples=160, n_chains=8)
    assert float(found.diagnostics.khat) < 0.7
    assert float(found.diagnostics.acceptance) > 0.8
    samples(found, of_grid)


@pytest.mark.slow
def test_chains_do_without_a_surrogate_that_is_no_help(data, of_grid, monkeypatch):
    # That of one shape knows its error: its wide density is a poor proposal, and has no heavy tail.
    monkeypatch.setattr("pddlvm.inference.exact._KHAT", 0.0)
    obs, y = data
    model = pddlvm.LatentVariableModel(obs.problem, n_shapes=1, n_modes=1)
    found = model.infer(y, obs, "exact", n_samples=300, n_chains=4)
    # Of trajectories by adjoint gradients; one proposal in five is taken.
    assert float(found.diagnostics.acceptance) > 0.5
    samples(found, of_grid)


def test_posteriors_are_checked_by_marches(data):
    obs, y = data
    model = pddlvm.LatentVariableModel(obs.problem, n_shapes=8, n_modes=8)
    assert float(model.infer(y, obs).check(32).diagnostics.khat) < 0.7
