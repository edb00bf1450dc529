"""u = V c + L a(z): orthonormality, lifting and projection, for every kind of basis."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch

import pddlvm
from pddlvm import fem
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.reduction import reduce
from pddlvm.reduced.reference import Reference, orthonormalise
from pddlvm.reduced.representation import Representation
from problems import nonlinear_poisson, poisson

BASES = [
    pddlvm.ResidualEnriched(n_modes=8),
    pddlvm.EnergyModes(8),
    pddlvm.ChebyshevBasis(3),
    pddlvm.Nodal(),
]

ROUNDING = 1e-11
"""Float64 rounding, times the condition number of K0 on these meshes (below 1e3), with a margin."""


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum()


def inflow_and_ramp(n: int = 5) -> pddlvm.Problem:
    """Random diffusion with u = 1 + g x on top and u = -1 at the bottom: values that follow z."""
    space = fem.Space(fem.unit_square(n))
    return pddlvm.Problem(
        "ramp",
        space,
        terms=[pddlvm.Energy(space.interior(), diffusion)],
        fields={
            "kappa": pddlvm.Piecewise.on_blocks(space, (2, 1), prior=pddlvm.LogNormal(0.0, 0.5)),
            "g": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
        },
        dirichlet=[
            pddlvm.Dirichlet("bottom", -1.0),
            pddlvm.Dirichlet("top", lambda x, g: 1 + g * x[0]),
        ],
    )


@pytest.fixture(scope="module")
def square() -> pddlvm.Problem:
    return poisson.make(8, n_terms=3)


@pytest.fixture(scope="module")
def ramp() -> pddlvm.Problem:
    return inflow_and_ramp()


def centre(problem: pddlvm.Problem) -> torch.Tensor:
    return problem.prior.unstandardise(torch.zeros(problem.n_parameters, dtype=torch.float64))


def dense_k0(problem: pddlvm.Problem) -> np.ndarray:
    """The stiffness at the centre of the prior, from the reference solver."""
    u = torch.zeros(problem.n_dofs, dtype=torch.float64)
    return problem.solver.matrix(u, centre(problem)).toarray()


@cache
def vectors(problem: pddlvm.Problem, basis) -> np.ndarray:
    """V on the free degrees of freedom; compressed where the basis is."""
    if basis.n_kept is not None:
        return reduce(problem, basis).v
    galerkin = Galerkin(problem, Reference.of(problem))
    return basis.build(galerkin, torch.Generator().manual_seed(0))


def representation(problem: pddlvm.Problem, basis) -> Representation:
    v = vectors(problem, basis)
    return Representation(problem, Reference.of(problem), v, torch.float64)


@pytest.mark.parametrize("basis", BASES, ids=repr)
@pytest.mark.parametrize("make", ["square", "ramp"])
def test_basis_is_orthonormal_in_the_reference_energy(basis, make, request):
    problem = request.getfixturevalue(make)
    v = vectors(problem, basis)
    gram = v.T @ dense_k0(problem) @ v
    np.testing.assert_allclose(gram, np.eye(v.shape[1]), atol=ROUNDING)


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_projection_inverts_expansion(basis, ramp):
    shown = representation(ramp, basis)
    z = ramp.prior.sample((5,), seed=1)
    c = torch.randn(5, shown.n_modes, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(shown.project(shown.expand(c, z)), c, atol=ROUNDING, rtol=0)


def test_projection_needs_no_boundary_values_of_its_own(ramp):
    # The lifts are K0-harmonic: the coefficients of a lift alone are zero.
    shown = representation(ramp, pddlvm.Nodal())
    lifts = shown.basis[:, shown.n_modes :].T
    assert shown.project(lifts).abs().max() < ROUNDING


def test_expansion_takes_the_boundary_values_of_z(ramp):
    shown = representation(ramp, pddlvm.EnergyModes(4))
    z = ramp.prior.sample((3,), seed=2)
    u = shown.expand(torch.ones(3, 4, dtype=torch.float64), z)
    x = torch.from_numpy(ramp.space.dof_points)
    top = torch.from_numpy(ramp.space.dofs_on("top"))
    expected = 1 + z[:, -1:] * x[top, 0]
    torch.testing.assert_close(u[:, top], expected, atol=ROUNDING, rtol=0)


def test_boundary_coordinates_of_a_solution_are_those_of_its_parameters(ramp):
    shown = representation(ramp, pddlvm.EnergyModes(4))
    z = ramp.prior.sample((3,), seed=3)
    read = shown.boundary_coordinates_of(ramp.solve(z))
    torch.testing.assert_close(read, shown.boundary_coordinates(z), atol=ROUNDING, rtol=0)


def test_one_varying_boundary_shape_takes_one_lift_beside_the_mean(ramp):
    assert representation(ramp, pddlvm.EnergyModes(4)).n_lifts == 2


def test_fixed_boundary_values_take_one_lift(square):
    assert representation(square, pddlvm.EnergyModes(4)).n_lifts == 1


def test_lifts_are_harmonic_in_the_reference_operator(ramp):
    # r is affine in u: K0 L = r(L, z0) - r(0, z0), from the full operator alone.
    lifts = torch.from_numpy(Reference.of(ramp).lifts.T.copy())
    zero = torch.zeros(1, ramp.n_dofs, dtype=torch.float64)
    r = ramp.residual(lifts, centre(ramp)) - ramp.residual(zero, centre(ramp))
    assert r.abs().max() < ROUNDING


def test_modes_vanish_on_the_dirichlet_boundary(ramp):
    vectors = representation(ramp, pddlvm.ChebyshevBasis(3)).vectors
    assert torch.equal(vectors[ramp.fixed_dofs], torch.zeros_like(vectors[ramp.fixed_dofs]))


@pytest.mark.parametrize("make", ["square", "ramp"])
def test_nodal_basis_holds_the_reference_solution(make, request):
    problem = request.getfixturevalue(make)
    shown = representation(problem, pddlvm.Nodal())
    z = problem.prior.sample((4,), seed=4)
    u = problem.solve(z)
    torch.testing.assert_close(shown.expand(shown.project(u), z), u, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("make", ["square", "ramp"])
def test_galerkin_in_the_nodal_basis_is_the_reference_solver(make, request):
    problem = request.getfixturevalue(make)
    shown = representation(problem, pddlvm.Nodal())
    reference = Reference.of(problem)
    z = problem.prior.sample((4,), seed=5)
    c, _ = Galerkin(problem, reference).solve(shown.vectors[problem.free_dofs].numpy(), z)
    u = shown.expand(torch.from_numpy(c), z)
    # The Galerkin iteration stops at a relative residual of 1e-8 or, as here, at once.
    torch.testing.assert_close(u, problem.solve(z), atol=1e-9, rtol=1e-9)


def mass(problem: pddlvm.Problem) -> np.ndarray:
    free = problem.free_dofs
    return problem.space.gram_matrices()[0].toarray()[np.ix_(free, free)]


def test_energy_modes_have_the_lowest_eigenvalues(square):
    v = vectors(square, pddlvm.EnergyModes(6))
    values = scipy.linalg.eigh(dense_k0(square), mass(square), eigvals_only=True)[:6]
    # V^T K0 V = I, so the Rayleigh quotient of a mode is one over its mass.
    quotients = np.sort(1 / np.einsum("im,ij,jm->m", v, mass(square), v))
    # Both are direct solvers: rounding times the condition number.
    np.testing.assert_allclose(quotients, values, rtol=1e-10)


def test_energy_modes_are_the_eigenvectors():
    # In 1D all eigenvalues are simple, so that each vector is unique up to its sign.
    problem = poisson.make_1d()
    v = vectors(problem, pddlvm.EnergyModes(5))
    values, modes = scipy.linalg.eigh(dense_k0(problem), mass(problem))
    expected = modes[:, :5] / np.sqrt(values[:5])
    v = v[:, np.argsort(-(v**2).sum(axis=0))]
    cosines = np.einsum("im,ij,jm->m", v, dense_k0(problem), expected)
    # Rounding over the relative distance of neighbouring eigenvalues, about one.
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-10)


def best_error(problem: pddlvm.Problem, basis) -> float:
    """Mean distance of solutions from the basis, relative, in the reference energy."""
    v = vectors(problem, basis)
    k0 = dense_k0(problem)
    u = problem.solve(problem.prior.sample((16,), seed=6)).numpy()[:, problem.free_dofs].T
    rest = u - v @ (v.T @ (k0 @ u))
    return float(np.sqrt((rest * (k0 @ rest)).sum() / (u * (k0 @ u)).sum()))


def test_more_energy_modes_never_approximate_worse(square):
    # The spaces are nested.
    errors = [best_error(square, pddlvm.EnergyModes(n)) for n in (2, 8, 32)]
    assert errors[0] > errors[1] > errors[2]


def test_residual_enriched_basis_converges(square):
    errors = [best_error(square, pddlvm.ResidualEnriched(n)) for n in (4, 8, 16)]
    # Three parameters: doubling this basis is worth more than a factor of five; asked for two.
    assert all(fine < 0.5 * coarse for coarse, fine in pairwise(errors))


def test_residual_enriched_basis_beats_as_many_energy_modes(square):
    enriched = best_error(square, pddlvm.ResidualEnriched(16))
    assert enriched < best_error(square, pddlvm.EnergyModes(16))


def test_residual_enriched_basis_stops_at_its_tolerance():
    # u - lift is one shape over kappa: one vector is enough, whatever was asked for.
    assert reduce(poisson.make_1d(), pddlvm.ResidualEnriched(n_modes=8)).v.shape[1] == 1


def test_dependent_columns_are_dropped(square):
    reference = Reference.of(square)
    w = np.random.default_rng(0).standard_normal((square.n_free, 2))
    columns = np.column_stack([w, w @ [1.0, -2.0]])
    v = orthonormalise(np.zeros((square.n_free, 0)), columns, reference.matrix)
    assert v.shape[1] == 2


@pytest.mark.parametrize("make", [poisson.make, nonlinear_poisson.make])
def test_same_seed_same_basis(make):
    problem = make(8)
    one, two, three = (reduce(problem, pddlvm.ResidualEnriched(4), seed=3) for _ in range(3))
    for other in (two, three):
        assert np.array_equal(one.v, other.v)
        assert torch.equal(one.c, other.c)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pddlvm.ResidualEnriched(n_modes=0),
        lambda: pddlvm.ResidualEnriched(tolerance=0.0),
        lambda: pddlvm.ResidualEnriched(tolerance=2.0),
        lambda: vectors(poisson.make_1d(), pddlvm.EnergyModes(0)),
        lambda: vectors(poisson.make_1d(), pddlvm.EnergyModes(19)),
        lambda: vectors(poisson.make_1d(), pddlvm.ChebyshevBasis(0)),
    ],
    ids=["no modes", "no tolerance", "tolerance above 1", "zero", "as many as dofs", "no terms"],
)
def test_impossible_bases_are_refused(make):
    with pytest.raises(pddlvm.InputError):
        make()


def test_enrichment_stops_where_only_round_off_is_left():
    # Few degrees of freedom, large boundary values: the residual never falls below the tolerance.
    space = fem.Space(fem.interval(64))

    def bar(u, du, x, h):
        return 0.5 * (du * du).sum() + 0.5 * h * u**2

    problem = pddlvm.Problem(
        "bar",
        space,
        terms=[pddlvm.Energy(space.interior(), bar)],
        fields={
            "h": pddlvm.KarhunenLoeve.on(space, 4, length=0.4, shift=1.0),
            "end": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
        },
        dirichlet=[pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, end: end)],
    )
    reduction = pddlvm.reduce(problem)
    assert 0 < reduction.v.shape[1] <= problem.n_free


def test_the_nearest_reference_operator_is_taken():
    problem = nonlinear_poisson.make_advection_diffusion(5)
    reference = Reference.of(problem)
    xi = reference.xi[[3, 0, 3]]
    r = torch.randn(3, problem.n_free, generator=torch.Generator().manual_seed(0)).double()
    w = reference.solve_near(r, xi)
    for one, z, rhs in zip(w, problem.prior.unstandardise(xi), r, strict=True):
        k = problem.solver.matrix(torch.zeros(problem.n_dofs, dtype=torch.float64), z).toarray()
        torch.testing.assert_close(torch.from_numpy(k) @ one, rhs, rtol=1e-9, atol=1e-9)


def test_symmetric_problems_have_one_reference_operator(square):
    reference = Reference.of(square)
    r = torch.ones(1, square.n_free, dtype=torch.float64)
    assert not len(reference.centres)
    assert torch.equal(reference.solve_near(r, torch.zeros(1, 3)), reference.approximate(r))
