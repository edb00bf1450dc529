"""Shapes of trajectories: more than a model has, and never more than there are."""

import parabolic
import pytest

import pddlvm


@pytest.fixture(scope="module")
def problem():
    return parabolic.make("moving", 6, 8)


def test_a_march_has_a_certificate_of_the_size_of_its_error(problem):
    model = pddlvm.LatentVariableModel(problem, seed=0)
    z = problem.prior.sample((40,), seed=7)
    u, forward = problem.solve(z), model.forward(z, corrections=2)
    error = model.norm(forward.mean - u) / model.norm(u)
    assert model.modes.steps.n < model.reduction.steps.n <= len(problem.steady.free_dofs)
    assert float(error.max()) < 1e-3
    assert 0.3 < float((error / forward.residual_norm).median()) < 3


@pytest.mark.slow
def test_all_shapes_of_a_mesh_hold_every_solution(problem):
    model = pddlvm.LatentVariableModel(problem, n_shapes=500, seed=0)
    z = problem.prior.sample((10,), seed=7)
    assert model.modes.steps.n == len(problem.steady.free_dofs)
    u = problem.solve(z)
    error = model.norm(model.forward(z, corrections=2).mean - u) / model.norm(u)
    # What is left is the interpolation of the coefficients.
    assert float(error.max()) < 1e-4
