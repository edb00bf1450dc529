"""Terms: residuals and tangents of energies and fluxes, against scikit-fem and autograd."""

import numpy as np
import pytest
import skfem
import torch
from skfem.helpers import ddot, dot, grad, sym_grad, trace

import pddlvm
from pddlvm import fem
from pddlvm.basics.errors import ProblemError

# Pointwise physics


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum()


def diffusion_flux(u, du, x, kappa):
    return 0.0, kappa * du


def load(u, du, x, f):
    return -f * u


def load_flux(u, du, x, f):
    return -f, torch.zeros_like(du)


def stiffening(u, du, x, kappa):
    return 0.25 * kappa * (1 + (du * du).sum()) ** 2


def reaction(u, du, x, kappa, f):
    return 0.5 * kappa * (1 + u**2) * (du * du).sum() + 0.25 * f * u**4


def advection_diffusion(u, du, x, kappa, f):
    return du[0] * (1 + x[1]) - f, kappa * du


def plane_strain(u, du, x, kappa):
    strain = 0.5 * (du + du.T)
    return kappa * (strain * strain).sum() + 0.5 * kappa * strain.trace() ** 2


def boundary_load(u, du, x, f):
    return -f * (1 + x[0]) * u


# Problems

KAPPA = pddlvm.Chebyshev(prior=pddlvm.Uniform(0.5, 1.5), n_terms=2, low=0.0, high=2.0)
"""Linear in x_0, so that the default quadrature of linear elements is exact for it."""

LINE = fem.Space(fem.interval(5))
TRIANGLES = fem.Space(fem.unit_square(3))
QUADRATIC = fem.Space(fem.unit_square(2), 2)
PLANE = fem.Space(fem.unit_square(3), n_components=2)


def zero(x, kappa, f):
    """A boundary value that reads all fields, since a problem has none that nothing reads."""
    return 0.0 * (kappa + f)


def problem(space, *terms, dirichlet=("left",)):
    return pddlvm.Problem(
        "test",
        space,
        terms,
        fields={"kappa": KAPPA, "f": pddlvm.Constant(pddlvm.Normal())},
        dirichlet=[pddlvm.Dirichlet(name, zero) for name in dirichlet],
    )


CASES = {
    "energy, line": problem(LINE, pddlvm.Energy(LINE.interior(), diffusion)),
    "energy and load": problem(
        TRIANGLES,
        pddlvm.Energy(TRIANGLES.interior(), diffusion),
        pddlvm.Energy(TRIANGLES.interior(), load),
    ),
    "boundary": problem(
        TRIANGLES,
        pddlvm.Energy(TRIANGLES.interior(), diffusion),
        pddlvm.Energy(TRIANGLES.boundary("right"), boundary_load),
    ),
    "nonlinear energy": problem(TRIANGLES, pddlvm.Energy(TRIANGLES.interior(), stiffening)),
    "nonlinear energy, quadratic": problem(
        QUADRATIC, pddlvm.Energy(QUADRATIC.interior(), reaction)
    ),
    "vector": problem(PLANE, pddlvm.Energy(PLANE.interior(), plane_strain)),
    "flux": problem(TRIANGLES, pddlvm.Flux(TRIANGLES.interior(), advection_diffusion)),
    "energy and flux": problem(
        TRIANGLES,
        pddlvm.Energy(TRIANGLES.interior(), reaction),
        pddlvm.Flux(TRIANGLES.interior(), advection_diffusion),
    ),
}
ENERGIES = [name for name, case in CASES.items() if case.has_potential]
cases = pytest.mark.parametrize("name", CASES)
energies = pytest.mark.parametrize("name", ENERGIES)


def draw(case, *batch):
    """A random state and parameters from the prior, (*batch, n_dofs) and (*batch, d)."""
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(*batch, case.n_dofs, generator=generator, dtype=torch.float64)
    return u, case.prior.sample(batch, generator=generator)


def assert_round_off(a, b):
    # The same number by another path: round-off of sums of a few hundred numbers of size one.
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


# Energy and flux


