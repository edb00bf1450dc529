"""The reference solver: order of convergence, reuse of factors, and problems without solution.

Manufactured solutions: u is prescribed, the source -div(k grad u) follows by automatic
differentiation, and the errors are measured with the bases and quadrature of scikit-fem.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import skfem
import torch
from torch.func import grad, jacrev, vmap

import pddlvm
from pddlvm import fem
from pddlvm.basics.errors import ConvergenceError
from pddlvm.linalg import SuperLU
from pddlvm.weak import newton
from pddlvm.weak.assembly import Assembler


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


# Manufactured solutions


def wave(x):
    """The prescribed solution; no derivative of it vanishes on the whole domain."""
    direction = x.new_tensor([1.3, -0.9, 0.7])[: len(x)]
    return torch.sin(0.5 + (direction * x).sum())


def source(conductivity):
    """-div(k(x, u) grad u) of the prescribed solution."""

    def flux(x):
        return conductivity(x, wave(x)) * grad(wave)(x)

    return lambda x: -jacrev(flux)(x).trace()


def variable(x, u):
    """A known coefficient."""
    return 1 + 0.5 * (x * x).sum()


def nonlinear(x, u):
    """The coefficient of a nonlinear problem without a potential."""
    return 1 + u**2


def linear_energy(u, du, x, scale):
    return scale * (0.5 * variable(x, u) * (du * du).sum() - source(variable)(x) * u)


def nonlinear_flux(u, du, x, scale):
    return -scale * source(nonlinear)(x), scale * nonlinear(x, u) * du


def manufactured(space, kind, function):
    """A problem of which `wave` is the solution for each value of its parameter."""
    return pddlvm.Problem(
        "manufactured",
        space,
        [kind(space.interior(), function)],
        fields={"scale": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))},
        dirichlet=[pddlvm.Dirichlet(None, wave)],
    )


def errors(space, element, u):
    """L2 norm of the error and of its gradient."""
    basis = skfem.Basis(space.mesh, element, intorder=6)
    x = basis.global_coordinates()
    points = torch.from_numpy(np.moveaxis(np.asarray(x), 0, -1).reshape(-1, space.dim))
    shape = basis.dx.shape
    value = vmap(wave)(points).numpy().reshape(shape)
    gradient = np.moveaxis(vmap(grad(wave))(points).numpy().reshape(*shape, -1), -1, 0)
    field = basis.interpolate(u.numpy())
    l2 = ((np.asarray(field) - value) ** 2 * basis.dx).sum() ** 0.5
    h1 = ((field.grad - gradient) ** 2 * basis.dx).sum() ** 0.5
    return l2, h1


def observed_orders(kind, function, mesh, degree, element):
    """Orders in L2 and in H1 from each of three meshes n, 2n, 4n to the next."""
    measured = []
    for n in mesh[1]:
        space = fem.Space(mesh[0](n), degree)
        u = manufactured(space, kind, function).solve(double(1.3))
        measured.append(errors(space, element, u))
    return [tuple(np.log2(np.divide(*pair))) for pair in itertools.pairwise(measured)]


def quadrilaterals(n):
    return fem.unit_square(n, quadrilaterals=True)


def hexahedra(n):
    return fem.unit_cube(n, hexahedra=True)


CASES = {
    "P1 interval": ((fem.interval, (8, 16, 32)), 1, skfem.ElementLineP1()),
    "P2 interval": ((fem.interval, (4, 8, 16)), 2, skfem.ElementLineP2()),
    "P1 triangles": ((fem.unit_square, (8, 16, 32)), 1, skfem.ElementTriP1()),
    "P2 triangles": ((fem.unit_square, (4, 8, 16)), 2, skfem.ElementTriP2()),
    "Q1 quadrilaterals": ((quadrilaterals, (8, 16, 32)), 1, skfem.ElementQuad1()),
    "Q2 quadrilaterals": ((quadrilaterals, (4, 8, 16)), 2, skfem.ElementQuad2()),
    "P1 tetrahedra": ((fem.unit_cube, (3, 6, 12)), 1, skfem.ElementTetP1()),
    "P2 tetrahedra": ((fem.unit_cube, (2, 4, 8)), 2, skfem.ElementTetP2()),
    "Q1 hexahedra": ((hexahedra, (3, 6, 12)), 1, skfem.ElementHex1()),
}


@pytest.mark.parametrize(("mesh", "degree", "element"), CASES.values(), ids=CASES)
def test_linear_problem_converges_with_the_order_of_its_elements(mesh, degree, element):
    for l2, h1 in observed_orders(pddlvm.Energy, linear_energy, mesh, degree, element):
        # Theory is p + 1 and p for h to zero; the meshes are coarse.
        assert l2 == pytest.approx(degree + 1, abs=0.15)
        assert h1 == pytest.approx(degree, abs=0.15)


@pytest.mark.parametrize("case", ["P1 interval", "P1 triangles", "P2 triangles"])
def test_nonlinear_problem_converges_with_the_order_of_its_elements(case):
    _, degree, _ = CASES[case]
    for l2, h1 in observed_orders(pddlvm.Flux, nonlinear_flux, *CASES[case]):
        # Theory is p + 1 and p for h to zero; the meshes are coarse.
        assert l2 == pytest.approx(degree + 1, abs=0.15)
        assert h1 == pytest.approx(degree, abs=0.15)


# Nonlinear problems


def bratu(n=32):
    """-u'' = lambda exp(u) on [0, 1], u = 0 at both ends: two solutions below 3.51, none above."""
    space = fem.Space(fem.interval(n))
    return pddlvm.Problem(
        "bratu",
        space,
        [pddlvm.Flux(space.interior(), lambda u, du, x, growth: (-growth * u.exp(), du))],
        fields={"growth": pddlvm.Constant(pddlvm.LogNormal())},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def bratu_centre(growth):
    """Largest value of the lower solution, 2 log cosh(t / 4), t = sqrt(2 growth) cosh(t / 4)."""
    t = 0.0
    for _ in range(200):
        t = math.sqrt(2 * growth) * math.cosh(t / 4)
    return 2 * math.log(math.cosh(t / 4))


@pytest.mark.parametrize("growth", [0.5, 1.0, 2.0, 3.0])
def test_nonlinear_solution_is_the_known_one(growth):
    centre = bratu().solve(double(growth))[16].item()
    # Second order: h^2 = 1e-3, times a factor that grows towards the fold at 3.51.
    assert centre == pytest.approx(bratu_centre(growth), rel=2e-3)


def test_newton_ends_at_round_off():
    problem = bratu()
    z = double([0.5], [2.0], [3.4])
    r = problem.residual(problem.solve(z), z)
    # The solver asks for 1e-10 of the residual of u = 0, whose norm is growth * sqrt(h) < 1.
    assert r.norm(dim=-1).max() < 1e-10


def test_the_last_step_may_be_the_one_that_converges(poisson_1d, monkeypatch):
    z = torch.tensor([[0.3], [1.0]], dtype=torch.float64)
    expected = poisson_1d.solver.solve(z)
    # A linear problem needs one step.
    monkeypatch.setattr(newton, "_MAX_ITERATIONS", 1)
    torch.testing.assert_close(poisson_1d.solver.solve(z), expected, rtol=0, atol=0)


def steep():
    """A residual that is flat far from the solution, where Newton's steps are too long."""
    space = fem.Space(fem.interval(16), quadrature=3)
    return pddlvm.Problem(
        "steep",
        space,
        [
            pddlvm.Flux(
                space.interior(), lambda u, du, x, size: (torch.atan(5 * (u - size)), 0.01 * du)
            )
        ],
        fields={"size": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))},
        dirichlet=[pddlvm.Dirichlet("left")],
    )


