"""The norm of problems whose own operator is not positive: field by field, or the user's."""

import flows
import numpy as np
import pytest
import scipy.linalg as sl
import skfem as fe
import torch
from checks import refuses
from skfem.helpers import ddot, dot, grad

import pddlvm
from pddlvm import fem
from pddlvm.weak.inner_product import inner_product


def helmholtz(n=4, degree=2, **options):
    """-div(k grad u) - 60 u = 1, k about 2: positive is its gradient alone."""
    space = fem.Space(fem.unit_square(n), degree)

    def density(u, du, x, k):
        return 0.5 * k * du @ du - 30 * u**2 - u

    return pddlvm.Problem(
        "waves",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"k": pddlvm.Constant(pddlvm.Uniform(1.9, 2.1))},
        [pddlvm.Dirichlet(None)],
        **options,
    )


@pytest.mark.parametrize("degree", [1, 2])
def test_a_wave_is_measured_by_its_gradient(degree):
    """The rule of degree 2 has a negative weight."""
    problem = helmholtz(degree=degree)
    basis = fe.Basis(problem.space.mesh, [fe.ElementTriP1(), fe.ElementTriP2()][degree - 1])
    laplace = fe.BilinearForm(lambda u, v, w: dot(grad(u), grad(v))).assemble(basis)
    np.testing.assert_allclose(inner_product(problem).toarray(), 2 * laplace.toarray(), atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_pressure_is_balanced_with_its_velocity(sign):
    """Whatever the sign of its rows: the least eigenvalue of B A^-1 B^T in X_p is one."""

    def rows(u, du, p, x, nu):
        found = flows.stokes(u, du, p, 0, x, nu)
        return {"u": found["u"], "p": (sign * du.trace(), 0.0)}

    problem = flows.channel(n=3, function=rows)
    x = inner_product(problem).toarray()
    velocity, pressure = (problem.space.field(name)[0] for name in "up")
    basis = fe.Basis(problem.space.mesh, fe.ElementVector(fe.ElementTriP2()))
    own = fe.BilinearForm(lambda u, v, w: ddot(grad(u), grad(v))).assemble(basis).toarray()
    z0 = float(problem.prior.unstandardise(torch.zeros(1, 1, dtype=torch.float64)))
    np.testing.assert_allclose(x[velocity, velocity], z0 * own, atol=1e-12)
    k = problem.solver.assemble_unconstrained([t[0] for t in tangents_at_rest(problem)]).toarray()
    free = problem.free_dofs[problem.free_dofs < velocity.stop]
    b = k[pressure][:, free]
    schur = b @ np.linalg.solve(x[np.ix_(free, free)], b.T)
    assert sl.eigvalsh(schur, x[pressure, pressure]).min() == pytest.approx(1, rel=1e-9)
    assert not x[velocity, pressure].any()


def tangents_at_rest(problem):
    operators = problem.discretisation(torch.float64, torch.device("cpu"))
    z = problem.prior.unstandardise(torch.zeros(1, problem.n_parameters, dtype=torch.float64))
    return operators.tangents(torch.zeros(1, problem.n_dofs, dtype=torch.float64), z)


def test_many_pressures_are_balanced_like_few(monkeypatch):
    problem = flows.channel(n=6)
    dense = inner_product(problem)
    monkeypatch.setattr("pddlvm.weak.inner_product._FEW", 3)
    few = inner_product(problem)
    pressure = problem.space.field("p")[0]
    ratio = few[pressure, pressure].sum() / dense[pressure, pressure].sum()
    # Lanczos stops at a percent, which is more than enough for a scale.
    assert ratio == pytest.approx(1, abs=0.02)


def test_units_of_the_pressure_do_not_matter():
    """A pressure in thousandths: |p|_X is that of the same pressure."""

    def milli(u, du, p, x, nu):
        found = flows.stokes(u, du, 1e-3 * p, 0, x, nu)
        return {"u": found["u"], "p": (1e-3 * du.trace(), 0.0)}

    plain, scaled = (flows.channel(n=3, function=f) for f in (flows.stokes, milli))
    pressure = plain.space.field("p")[0]
    one, other = (inner_product(p)[pressure, pressure].toarray() for p in (plain, scaled))
    np.testing.assert_allclose(other, 1e-6 * one, rtol=1e-9, atol=1e-16)


def test_what_nothing_holds_gets_a_mass():
    """Periodic waves: |grad u|^2 sees no constants."""
    space = fem.Space(fem.unit_square(4), periodic={"left": "right", "bottom": "top"})

    def density(u, du, x, k):
        return 0.5 * du @ du - 0.5 * k * u**2 - x[0] * u

    problem = pddlvm.Problem(
        "waves",
        space,
        [pddlvm.Energy(space.interior(), density)],
        {"k": pddlvm.Constant(pddlvm.Uniform(10.0, 20.0))},
    )
    x = inner_product(problem).toarray()
    assert np.linalg.eigvalsh(x).min() > 0
    mass = space.gram_matrices()[0].toarray()
    one = np.ones(space.n_dofs)
    # Of constants it is q M alone, and q the quotient of a wave, on a mesh of four cells a side.
    q = (one @ x @ one) / (one @ mass @ one)
    assert q == pytest.approx(4 * np.pi**2, rel=0.5)


def test_one_that_is_given_is_taken():
    space = fem.Space(fem.unit_square(4), 2)

    def h1(u, du, x, k):
        return 0.5 * k * du @ du + 3 * u**2

    problem = helmholtz(inner_product=[pddlvm.Energy(space.interior(), h1)])
    model = pddlvm.LatentVariableModel(problem)
    u = torch.stack([torch.ones(problem.n_dofs), torch.from_numpy(space.dof_points[:, 0])]).double()
    # int 6 and int 2 + 6 x^2.
    torch.testing.assert_close(model.norm(u), torch.tensor([6.0, 4.0]).double().sqrt())
    assert problem.fingerprint != helmholtz().fingerprint


def test_one_that_is_not_positive_is_refused():
    space = fem.Space(fem.unit_square(4), 2)
    energy = pddlvm.Energy(space.interior(), lambda u, du, x: 0.5 * du[0] ** 2 - 20 * u**2)
    problem = helmholtz(inner_product=[energy])
    refuses("inner product of problem 'waves' is not positive", pddlvm.LatentVariableModel, problem)


def test_one_of_another_space_is_refused():
    other = fem.Space(fem.unit_square(3))
    energy = pddlvm.Energy(other.interior(), lambda u, du, x: 0.5 * du @ du)
    refuses("region of another space", helmholtz, inner_product=[energy])
    flux = pddlvm.Flux(helmholtz().space.interior(), lambda u, du, x: (u, du))
    refuses("inner_product must be a list of Energy", helmholtz, inner_product=[flux])
