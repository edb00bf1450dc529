"""Reduced trajectories are those of the finite elements, for every kind of problem and scheme."""

from dataclasses import replace
from functools import cache

import parabolic
import pytest
import torch

import pddlvm
from pddlvm.basics.progress import ProgressBar
from pddlvm.trajectory import modes as modes_module
from pddlvm.trajectory import newton
from pddlvm.trajectory.enrichment import find_shapes, full_error
from pddlvm.trajectory.parts import find_parts
from pddlvm.trajectory.reduction import TrajectoryReduction, reduce_trajectories

LINEAR = ["heat", "moving", "ramp", "advection", "boundary", "wave"]
NONLINEAR = ["hot", "reaction", "spring"]
KINDS = LINEAR + NONLINEAR
SLOW = [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "hot")) for kind in NONLINEAR]


@cache
def reduced(kind: str) -> TrajectoryReduction:
    return reduce_trajectories(parabolic.make(kind), 16, 24)


def relative(problem, c, v, u) -> float:
    """Largest relative distance of V c to solutions on the free degrees of freedom."""
    free = torch.from_numpy(problem.steady.free_dofs)
    error = c @ v.T - u[..., free]
    return float((error.flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("kind", [*LINEAR, *SLOW])
def test_marches_in_all_shapes_and_p_by_p_solutions_are_the_solutions(kind):
    found = reduced(kind)
    problem, z = found.problem, found.problem.prior.sample((4,), seed=5)
    u, steps, modes = problem.solve(z), found.steps, found.modes
    assert relative(problem, steps.march(steps.drive(z)), steps.v, u) < 2e-3
    assert relative(problem, modes.expand(modes.solve(z)), modes.steps.v, u) < 1e-2


@pytest.mark.parametrize("kind", [*LINEAR, *SLOW])
def test_the_residual_of_a_march_vanishes(kind):
    found = reduced(kind)
    z, steps = found.problem.prior.sample((3,), seed=6), found.modes.steps
    drive = steps.drive(z)
    c = steps.march(drive)
    # Newton's method ends where 1e-8 of a step is left.
    left = 1e-9 if kind in LINEAR else 1e-6
    assert steps.residual(drive, c).abs().max() < left * steps.residual(drive, 0 * c).abs().max()


@pytest.mark.parametrize("kind", LINEAR)
def test_the_residual_of_the_modes_is_that_of_the_steps_tested_by_the_reference(kind):
    found = reduced(kind)
    z, modes = found.problem.prior.sample((3,), seed=7), found.modes
    steps = modes.steps
    a = torch.randn(3, modes.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m = steps.n
    own = TrajectoryReduction(steps, found.k0[:m, :m], modes, found.a, found.polynomial, (0, 0))
    r = steps.residual(steps.drive(z), modes.expand(a))
    expected = modes.project(own._solve_reference(r))
    # The interpolation of theta over pairs is right to its tolerance.
    torch.testing.assert_close(modes.residual(a, z), expected, rtol=1e-5, atol=1e-5)


def test_a_stiffness_that_does_not_read_the_time_is_inverted_once(monkeypatch):
    steps = reduced("ramp").steps
    drive = steps.drive(steps.problem.prior.sample((2,), seed=0))
    assert drive.theta.shape[1] > 1
    inverted, inverse = [], torch.linalg.inv
    monkeypatch.setattr(torch.linalg, "inv", lambda a: inverted.append(1) or inverse(a))
    monkeypatch.setattr(torch.linalg, "solve", None)
    steps.march(drive)
    # BDF2 begins with a step of backward Euler.
    assert len(inverted) == 2


def test_first_shapes_are_a_basis_too():
    found = reduced("heat")
    z, few = found.problem.prior.sample((2,), seed=1), found.steps.first(5)
    drive, whole = few.drive(z), found.steps.drive(z)
    torch.testing.assert_close(drive.history, whole.history[..., :5])
    torch.testing.assert_close(
        few.march(drive)[..., 0], found.steps.march(whole)[..., 0], rtol=0.05, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["heat", "moving", "boundary", "wave"])
def test_errors_on_the_mesh_are_errors(kind):
    found = reduced(kind)
    problem, few = found.problem, found.steps.first(4)
    z = problem.prior.sample((3,), seed=2)
    c = few.march(few.drive(z))
    inside, e = full_error(few, found.reference, z, c)
    free = torch.from_numpy(problem.steady.free_dofs)
    true = (problem.solve(z)[..., free] - torch.from_numpy(inside)).flatten(1)
    left = (true - torch.from_numpy(e).flatten(1)).norm(dim=1)
    assert (left < 0.6 * true.norm(dim=1)).all()


def test_modes_are_orthonormal_in_space_and_time():
    modes = reduced("heat").modes
    gram = torch.einsum("kmp,k,kmq->pq", modes.phi, modes.steps.weights, modes.phi)
    torch.testing.assert_close(gram, torch.eye(modes.n, dtype=torch.float64), rtol=0, atol=1e-9)


def test_polynomials_are_near_the_solutions():
    found = reduced("heat")
    z = found.problem.prior.sample((20,), seed=3)
    a = found.modes.solve(z)
    assert (found.polynomial(found.problem.prior.standardise(z)) - a).norm() < 1e-3 * a.norm()


@pytest.mark.parametrize("kind", SLOW)
def test_the_residual_of_nonlinear_modes_is_that_of_the_steps_tested_by_the_reference(kind):
    found = reduced(kind)
    z, modes = found.problem.prior.sample((3,), seed=7), found.modes
    steps, m = modes.steps, modes.steps.n
    # Not a solution: the cubatures of the two are to agree where terms do not cancel.
    a = 0.9 * modes.solve(z)
    own = TrajectoryReduction(steps, found.k0[:m, :m], modes, found.a, found.polynomial, (0, 0))
    r = steps.residual(steps.drive(z), modes.expand(a))
    expected = modes.project(own._solve_reference(r))
    assert (modes.residual(a, z) - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("kind", SLOW)
def test_tangents_are_derivatives(kind):
    modes = reduced(kind).modes
    z = modes.steps.problem.prior.sample((2,), seed=3)
    a = modes.solve(z)
    step = 1e-5 * a.norm() * torch.eye(modes.n, dtype=torch.float64)[:5]
    for i, own in enumerate(step):
        moved = (modes.residual(a + own, z) - modes.residual(a - own, z)) / (2 * own.norm())
        # Matrices of Newton's method have the digits of float32.
        torch.testing.assert_close(modes.tangent(a, z)[:, :, i], moved, rtol=1e-4, atol=1e-5)


def test_a_solution_that_grows_without_bounds_is_an_error_with_its_draw():
    said = r"sample \d+, z = \(.*\), at t = "
    with pytest.raises(pddlvm.ConvergenceError, match=said):
        reduce_trajectories(parabolic.make("explosion"), 4, 4)


def test_a_step_that_newtons_method_does_not_find_is_named(monkeypatch):
    steps = reduced("hot").steps
    z = steps.problem.prior.sample((2,), seed=0)
    monkeypatch.setattr(newton, "_MAX_ITERATIONS", 0)
    with pytest.raises(pddlvm.ConvergenceError, match=r"the step of sample 0, z = .*, at t = 0.02"):
        steps.march(steps.drive(z))


def test_modes_far_from_the_polynomial_are_found_by_the_march_or_are_an_error(monkeypatch):
    modes = reduced("hot").modes
    z = modes.steps.problem.prior.sample((3,), seed=0)
    a = modes.solve(z)
    far = replace(modes, start=lambda xi: 1e3 * modes.start(xi))
    torch.testing.assert_close(far.solve(z), a, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(modes_module, "newton", lambda residual, matrix, c, *_: c + 1)
    with pytest.raises(pddlvm.ConvergenceError, match=r"of space and time of sample 0, z = "):
        modes.solve(z)


@pytest.mark.slow
def test_nonlinear_shapes_go_on_from_others():
    found = reduced("hot")
    problem, v = found.problem, found.steps.first(10).v.numpy()
    common = find_parts(problem), found.reference
    wider = find_shapes(*common, 10, 1e-5, 1, ProgressBar(False), v)
    z = problem.prior.sample((4,), seed=5)
    c = wider.steps.march(wider.steps.drive(z))
    # The first round is that of the initial states.
    assert len(wider.errors) >= 2
    assert relative(problem, c, wider.steps.v, problem.solve(z)) < 2e-3
