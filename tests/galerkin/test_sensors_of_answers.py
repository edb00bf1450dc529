"""What sensors see of an answer, without the field; boundary values without the rest of it."""

import pytest
import torch

import pddlvm
from pddlvm.reduced.representation import Representation
from problems import elasticity, nonlinear_poisson, poisson, stokes

CASES = {
    "2D": (lambda: poisson.make(8, n_terms=3), [[0.3, 0.4], [0.71, 0.6]], {}),
    "boundary": (lambda: poisson.make_missing_middle(16), [[-0.55], [0.3]], {}),
    "nonlinear": (lambda: nonlinear_poisson.make_1d(12), [[-0.55], [0.3]], {}),
    "vector": (lambda: elasticity.make_incompressible(4), None, {"field": "u"}),
    "pressure": (lambda: stokes.make_channel(3), None, {"field": "p"}),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request):
    make, points, options = request.param
    problem = make()
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    if points is None:
        points = problem.space.mesh.mapping().F(torch.full((2, 1), 0.3).numpy())[:, :2, 0].T
    return model, pddlvm.PointObservation(problem, points, 0.01, **options)


@pytest.mark.parametrize("corrections", [0, 1])
def test_they_are_those_of_the_mean_without_the_mean(case, corrections, monkeypatch):
    model, sensors = case
    z = model.problem.prior.sample((3, 2), seed=0)
    answer = model.forward(z, corrections=corrections)
    expected = sensors.apply(answer.mean)
    size = expected.abs().max()
    monkeypatch.setattr(Representation, "solution", None)
    found = model.forward(z, corrections=corrections).at(sensors)
    assert found.dtype == z.dtype
    # The map has seven digits; the mean has its boundary values in all of them.
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(size))
    one = model.forward(z[0, 0].float()).at(sensors)
    assert one.dtype == torch.float32 and one.shape == (sensors.n,)


def test_a_gradient_passes(case):
    model, sensors = case
    z = model.problem.prior.sample((2,), seed=1).requires_grad_()
    (found,) = torch.autograd.grad(model.forward(z).at(sensors).sum(), z)
    (expected,) = torch.autograd.grad(sensors.apply(model.forward(z).mean).sum(), z)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_sensors_of_another_problem_are_refused(case):
    model, _ = case
    other = poisson.make(4)
    answer = model.forward(model.problem.prior.sample(seed=0))
    with pytest.raises(pddlvm.InputError, match="with another mesh"):
        answer.at(pddlvm.PointObservation(other, [[0.5, 0.5]], 0.1))
    with pytest.raises(pddlvm.InputError, match="LinearObservation"):
        answer.at(pddlvm.FunctionObservation(other, lambda u: u[..., :1] ** 2, 1, 0.1))


def test_boundary_values_are_those_of_the_lift(case):
    """Later conditions win where two meet; nothing has the size of the mesh."""
    problem = case[0].problem
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = problem.prior.sample((3,), seed=2)
    lift = operators.lift(z)
    assert torch.equal(operators.boundary_values(z), lift[:, problem.fixed_dofs])
    assert not lift[:, problem.free_dofs].any()
