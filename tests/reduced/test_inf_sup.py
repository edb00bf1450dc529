"""Lower bounds of inf-sup constants, beside those of dense matrices, and error bounds by them."""

import flows
import numpy as np
import pytest
import scipy.linalg as sl
import torch
import waves

import pddlvm
from pddlvm import fem
from pddlvm.reduced.inf_sup import NaturalNorm, Saddle, inf_sup_of
from pddlvm.reduced.reference import Reference


def cavity():
    return flows.channel(
        n=3,
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", flows.lid)],
        constraints=[pddlvm.MeanValue("p")],
        fields={"nu": pddlvm.KarhunenLoeve.on(flows.PRESSURE, 2, length=0.5, std=0.5)},
    )


CASES = {
    "random channel": (flows.random_channel, Saddle),
    "cavity": (cavity, Saddle),
    "waves": (lambda: waves.helmholtz(n=4), NaturalNorm),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    make, kind = CASES[request.param]
    problem = make()
    reference = Reference.of(problem)
    bounds = inf_sup_of(problem, reference)
    assert isinstance(bounds, kind)
    return problem, reference, bounds


def singular_values(problem, reference, z):
    """Of X^{-1/2} K(z) X^{-1/2}; without those of constants that a constraint excludes."""
    x = reference.matrix.toarray()
    root = np.linalg.inv(np.linalg.cholesky(x))
    k = problem.solver.matrix(problem.discretisation(z.dtype, z.device).lift(z[None])[0], z)
    found = sl.svdvals(root @ k.toarray() @ root.T)
    return found[: len(found) - len(problem.constraints)]


def test_they_are_below_the_constant_and_near_it(case):
    problem, reference, bounds = case
    z = problem.prior.sample((12,), seed=1)
    beta, continuity = bounds(z)
    exact = [singular_values(problem, reference, one) for one in z]
    least = torch.tensor([values[-1] for values in exact])
    most = torch.tensor([values[0] for values in exact])
    assert (beta <= least * (1 + 1e-9)).all() and (continuity >= most * (1 - 1e-9)).all()
    # Measured while it was designed: 0.94 to 0.99 of saddle points, nearly one of waves.
    assert float((beta / least).median()) > 0.7


def test_they_are_exact_at_the_centre(case):
    problem, reference, bounds = case
    xi = reference.xi[:1] if isinstance(bounds, NaturalNorm) else torch.zeros_like(reference.xi[:1])
    z = problem.prior.unstandardise(xi)
    least = singular_values(problem, reference, z[0])[-1]
    assert float(bounds(z)[0]) == pytest.approx(least, rel=0.02)


@pytest.fixture(scope="module")
def model(case):
    made = pddlvm.LatentVariableModel(case[0], basis=pddlvm.ResidualEnriched(6))
    made.calibrate(32)
    return made


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.slow
def test_errors_lie_between_the_bounds(model, corrections):
    problem = model.problem
    z = problem.prior.sample((40,), seed=2)
    forward = model.forward(z, corrections=corrections)
    error = model.norm(problem.solve(z) - forward.mean)
    lower, upper = forward.error_interval
    rounding = 1e-9 * model.norm(forward.mean)
    assert (error <= upper + rounding).all() and (error >= lower - rounding).all()
    assert float((upper / (error + rounding)).median()) < 3
    assert torch.equal(forward.error_bound, upper)


def test_a_report_counts_errors_beyond_the_bounds(model):
    report = pddlvm.validate(model, 10)
    assert report.effectivity
    assert all(found.violations == 0 for found in report.effectivity.values())


def test_there_are_none_of_a_flow_with_inertia():
    problem = flows.channel(n=3, function=flows.navier_stokes)
    assert inf_sup_of(problem, Reference.of(problem)) is None


def test_a_coefficient_that_vanishes_leaves_none():
    space = flows.taylor_hood(fem.unit_square(3))
    fields = {"nu": pddlvm.Constant(pddlvm.Uniform(0.0, 2.0))}
    problem = flows.channel(space=space, fields=fields)
    bounds = inf_sup_of(problem, Reference.of(problem))
    beta, continuity = bounds(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert float(beta[0]) == 0 and float(continuity[0]) == float("inf")
    assert float(beta[1]) > 0.3
