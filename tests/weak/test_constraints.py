"""Mean values that make a solution unique, and loads that must balance then."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import skfem
import torch
from checks import l2_error, orders, refuses
from flows import channel

import pddlvm
from pddlvm import fem, linalg

PI = math.pi
MEAN = [pddlvm.MeanValue()]
K = pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def exact(x):
    """Of mean zero; its flux is zero on the sides of x_1, and on the left."""
    a, b = x[..., 0], PI * x[..., 1]
    return a**2 * b.cos() + a**2 / 2 - 1 / 6


def source(x):
    a, b = x[..., 0], PI * x[..., 1]
    return -2 * b.cos() + PI**2 * a**2 * b.cos() - 1


def outflow(x):
    """k du/dx_0 on the right, over k."""
    return 2 * (PI * x[..., 1]).cos() + 1


def energy(u, du, x, k):
    return k * (0.5 * du @ du - source(x) * u)


def through(u, du, x, k):
    return -k * outflow(x) * u


def neumann(n=4, degree=1, function=energy, constraints=MEAN, mesh=None, **changes):
    space = fem.Space(mesh or fem.unit_square(n), degree)
    terms = [
        pddlvm.Energy(space.interior(), function),
        pddlvm.Energy(space.boundary("right"), through),
    ]
    arguments = {"terms": terms, "fields": {"k": K}, "constraints": constraints}
    return pddlvm.Problem("neumann", space, **(arguments | changes))


@pytest.mark.parametrize("degree", [1, 2])
def test_orders_of_a_problem_with_fluxes_only(degree):
    errors = []
    for n in (8, 16):
        case = neumann(n, degree)
        errors.append(l2_error(case.space, case.solve(double([1.3])), exact))
    assert orders(errors)[-1] == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.parametrize("make", [neumann, lambda: neumann(4, 2)])
def test_the_mean_is_zero_and_the_residual_vanishes(make):
    case, z = make(), double([[0.7], [1.4]])
    u = case.solve(z)
    mean = pddlvm.average_matrix(case, [lambda x: x[:, 0] < 2]) @ u.T.numpy()
    np.testing.assert_allclose(mean, 0.0, atol=1e-14)
    start = case.residual(torch.zeros_like(u), z).norm(dim=1)
    # Rounding of one solve.
    assert (case.residual(u, z).norm(dim=1) < 1e-12 * start).all()


def test_the_residual_sees_neither_the_mean_nor_the_imbalance():
    case, z = neumann(), double([0.7])
    u = case.solve(z)
    torch.testing.assert_close(case.residual(u + 3, z), case.residual(u, z), rtol=0, atol=1e-13)
    # Without its multiplier the residual would sum to what the quadrature leaves of the loads.
    assert case.residual(0 * u, z).sum().abs() < 1e-14
    assert torch.autograd.gradcheck(case.residual, (u.requires_grad_(), z.requires_grad_()))


def test_a_solution_is_that_of_one_fixed_value_but_for_the_mean():
    case, z = neumann(), double([0.7])
    corner = pddlvm.Dirichlet(fem.Nodes([0]))
    other = neumann(constraints=(), dirichlet=[corner])
    u, v = case.solve(z), other.solve(z)
    # What the quadrature leaves of the loads is drawn at the corner there: it is spread here.
    assert (u - v - (u - v).mean()).abs().max() < 0.1 * u.abs().max()


def test_a_nonlinear_problem_with_fluxes_only():
    def nonlinear(u, du, x, k):
        return k * (0.5 * du @ du + 0.25 * (du @ du) ** 2 - torch.sin(2 * PI * x[0]) * u)

    space = fem.Space(fem.unit_square(6))
    case = pddlvm.Problem(
        "nonlinear",
        space,
        [pddlvm.Energy(space.interior(), nonlinear)],
        {"k": K},
        constraints=MEAN,
    )
    u, z = case.solve(double([0.7])), double([0.7])
    assert case.residual(u, z).norm() < 1e-9 * case.residual(0 * u, z).norm()


@pytest.mark.parametrize("load", [1, -0.25])
def test_loads_that_do_not_balance_are_refused_with_their_size(load):
    space = fem.Space(fem.unit_square(4))
    term = pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * du @ du - load * u)
    case = neumann(terms=[term], mesh=space.mesh)
    said = rf"loads of sample 0 \(z = \[0.5\]\) do not balance: those on 'u' sum to {load} \(their"
    with pytest.raises(pddlvm.ProblemError, match=said):
        case.solve(double([0.5]))


def test_a_flow_that_does_not_leave_is_refused():
    def inflow(x):
        return torch.stack([4 * x[1] * (1 - x[1]), 0 * x[0]])

    walls = [pddlvm.Dirichlet(None), pddlvm.Dirichlet("left", inflow)]
    case = channel(3, dirichlet=walls, constraints=[pddlvm.MeanValue("p")])
    with pytest.raises(pddlvm.ProblemError, match=r"those on 'p' sum to .*flows in and out"):
        case.solve(double([1.0]))


# --- which constraints ---------------------------------------------------------------------------


def test_constraints_that_cannot_be_are_named():
    refuses("constraints must be a list of MeanValue", neumann, constraints="p")
    refuses("no field 'q'|one field, 'u'", neumann, constraints=[pddlvm.MeanValue("q")])
    refuses("given twice", neumann, constraints=MEAN * 2)
    refuses("needs a component between 0 and 0", neumann, constraints=[pddlvm.MeanValue("u", 1)])
    refuses("which has 2 components, needs a component", channel, constraints=MEAN)


def test_constraints_that_are_one_too_many_are_refused():
    refuses("Dirichlet values hold", neumann, dirichlet=[pddlvm.Dirichlet("left")])
    refuses(
        "a term holds it already", neumann, function=lambda u, du, x, k: energy(u, du, x, k) + u**2
    )
    open_end = channel(3)
    assert not open_end.constraints
    refuses("MeanValue.*'p'.*one too many", channel, constraints=[pddlvm.MeanValue("p")])


def test_one_mean_is_not_for_two_parts():
    one = fem.unit_square(2)
    two = dataclasses.replace(one, doflocs=one.doflocs + np.array([[2.0], [0.0]]))
    both = skfem.MeshTri(np.hstack([one.p, two.p]), np.hstack([one.t, two.t + one.p.shape[1]]))
    both = both.with_boundaries({"right": lambda x: x[0] > 2.99})
    term = pddlvm.Energy(fem.Space(both).interior(), lambda u, du, x, k: k * du @ du)
    refuses("one mean value for 2 parts", neumann, terms=[term], mesh=both)


def test_equations_that_are_not_conserved_are_refused():
    space = fem.Space(fem.unit_square(3))
    term = pddlvm.Flux(space.interior(), lambda u, du, x, k: (x[0] * du[0], k * du))
    refuses("leave more than loads", pddlvm.Problem, "advection", space, [term], {"k": K},
            constraints=MEAN)  # fmt: skip


def test_without_a_constraint_it_is_offered():
    refuses(r"or fix its mean, constraints=\[MeanValue\(\)\]", neumann, constraints=())


def test_components_of_a_vector_have_means_of_their_own():
    space = fem.Space(fem.unit_square(3), n_components=2)

    def pulled(u, du, x, k):
        return 0.5 * k * (du * du).sum() - torch.sin(2 * PI * x[0]) * u[0]

    def make(*components):
        return pddlvm.Problem(
            "two", space, [pddlvm.Energy(space.interior(), pulled)], {"k": K},
            constraints=[pddlvm.MeanValue(component=i) for i in components],
        )  # fmt: skip

    refuses("no Dirichlet boundary", make, 0)
    u = make(0, 1).solve(double([1.0])).numpy()
    np.testing.assert_allclose(u[space.dof_components == 1], 0.0, atol=1e-14)
    assert np.abs(u).max() > 1e-3


# --- what is around ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [linalg.SuperLU(), linalg.Automatic(), linalg.Multigrid()])
def test_solvers_agree(solver):
    if isinstance(solver, linalg.Multigrid):
        pytest.importorskip("pyamg")
    z = double([0.7])
    expected = neumann(8, solver=linalg.SuperLU()).solve(z)
    # Multigrid iterates up to a tolerance.
    torch.testing.assert_close(neumann(8, solver=solver).solve(z), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_equal_solutions(copied):
    case, z = neumann(), double([[0.8]])
    other = copied(case)
    assert torch.equal(other.solve(z), case.solve(z))
    assert other.fingerprint == case.fingerprint
    assert other.constraints == tuple(MEAN)


def test_a_constraint_is_part_of_what_a_problem_is():
    space = fem.Space(fem.unit_square(2), n_components=2)
    terms = [pddlvm.Energy(space.interior(), lambda u, du, x, k: k * (du * du).sum())]
    held = [pddlvm.MeanValue(component=i) for i in (0, 1)]
    one, other = (
        pddlvm.Problem("two", space, terms, {"k": K}, constraints=held[::step]) for step in (1, -1)
    )
    assert one.fingerprint != other.fingerprint


def test_derivatives_by_the_adjoint_are_differences():
    space = fem.Space(fem.unit_square(4))

    def pulled(u, du, x, k):
        return 0.5 * k * du @ du - k**3 * torch.sin(2 * PI * x[0]) * u

    case = neumann(terms=[pddlvm.Energy(space.interior(), pulled)], mesh=space.mesh)
    z, d = double([[0.8]]), 1e-5
    slope = torch.from_numpy(case.evaluation([[0.3, 0.6]]).toarray())
    step = (case.solve(z + d) - case.solve(z - d)) / (2 * d)
    u, pull_back = case.sensitivities().adjoint(z)
    # Errors of the difference: 1e-10, and rounding over the step.
    torch.testing.assert_close(pull_back(slope)[0, 0], (slope @ step[0])[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(u, case.solve(z), rtol=0, atol=1e-12)


def test_an_energy_that_only_constants_escape_keeps_its_norm():
    problem = neumann()
    model = pddlvm.LatentVariableModel(problem)
    assert model.covariance == pddlvm.EnergyNorm()
    z = problem.prior.sample((4,), seed=0)
    u = problem.solve(z)
    means = torch.from_numpy(problem.form.constraints.means)
    corrected = model.forward(z, corrections=1).mean
    assert float((corrected @ means.T).abs().max()) < 1e-12
    # What is left is outside of the basis, which is as good as its tolerance.
    assert float((model.norm(corrected - u) / model.norm(u)).max()) < 1e-4
