"""Derivatives by z of answers in time are those of differences; what has none is refused."""

from functools import cache

import parabolic
import pytest
import torch
from checks import slope_test
from torch import Tensor

import pddlvm

# Dirichlet values that follow z; the time in a load; a nonlinear term with both.
KINDS = ["boundary", "ramp", "reaction"]
QUANTITIES = {
    "average": lambda u: u.flatten(1).mean(1, keepdim=True),
    "square": lambda u: u.flatten(1).square().mean(1, keepdim=True),
}


@cache
def made(kind: str) -> pddlvm.LatentVariableModel:
    problem = parabolic.make(kind, 3, 5)
    model = pddlvm.LatentVariableModel(problem, n_shapes=4, n_modes=5, dtype=torch.float64)
    pddlvm.train(model, max_steps=10, calibrate=False)
    model.calibrate(64)
    return model


@cache
def quantity_of(kind: str, name: str) -> pddlvm.Quantity:
    problem = made(kind).problem
    if name == "linear":
        rows = torch.linspace(-1, 1, problem.n_times * problem.n_dofs, dtype=torch.float64)
        return pddlvm.Quantity(problem, rows[None], name)
    return pddlvm.Quantity(problem, QUANTITIES[name], name)


def check_slope(read, z: Tensor) -> None:
    """Derivatives at z are those of differences, and values are those without a graph."""
    torch.testing.assert_close(
        read(z.clone().requires_grad_()).detach(), read(z), rtol=1e-9, atol=1e-12
    )
    slope_test(read, z, 1.0, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("answer", ["mean", "std", "residual_norm", "coefficients"])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_trajectories_are_those_of_differences(kind, answer, corrections):
    model = made(kind)
    z = model.problem.prior.sample((2,), seed=3)
    check_slope(lambda z: getattr(model.forward(z, corrections=corrections), answer), z)


@pytest.mark.parametrize("kind", ["boundary", "reaction"])
def test_those_of_densities_and_draws_too(kind):
    model = made(kind)
    z = model.problem.prior.sample((2,), seed=3)
    u = model.problem.solve(z)
    rows = torch.linspace(-1, 1, 2 * u[0].numel(), dtype=torch.float64).reshape(2, -1)
    check_slope(lambda z: model.forward(z).log_prob(u), z)
    check_slope(lambda z: model.forward(z).sample((2,), seed=1), z)
    check_slope(lambda z: model.forward(z).interval(0.9)[1], z)
    check_slope(lambda z: model.forward(z).covariance(rows), z)


def test_those_at_own_times_too():
    model = made("boundary")
    z = model.problem.prior.sample((2,), seed=3)
    check_slope(lambda z: model.forward(z, times=[0.1, 0.3]).mean, z)


@pytest.mark.slow
@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("part", ["mean", "std"])
@pytest.mark.parametrize("name", ["linear", *QUANTITIES])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_quantities_of_trajectories(kind, name, part, corrections):
    model, quantity = made(kind), quantity_of(kind, name)
    z = model.problem.prior.sample((2,), seed=3)
    check_slope(lambda z: getattr(model.forward(z, corrections=corrections).of(quantity), part), z)


def test_a_derivative_of_a_derivative_of_a_correction_is_refused():
    model = made("reaction")
    z = model.problem.prior.sample(seed=0).requires_grad_()
    with pytest.raises(pddlvm.InputError, match="first derivatives only"):
        torch.autograd.grad(model.forward(z, corrections=1).mean.sum(), z, create_graph=True)


def test_marches_have_no_derivative_and_say_so():
    model = made("ramp")
    z = model.problem.prior.sample(seed=0)
    with pytest.raises(pddlvm.InputError, match="take corrections=1"):
        model.forward(z.clone().requires_grad_(), corrections=2)
    assert not model.forward(z, corrections=2).mean.requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_transforms_are_refused():
    model = made("ramp")
    z = model.problem.prior.sample((1,), seed=0)
    with pytest.raises(pddlvm.InputError, match="backwards"):
        torch.func.jacrev(lambda x: model.forward(x).mean)(z)


def test_without_a_gradient_there_is_no_graph():
    model = made("ramp")
    z = model.problem.prior.sample((1,), seed=0)
    forward = model.forward(z)
    assert not any(x.requires_grad for x in (forward.mean, forward.std, forward.residual_norm))
    with torch.no_grad():
        assert not model.forward(z.requires_grad_()).std.requires_grad
