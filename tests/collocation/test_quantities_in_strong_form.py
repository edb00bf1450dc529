"""Quantities of problems in strong form: read on the grid, with error bars of their own."""

import pytest
import torch
from test_collocation_model import build, make

import pddlvm
from problems import poisson


@pytest.fixture(scope="module")
def model():
    made = build(make())
    pddlvm.train(made, max_steps=150)
    return made


def asked(problem):
    return {
        "rows": torch.linspace(-1, 1, 2 * problem.n_dofs, dtype=torch.float64).view(2, -1),
        "maximum": lambda u: u.unflatten(-1, problem.grid)[..., -1].amax(-1, keepdim=True),
        "with z": lambda u, z: (u**2).mean(-1, keepdim=True) * z[:, :1],
    }


@pytest.mark.parametrize("name", ["rows", "maximum", "with z"])
@pytest.mark.slow
def test_error_bars_hold(model, name):
    problem = model.problem
    quantity = pddlvm.Quantity(problem, asked(problem)[name], name)
    z = problem.prior.sample((150,), seed=3)
    exact, found = quantity(problem.solve(z), z), model.forward(z).of(quantity)
    torch.testing.assert_close(found.mean, quantity(model.forward(z).mean, z))
    assert found.n_draws == 128 and found.bound is None
    lower, upper = found.interval(0.9)
    # Of 150 draws, three standard deviations.
    inside = ((lower <= exact) & (exact <= upper)).double().mean(0)
    assert (inside - 0.9).abs().max() < 0.11
    assert found.sample(3, seed=0).shape == (3, 150, quantity.n)


def test_after_corrections_there_is_a_value_alone(model):
    quantity = pddlvm.Quantity(model.problem, pddlvm.maximum(model.problem))
    z = model.problem.prior.sample((2,), seed=3)
    found = model.forward(z, corrections=1).of(quantity)
    torch.testing.assert_close(found.mean, quantity(model.problem.solve(z)), rtol=1e-6, atol=0)
    with pytest.raises(pddlvm.InputError, match="those of corrections=0"):
        _ = found.std


def test_what_is_of_another_problem_or_at_other_points_is_refused(model):
    quantity = pddlvm.Quantity(model.problem, pddlvm.maximum(model.problem), "maximum")
    z = model.problem.prior.sample(seed=0)
    other = poisson.make(4, n_terms=2)
    with pytest.raises(pddlvm.InputError, match="is of problem 'poisson'"):
        model.forward(z).of(pddlvm.Quantity(other, pddlvm.maximum(other)))
    points = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match="'maximum' reads the grid"):
        model.forward(z, points=points).of(quantity)