def test_line_search_shortens_steps_that_are_too_long():
    # The layer at the left end has the thickness sqrt(0.01 / 5): exp(-1 / 0.045) at the right.
    assert steep().solve(double(1.0))[-1].item() == pytest.approx(1.0, abs=1e-8)


def test_without_line_search_newton_fails_there(monkeypatch):
    monkeypatch.setattr(newton, "_MAX_HALVINGS", 1)
    monkeypatch.setattr(newton, "_MAX_SECANT_STEPS", 0)
    with pytest.raises(ConvergenceError):
        steep().solve(double(1.0))


def test_samples_of_a_batch_may_take_different_numbers_of_steps():
    problem = bratu()
    z = double([0.01], [3.5], [1.0])
    one_by_one = torch.stack([problem.solve(sample) for sample in z])
    # Each ends its own iteration at a relative residual of 1e-10; condition number 1000.
    torch.testing.assert_close(problem.solve(z), one_by_one, rtol=1e-7, atol=0)


def one_spring(flux):
    """Two elements with the same slope of opposite sign: 2 q(2 u) = load / 2 in the middle."""
    space = fem.Space(fem.interval(2))
    return pddlvm.Problem(
        "one spring",
        space,
        [pddlvm.Flux(space.interior(), lambda u, du, x, load: (-load, flux(du)))],
        fields={"load": pddlvm.Constant(pddlvm.Uniform(1.0, 10.0))},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def softening(s):
    """q rises to 0.45 at s = 0.72, falls, and rises again behind s = 2."""
    return s * (0.03 + torch.exp(-(s**2)))


def stiffening(s):
    """Soft below the slope 1, ten thousand times as stiff above it."""
    return 0.01 * s + 100 * torch.relu(s - 1) - 100 * torch.relu(-s - 1)


def test_secant_steps_pass_where_newton_is_stuck():
    # Newton ends in the local maximum of q, below the load; the only solution is far behind it.
    u = one_spring(softening).solve(double(2.0))
    # q(s) = 0.5 at s = 0.5 / 0.03: exp(-278) is nothing.
    assert u[1].item() == pytest.approx(0.5 / 0.03 / 2, rel=1e-9)


def test_without_secant_steps_newton_stays_there(monkeypatch):
    monkeypatch.setattr(newton, "_MAX_SECANT_STEPS", 0)
    with pytest.raises(ConvergenceError, match="try a smaller range of the prior"):
        one_spring(softening).solve(double(2.0))


def test_newton_goes_on_where_secant_steps_do_not_help():
    u = one_spring(stiffening).solve(double(8.0))
    # q(s) = 0.01 s + 100 (s - 1) = 2.
    assert u[1].item() == pytest.approx(102 / 100.01 / 2, rel=1e-9)


def torn(density):
    """A body of which all sides are moved: the lifting moves the cells along them alone."""
    space = fem.Space(fem.unit_square(4), 2, n_components=2)
    return pddlvm.Problem(
        "torn",
        space,
        [pddlvm.Energy(space.interior(), density)],
        fields={"size": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0))},
        dirichlet=[pddlvm.Dirichlet(None, lambda x, size: size * torch.stack([x[0], -x[1]]))],
    )