@pytest.mark.parametrize("space", [LINE, TRIANGLES, QUADRATIC], ids=["line", "P1", "P2"])
def test_energy_and_flux_of_poisson_have_the_same_residual(space):
    region = space.interior()
    by_energy = problem(space, pddlvm.Energy(region, diffusion), pddlvm.Energy(region, load))
    by_flux = problem(space, pddlvm.Flux(region, diffusion_flux), pddlvm.Flux(region, load_flux))
    u, z = draw(by_energy, 3)
    assert_round_off(by_flux.residual(u, z), by_energy.residual(u, z))


def test_energy_and_flux_have_the_same_tangents():
    region = TRIANGLES.interior()
    by_energy = problem(TRIANGLES, pddlvm.Energy(region, diffusion))
    by_flux = problem(TRIANGLES, pddlvm.Flux(region, diffusion_flux))
    u, z = draw(by_energy)
    difference = by_energy.solver.matrix(u, z) - by_flux.solver.matrix(u, z)
    # The same sums of a few numbers of size one.
    assert abs(difference).max() < 1e-13


@energies
def test_residual_is_the_gradient_of_the_energy(name):
    case = CASES[name]
    u, z = draw(case, 2)
    u.requires_grad_()
    (gradient,) = torch.autograd.grad(case.energy(u, z).sum(), u)
    assert_round_off(gradient[:, case.free_dofs], case.residual(u, z))


def test_energy_is_the_integral_of_its_density():
    case = CASES["energy and load"]
    x = torch.from_numpy(TRIANGLES.dof_points)
    z = torch.tensor([1.0, 0.6, 2.0], dtype=torch.float64)  # kappa = 0.4 + 0.6 x_0 and f = 2
    u = 1 + 2 * x[:, 0] - x[:, 1]
    # 1/2 (0.4 + 0.6 / 2) (4 + 1) - 2 (1 + 1 - 1/2), each integrand linear: exact to round-off.
    assert case.energy(u, z).item() == pytest.approx(1.75 - 3.0, rel=1e-13)


# Against scikit-fem


def numbers(z):
    """The parameters as the keyword arguments of a form."""
    return dict(zip(("k0", "k1", "f"), z.tolist(), strict=True))


def kappa(w):
    """z_0 T_0 + z_1 T_1 on [0, 2]."""
    return w.k0 + w.k1 * (w.x[0] - 1)


def assert_equals_assembly(case, basis, form, z):
    u, _ = draw(case)
    expected = form.assemble(basis, u_h=basis.interpolate(u.numpy()), **numbers(z))
    # Two exact quadratures of the same products.
    np.testing.assert_allclose(
        case.residual(u, z).numpy(), expected[case.free_dofs], rtol=1e-11, atol=1e-12
    )


@skfem.LinearForm
def poisson_form(v, w):
    return kappa(w) * dot(grad(w.u_h), grad(v)) - w.f * v


