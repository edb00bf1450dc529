"""Affine systems: the same solutions and gradients as the reference solver."""

import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from problems import nonlinear_poisson, poisson


def blocks(g=1.0) -> pddlvm.Problem:
    """Four materials, an uncertain load, boundary values that may follow z."""
    space = fem.Space(fem.unit_square(6))

    def stored(u, du, x, kappa, f):
        return 0.5 * kappa * (du * du).sum() - f * u

    return pddlvm.Problem(
        "blocks",
        space,
        [pddlvm.Energy(space.interior(), stored)],
        fields={
            "kappa": pddlvm.Piecewise.on_blocks(space, (2, 2), prior=pddlvm.LogNormal(0.0, 1.0)),
            "f": pddlvm.Constant(pddlvm.Normal(10.0, 2.0)),
            "g": g,
        },
        dirichlet=[pddlvm.Dirichlet(None, lambda x, g: g * (1 + x[0]))],
    )


UNCERTAIN = pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))


@pytest.mark.parametrize("g", [1.0, UNCERTAIN])
def test_solutions_are_those_of_the_reference_solver(g):
    problem = blocks(g)
    assert problem.affine is not None
    z = problem.prior.sample((5,), seed=0)
    u, factors = problem.affine.solve(z)
    # Two direct solves of the same system.
    torch.testing.assert_close(u, problem.solve(z), rtol=1e-9, atol=1e-10)
    assert len(factors) == 5


@pytest.mark.parametrize("g", [1.0, UNCERTAIN])
def test_gradients_are_those_of_the_general_adjoint(g, monkeypatch):
    problem = blocks(g)
    obs = pddlvm.PointObservation(problem, [[0.3, 0.4], [0.7, 0.6]], 0.05)
    y = obs.simulate(problem.solve(problem.prior.sample(seed=5)), seed=6)
    density = FiniteElementPosterior(obs, y)
    generator = torch.Generator().manual_seed(0)
    xi = problem.prior.sample_standard((11,), generator=generator)
    value, gradient = density.log_prob_and_gradient(xi)
    torch.testing.assert_close(density.log_prob(xi), value)
    monkeypatch.setitem(problem.__dict__, "affine", None)
    expected, slope = FiniteElementPosterior(obs, y).log_prob_and_gradient(xi)
    torch.testing.assert_close(value, expected)
    # The general adjoint is refined until 1e-10.
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * float(slope.abs().max()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nonlinear_poisson.make_1d(10),  # not linear
        lambda: poisson.make(16, n_terms=16),  # a log-normal field is no short sum
    ],
)
def test_other_problems_have_none(make):
    assert make().affine is None