def rubber(u, du, x):
    growth = du.trace() + du[0, 0] * du[1, 1] - du[0, 1] * du[1, 0]
    return 0.5 * (2 * du.trace() + (du * du).sum()) - growth + 1.25 * growth**2


def test_a_step_at_rest_passes_where_the_lifting_tears_at_cells():
    case, z = torn(rubber), double([0.5], [0.25])
    x, component = case.space.dof_points, case.space.dof_components
    even = torch.from_numpy(np.where(component == 0, x[:, 0], -x[:, 1]))
    # A stretch that is the same everywhere is in balance.
    torch.testing.assert_close(case.solve(z), z * even, rtol=0, atol=1e-9)


def test_without_a_step_at_rest_newton_tears_them(monkeypatch):
    monkeypatch.setattr(newton.ReferenceSolver, "_step_at_rest", lambda *_: None)
    monkeypatch.setattr(newton, "_MAX_SECANT_STEPS", 0)
    monkeypatch.setattr(newton, "_MAX_ITERATIONS", 15)
    with pytest.raises(ConvergenceError):
        torn(rubber).solve(double([0.5], [0.25]))


def test_nothing_is_linearised_where_it_is_not_smooth():
    space = fem.Space(fem.unit_square(2))
    case = pddlvm.Problem(
        "not smooth at rest",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x: (du @ du) ** 0.75)],
        fields={"size": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0))},
        dirichlet=[pddlvm.Dirichlet(None, lambda x, size: size * (1 + x[0]))],
    )
    z = double(0.5)
    assert case.solver._step_at_rest(z, torch.tensor(np.inf)) is None
    # By symmetry the middle has the mean of the sides.
    assert case.solve(z)[case.free_dofs].item() == pytest.approx(0.75, rel=1e-6)


def cancelled():
    """A flux that is the same everywhere: loads of neighbours cancel each other, to rounding."""
    space = fem.Space(fem.unit_square(5), 2, periodic={"left": "right", "bottom": "top"})
    return pddlvm.Problem(
        "cancelled",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * ((du + 1 / 3) ** 2).sum())],
        fields={"k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        constraints=[pddlvm.MeanValue()],
    )