@pytest.mark.parametrize(
    ("mesh", "degree", "element"),
    [
        (fem.interval(5), 1, skfem.ElementLineP1()),
        (fem.interval(5), 2, skfem.ElementLineP2()),
        (fem.unit_square(3), 1, skfem.ElementTriP1()),
        (fem.unit_square(3), 2, skfem.ElementTriP2()),
        (fem.unit_square(3, quadrilaterals=True), 1, skfem.ElementQuad1()),
        (fem.unit_square(3, quadrilaterals=True), 2, skfem.ElementQuad2()),
        (fem.unit_cube(2), 1, skfem.ElementTetP1()),
        (fem.unit_cube(2), 2, skfem.ElementTetP2()),
        (fem.unit_cube(2, hexahedra=True), 1, skfem.ElementHex1()),
        (fem.unit_cube(2, hexahedra=True), 2, skfem.ElementHex2()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_poisson_residual_equals_assembly_by_scikit_fem(mesh, degree, element):
    space = fem.Space(mesh, degree)
    region = space.interior()
    case = problem(space, pddlvm.Energy(region, diffusion), pddlvm.Energy(region, load))
    _, z = draw(case)
    assert_equals_assembly(case, skfem.Basis(mesh, element, intorder=6), poisson_form, z)


@skfem.LinearForm
def stiffening_form(v, w):
    slope = dot(grad(w.u_h), grad(w.u_h))
    return kappa(w) * (1 + slope) * dot(grad(w.u_h), grad(v))


@skfem.LinearForm
def plane_strain_form(v, w):
    strain, test = sym_grad(w.u_h), sym_grad(v)
    return kappa(w) * (2 * ddot(strain, test) + trace(strain) * trace(test))


@skfem.LinearForm
def advection_diffusion_form(v, w):
    du = grad(w.u_h)
    return kappa(w) * dot(du, grad(v)) + (du[0] * (1 + w.x[1]) - w.f) * v


P1 = skfem.ElementTriP1()


@pytest.mark.parametrize(
    ("function", "kind", "element", "form"),
    [
        (stiffening, pddlvm.Energy, P1, stiffening_form),
        (plane_strain, pddlvm.Energy, skfem.ElementVector(P1), plane_strain_form),
        (advection_diffusion, pddlvm.Flux, P1, advection_diffusion_form),
    ],
    ids=["nonlinear", "vector", "advection"],
)
def test_residual_equals_assembly_by_scikit_fem(function, kind, element, form):
    n_components = 2 if isinstance(element, skfem.ElementVector) else 1
    # Degree 2: the source of the advection problem times a shape function is quadratic.
    space = fem.Space(fem.unit_square(3), n_components=n_components, quadrature=2)
    case = problem(space, kind(space.interior(), function))
    _, z = draw(case)
    assert_equals_assembly(case, skfem.Basis(space.mesh, element, intorder=4), form, z)


def test_boundary_residual_equals_assembly_by_scikit_fem():
    @skfem.LinearForm
    def form(v, w):
        return -w.f * (1 + w.x[0]) * v

    mesh = fem.unit_square(3)
    space = fem.Space(mesh, 2)
    # Diffusion holds the mesh together, and has no residual where u = 0.
    terms = ((space.interior(), diffusion), (space.boundary("top"), boundary_load))
    case = problem(space, *(pddlvm.Energy(*term) for term in terms))
    _, z = draw(case)
    basis = skfem.FacetBasis(mesh, skfem.ElementTriP2(), facets=mesh.boundaries["top"])
    expected = form.assemble(basis, **numbers(z))[case.free_dofs]
    residual = case.residual(torch.zeros(case.n_dofs, dtype=torch.float64), z)
    # Two exact quadratures of the same cubic.
    np.testing.assert_allclose(residual.numpy(), expected, rtol=1e-11, atol=1e-14)


def test_residual_on_subdomains_adds_up_to_the_whole():
    mesh = TRIANGLES.mesh.with_subdomains(
        {"low": lambda x: x[0] < 1 / 3, "high": lambda x: x[0] > 1 / 3}
    )
    space = fem.Space(mesh)
    parts = problem(
        space, *(pddlvm.Energy(space.interior(name), stiffening) for name in mesh.subdomains)
    )
    whole = CASES["nonlinear energy"]
    u, z = draw(whole, 2)
    assert_round_off(parts.residual(u, z), whole.residual(u, z))


# Derivatives


@cases
def test_gradient_of_the_residual_in_u(name):
    case = CASES[name]
    u, z = draw(case)
    # The defaults of gradcheck are made for central differences in float64.
    assert torch.autograd.gradcheck(lambda u: case.residual(u, z), (u.requires_grad_(),))


@cases
def test_gradient_of_the_residual_in_z(name):
    case = CASES[name]
    u, z = draw(case)
    # The defaults of gradcheck, as above.
    assert torch.autograd.gradcheck(lambda z: case.residual(u, z), (z.requires_grad_(),))


@energies
def test_gradient_of_the_energy(name):
    case = CASES[name]
    u, z = draw(case)
    # The defaults of gradcheck, as above.
    assert torch.autograd.gradcheck(case.energy, (u.requires_grad_(), z.requires_grad_()))


def jacobian(case, u, z):
    """dr/du on the free degrees of freedom, by autograd."""
    full = torch.autograd.functional.jacobian(lambda u: case.residual(u, z), u)
    return full[:, case.free_dofs]


@cases
def test_tangent_matrix_is_the_jacobian(name):
    case = CASES[name]
    u, z = draw(case)
    matrix = torch.from_numpy(case.solver.matrix(u, z).toarray())
    assert_round_off(matrix, jacobian(case, u, z))


@cases
def test_applied_tangents_are_the_jacobian_times_a_vector(name):
    case = CASES[name]
    u, z = draw(case, 2)
    v = u.sin()[:, case.free_dofs]
    operators = case.discretisation(torch.float64, torch.device("cpu"))
    product = operators.apply_tangents(operators.tangents(u, z), v)
    expected = torch.stack([jacobian(case, u[i], z[i]) @ v[i] for i in range(2)])
    assert_round_off(product, expected)


@energies
def test_tangent_matrix_of_an_energy_is_symmetric(name):
    case = CASES[name]
    k = case.solver.matrix(*draw(case))
    # Entries of size one or ten, each a sum of a few numbers.
    assert abs(k - k.T).max() < 1e-12


def test_tangent_matrix_of_advection_is_not_symmetric():
    case = CASES["flux"]
    k = case.solver.matrix(*draw(case))
    # The skew part is int (1 + x_1) du/dx_0 v: about h times the shape function, h = 1/3.
    assert abs(k - k.T).max() > 0.1


# Batches


@cases
def test_residual_of_a_batch_is_that_of_its_samples(name):
    case = CASES[name]
    u, z = draw(case, 4)
    one_by_one = torch.stack([case.residual(u[i], z[i]) for i in range(4)])
    assert_round_off(case.residual(u, z), one_by_one)


# What a point function receives


def shapes_seen(space):
    seen = {}

    def density(u, du, x, kappa):
        seen.update(u=tuple(u.shape), du=tuple(du.shape), x=tuple(x.shape), k=tuple(kappa.shape))
        return 0.0 * u.sum() + kappa * (du * du).sum()

    case = problem(space, pddlvm.Energy(space.interior(), density))
    case.residual(*draw(case))
    return seen


@pytest.mark.parametrize(
    ("space", "u", "du"),
    [
        (LINE, (), (1,)),
        (TRIANGLES, (), (2,)),
        (PLANE, (2,), (2, 2)),
        (fem.Space(fem.unit_square(2), n_components=3), (3,), (3, 2)),
        (fem.Space(fem.unit_cube(1), n_components=3), (3,), (3, 3)),
    ],
)
def test_point_function_sees_one_point(space, u, du):
    assert shapes_seen(space) == {"u": u, "du": du, "x": (space.dim,), "k": ()}


def test_gradient_has_the_component_first():
    x = torch.from_numpy(PLANE.dof_points)
    component = torch.from_numpy(PLANE.dof_components)
    u = torch.where(component == 0, 2 * x[:, 0] + 3 * x[:, 1], 5 * x[:, 0] + 7 * x[:, 1])
    case = problem(PLANE, pddlvm.Energy(PLANE.interior(), lambda u, du, x: du[0, 1] ** 2))
    # du_0/dx_1 = 3 on the unit square: round-off.
    assert case.energy(u, draw(case)[1]).item() == pytest.approx(9.0, rel=1e-13)


def test_known_numbers_reach_the_point_function():
    space = LINE
    case = pddlvm.Problem(
        "test",
        space,
        [pddlvm.Energy(space.interior(), load)],
        fields={"kappa": KAPPA, "f": 3.0},
        dirichlet=[pddlvm.Dirichlet("left", zero)],
    )
    u = torch.ones(case.n_dofs, dtype=torch.float64)
    # An interval of length one with a constant integrand: round-off.
    assert case.energy(u, draw(case)[1]).item() == pytest.approx(-3.0, rel=1e-14)


def test_flux_may_give_plain_numbers():
    case = problem(PLANE, pddlvm.Flux(PLANE.interior(), lambda u, du, x: (-1.0, 0 * du)))
    u, z = draw(case)
    by_energy = problem(PLANE, pddlvm.Energy(PLANE.interior(), lambda u, du, x: -u.sum()))
    assert_round_off(case.residual(u, z), by_energy.residual(u, z))


def test_field_names_are_the_arguments_after_x():
    assert pddlvm.Energy(TRIANGLES.interior(), reaction).field_names == ("kappa", "f")


@pytest.mark.parametrize("kind", [pddlvm.Energy, pddlvm.Flux])
def test_unknown_field_is_named(kind):
    term = kind(LINE.interior(), lambda u, du, x, stiffness: stiffness * u)
    with pytest.raises(ProblemError, match=r"'stiffness'.*'f', 'kappa'"):
        problem(LINE, term)