def test_loads_that_cancel_each_other_move_nothing():
    # Rounding of numbers of size one.
    assert cancelled().solve(double([1.0], [1.7])).abs().max() < 1e-13


def test_without_their_sizes_rounding_looks_like_a_load(monkeypatch):
    monkeypatch.setattr(newton, "_ROUND_OFF", 0.0)
    with pytest.raises(pddlvm.ProblemError, match="do not balance"):
        cancelled().solve(double([1.0], [1.7]))


# Failures


@pytest.mark.parametrize(
    "growth", [5.0, *(pytest.param(g, marks=pytest.mark.slow) for g in (10.0, 1000.0))]
)
def test_problem_without_solution_is_an_error(growth):
    shown = r"relative residuals (\d\.\de-\d\d, ){3}\d\.\de-\d\d; the problem may have no solution"
    with pytest.raises(ConvergenceError, match=shown):
        bratu().solve(double(growth))


@pytest.mark.parametrize("sample", [0, 2, 4])
def test_error_names_the_sample_without_solution(sample, monkeypatch):
    monkeypatch.setattr(newton, "_MAX_SECANT_STEPS", 0)
    z = torch.ones(5, 1, dtype=torch.float64)
    z[sample] = 10.0
    with pytest.raises(ConvergenceError, match=rf"sample {sample} \(z = \[10\.0\]\)"):
        bratu().solve(z)


def test_error_names_the_sample_in_a_later_chunk(monkeypatch):
    monkeypatch.setattr(newton, "_MAX_SECANT_STEPS", 0)
    monkeypatch.setattr(newton, "_MEMORY", 1)
    with pytest.raises(ConvergenceError, match=r"sample 3 \(z = \[10\.0\]\)"):
        bratu().solve(double([1.0], [2.0], [1.0], [10.0]))


def two_points(density, prior):
    space = fem.Space(fem.interval(4))
    return pddlvm.Problem(
        "two points",
        space,
        [pddlvm.Energy(space.interior(), density)],
        fields={"kappa": pddlvm.Constant(prior)},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def test_error_names_the_sample_with_a_singular_matrix():
    problem = two_points(lambda u, du, x, kappa: 0.5 * kappa * du[0] ** 2 - u, pddlvm.Normal())
    with pytest.raises(ConvergenceError, match=r"sample 1 \(z = \[0\.0\]\)"):
        problem.solve(double([1.0], [0.0]))


def test_residual_that_is_not_finite_is_an_error_and_no_solution():
    # The derivative of |u'|^3 by way of a square root is 0 * infinity where u' = 0.
    problem = two_points(
        lambda u, du, x, kappa: kappa * (du * du).sum().sqrt() ** 3 - u, pddlvm.Uniform(1.0, 2.0)
    )
    with pytest.raises(ConvergenceError, match="sample 0"):
        problem.solve(double([1.0]))


# Factorisations


@pytest.fixture
def calls(monkeypatch):
    """The matrices that were factorised."""
    seen = []
    original = SuperLU.factorise

    def counted(self, matrix, **kwargs):
        seen.append(matrix)
        return original(self, matrix, **kwargs)

    monkeypatch.setattr(SuperLU, "factorise", counted)
    return seen


def loaded_line(**fields):
    """-(kappa u')' = f on [0, 1], u(0) = 0 and u(1) = g."""
    space = fem.Space(fem.interval(8))

    def density(u, du, x, kappa, f):
        return 0.5 * kappa * (du * du).sum() - f * u

    return pddlvm.Problem(
        "loaded line",
        space,
        [pddlvm.Energy(space.interior(), density)],
        fields={"kappa": 1.0, "f": 1.0, "g": 0.5, **fields},
        dirichlet=[pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, g: g)],
    )


UNCERTAIN = pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))


@pytest.mark.parametrize("name", ["f", "g"])
def test_factors_are_reused_where_only_loads_differ(calls, name):
    loaded_line(**{name: UNCERTAIN}).solve(double([0.6], [1.0], [1.9]))
    assert len(calls) == 1


def test_factors_are_reused_by_the_next_call(calls):
    problem = loaded_line(f=UNCERTAIN)
    problem.solve(double([0.6], [1.0]))
    problem.solve(double([1.9]))
    assert len(calls) == 1


def test_linear_problem_is_factorised_once_per_matrix(calls):
    loaded_line(kappa=UNCERTAIN).solve(double([0.6], [1.0], [1.9]))
    assert len(calls) == 3


def test_factors_are_not_reused_for_another_matrix():
    problem = loaded_line(kappa=UNCERTAIN)
    z = double([0.6], [1.9], [0.6])
    x = torch.from_numpy(problem.space.dof_points[:, 0])
    exact = x * (1 - x) / (2 * z) + 0.5 * x
    # Linear elements with an exact load are exact at the nodes: round-off.
    torch.testing.assert_close(problem.solve(z), exact, rtol=1e-12, atol=1e-13)


def test_solution_without_residual_needs_no_factors(calls):
    loaded_line(f=0.0, g=0.0, kappa=UNCERTAIN).solve(double([0.6]))
    assert not calls


# Matrices and chunks


def skew(space):
    """Diffusion and strong advection along x_0: a matrix that is far from symmetric."""
    return pddlvm.Problem(
        "advection",
        space,
        [pddlvm.Flux(space.interior(), lambda u, du, x, a: (a * du[0] - 1.0, du))],
        fields={"a": pddlvm.Constant(pddlvm.Uniform(1.0, 20.0))},
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def test_problem_without_potential_is_solved():
    problem = skew(fem.Space(fem.unit_square(8)))
    z = double([1.0], [20.0])
    r = problem.residual(problem.solve(z), z)
    # The entries of the load are 1 / 64: round-off of products of size one.
    assert r.abs().max() < 1e-14


@pytest.mark.parametrize(
    "matrix", [[[4, 1, 0], [1, 3, 1], [0, 1, 2]], [[0, 1, 0], [2, 0, 0], [0, 0, 3]]]
)
def test_factors_solve_their_system(matrix):
    matrix = np.array(matrix, dtype=float)
    symmetric = bool((matrix == matrix.T).all())
    lu = SuperLU().factorise(sp.csc_matrix(matrix), symmetric=symmetric)
    # A 3 x 3 system of small numbers: round-off.
    np.testing.assert_allclose(matrix @ lu.solve(np.arange(3.0)), np.arange(3.0), atol=1e-14)


@pytest.mark.parametrize("n_components", [1, 2])
def test_assembled_matrix_equals_the_product_of_dense_ones(n_components):
    space = fem.Space(fem.unit_square(3), 2, n_components=n_components)
    region = space.interior()
    s = region.shape[2]
    generator = torch.Generator().manual_seed(4)
    d = torch.randn(region.weights.size, s, s, generator=generator, dtype=torch.float64)
    free = np.setdiff1d(np.arange(space.n_dofs), space.dofs_on("left"))
    term = pddlvm.Energy(region, lambda u, du, x: u)
    matrix = Assembler((term,), free, space.n_dofs)([d])
    b = region.matrix.toarray()[:, free].reshape(-1, s, len(free))
    expected = np.einsum("psi,pst,ptj->ij", b, d.numpy(), b, optimize=True)
    # Sums of a few dozen products of size 10 to 100: round-off.
    np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-11)


def test_matrix_on_all_degrees_of_freedom_contains_the_free_one(poisson_2d):
    operators = poisson_2d.discretisation(torch.float64, torch.device("cpu"))
    u, z = torch.zeros(81, dtype=torch.float64), double(0.3, -0.5, 1.0, 0.2)
    tangents = [t[0] for t in operators.tangents(u[None], z[None])]
    full = poisson_2d.solver.assemble_unconstrained(tangents)
    part = full.tocsr()[poisson_2d.free_dofs][:, poisson_2d.free_dofs]
    # The same sums of a few numbers of size one.
    assert abs(part - poisson_2d.solver.matrix(u, z)).max() < 1e-14
    # A constant has no energy: each row sums to round-off.
    np.testing.assert_allclose(full @ np.ones(81), 0.0, atol=1e-13)


def test_chunks_do_not_change_the_solution(poisson_2d, monkeypatch, generator):
    z = poisson_2d.prior.sample((5,), generator=generator)
    monkeypatch.setattr(newton, "_MEMORY", 1)
    operators = poisson_2d.discretisation(torch.float64, torch.device("cpu"))
    in_chunks = newton.ReferenceSolver(poisson_2d.form, operators).solve(z)
    # The same operations on the same numbers, perhaps in another order.
    torch.testing.assert_close(in_chunks, poisson_2d.solve(z), rtol=1e-12, atol=1e-13)
