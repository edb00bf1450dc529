"""Reference solutions where the operator is not positive: flows, mixed forms and waves."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from checks import l2_error, orders
from flows import channel, navier_stokes, stokes, taylor_hood

import pddlvm
from pddlvm import fem, linalg
from pddlvm.linalg import automatic
from pddlvm.linalg.banded import BandedFactors
from pddlvm.weak import affine_system
from pddlvm.weak.singular import why_singular

PI = math.pi


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# --- Stokes --------------------------------------------------------------------------------------


def vortex(x):
    """A velocity without divergence, and without a flow through the unit square's boundary."""
    a, b = PI * x[..., 0], PI * x[..., 1]
    return torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()], -1)


def wave(x):
    """A pressure of mean zero."""
    return (PI * x[..., 0]).cos() * x[..., 1].exp()


def vortex_load(u, x, nu):
    """-f = div(nu grad u - p): the vortex is an eigenfunction of the Laplacian."""
    slope = torch.func.grad(wave)(x)
    return {"u": (-(2 * PI**2 * nu * vortex(x) + slope) + 0 * u, 0.0)}


def driven(n, space=None, **changes):
    space = space or taylor_hood(fem.unit_square(n))
    terms = [pddlvm.Flux(space.interior(), f) for f in (stokes, vortex_load)]
    walls = [pddlvm.Dirichlet(None, vortex)]
    held = [pddlvm.MeanValue("p")]
    return channel(
        space=space, terms=terms, **({"dirichlet": walls, "constraints": held} | changes)
    )


def errors_of(case, u, velocity, pressure):
    parts = [case.space.field(name) for name in "up"]
    exact = velocity, pressure
    return [l2_error(s, u[dofs], e) for (dofs, s), e in zip(parts, exact, strict=True)]


@pytest.mark.parametrize("quadrilaterals", [False, True])
def test_orders_of_taylor_hood(quadrilaterals):
    errors = []
    for n in (4, 8, 16):
        mesh = fem.unit_square(n, quadrilaterals=quadrilaterals)
        case = driven(n, taylor_hood(mesh))
        errors.append(errors_of(case, case.solve(double([1.3])), vortex, wave))
    found = orders(errors)[-1]
    # Two meshes are enough for the order of the velocity up to 0.15; the pressure is better than
    # its order on regular meshes.
    assert found[0] == pytest.approx(3.0, abs=0.15)
    assert 1.85 < found[1] < 2.6


def test_the_residual_vanishes_at_a_solution():
    case = driven(4)
    z = double([[0.6], [1.7]])
    u = case.solve(z)
    start = case.residual(torch.zeros_like(u), z).norm(dim=1)
    # Rounding of one solve.
    assert (case.residual(u, z).norm(dim=1) < 1e-12 * start).all()
    mean = pddlvm.average_matrix(case, [lambda x: x[:, 0] < 2], field="p")
    np.testing.assert_allclose(mean @ u.T.numpy(), 0.0, atol=1e-12)


def test_matrices_without_assembly_give_the_same():
    case, z = channel(4), double([[0.6], [1.7]])
    assert case.affine is not None
    u, factors = case.solve_with_factors(z)
    torch.testing.assert_close(u, case.solve(z), rtol=0, atol=1e-11)
    assert not any(isinstance(f, BandedFactors) for f in factors)


def test_an_energy_of_a_saddle_point_is_solved_with_pivots():
    def energy(du, p, nu):
        return 0.5 * nu * (du * du).sum() - p * du.trace()

    space = taylor_hood(fem.unit_square(4))
    case = channel(space=space, terms=[pddlvm.Energy(space.interior(), energy)])
    z = double([[0.6], [1.7]])
    torch.testing.assert_close(case.solve(z), channel(4).solve(z), rtol=0, atol=1e-11)
    torch.testing.assert_close(case.solve_with_factors(z)[0], case.solve(z), rtol=0, atol=1e-11)


def test_neither_multigrid_nor_a_band_is_tried_for_a_saddle_point(monkeypatch):
    def energy(du, p, nu):
        return 0.5 * nu * (du * du).sum() - p * du.trace()

    def fail(*_, **__):
        raise AssertionError("tried")

    # As if the problem were large.
    monkeypatch.setattr(automatic, "_FEW_UNKNOWNS", 0)
    monkeypatch.setattr(automatic, "_FEW", 0.0)
    monkeypatch.setattr(linalg.Multigrid, "factorise", fail)
    monkeypatch.setattr(affine_system, "find_band", fail)
    space = taylor_hood(fem.unit_square(3))
    for term in (pddlvm.Energy(space.interior(), energy), pddlvm.Flux(space.interior(), stokes)):
        case, z = channel(space=space, terms=[term]), double([[0.6]])
        torch.testing.assert_close(case.solve(z), case.solve_with_factors(z)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_equal_solutions(copied):
    case, z = driven(3), double([[0.8]])
    assert torch.equal(copied(case).solve(z), case.solve(z))
    assert copied(case).fingerprint == case.fingerprint
    _, factors = case.solve_with_factors(z)
    b = np.cos(np.arange(case.n_free))
    np.testing.assert_array_equal(copied(factors[0]).solve(b), factors[0].solve(b))


def test_derivatives_by_the_adjoint_are_differences():
    case, z = driven(3), double([[0.8]])
    slope = torch.from_numpy(case.evaluation([[0.3, 0.6]], "p").toarray())
    u, pull_back = case.sensitivities().adjoint(z)
    d = 1e-5
    step = (case.solve(z + d) - case.solve(z - d)) / (2 * d)
    # Errors of the difference: 1e-10, and rounding over the step.
    torch.testing.assert_close(pull_back(slope)[0, 0], (slope @ step[0])[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(u, case.solve(z), rtol=0, atol=1e-12)


def test_equal_orders_of_both_fields_are_told():
    mesh = fem.unit_square(4)
    space = fem.MixedSpace({"u": fem.Space(mesh, n_components=2), "p": fem.Space(mesh)})
    with pytest.warns(UserWarning, match="field 'p' .* is tied to its divergence alone"):
        case = driven(4, space)
    with pytest.raises(pddlvm.ConvergenceError, match=r"field 'p' has a mode .*not P1-P1"):
        case.solve(double([1.0]))


def pair(degrees, flux=stokes):
    mesh = fem.unit_square(2)
    space = fem.MixedSpace(
        {
            "u": fem.Space(mesh, degrees[0], n_components=2),
            "p": fem.Space(mesh, degrees[1]),
        }
    )
    return channel(space=space, terms=[pddlvm.Flux(space.interior(), flux)])


@pytest.mark.parametrize("degrees", [(1, 1), (2, 2), (1, 2)])
def test_pairs_that_are_not_stable_are_warned_of(degrees):
    with pytest.warns(UserWarning, match="not inf-sup stable"):
        pair(degrees)


def stabilised(du, p, dp, x, nu):
    rows = stokes(None, du, p, dp, x, nu)
    return {"u": rows["u"], "p": (du.trace(), 0.01 * dp)}


def compressible(du, p, x, nu):
    rows = stokes(None, du, p, None, x, nu)
    return {"u": rows["u"], "p": (du.trace() + p, 0.0)}


def apart(du, p, dp, nu):
    return {"u": (0.0, nu * du), "p": (p, dp)}


@pytest.mark.parametrize(
    ("degrees", "flux"),
    [((2, 1), stokes), ((1, 1), stabilised), ((1, 1), compressible), ((1, 1), apart)],
)
def test_other_pairs_are_left_in_peace(degrees, flux):
    # Warnings are errors.
    assert pair(degrees, flux).n_free


# --- Navier-Stokes -------------------------------------------------------------------------------

REYNOLDS = 40.0
DECAY = REYNOLDS / 2 - math.sqrt(REYNOLDS**2 / 4 + 4 * PI**2)


def kovasznay(x):
    """The flow behind a grid (Kovasznay, 1948), in a window of size one."""
    e, b = (DECAY * (x[..., 0] - 0.5)).exp(), 2 * PI * x[..., 1]
    return torch.stack([1 - e * b.cos(), DECAY / (2 * PI) * e * b.sin()], -1)


def kovasznay_pressure(x):
    e = (2 * DECAY * (x[..., 0] - 0.5)).exp()
    mean = (math.exp(DECAY) - math.exp(-DECAY)) / (2 * DECAY)
    return 0.5 * (mean - e)


def test_orders_of_a_steady_flow():
    errors = []
    for n in (8, 16):
        case = channel(
            n,
            navier_stokes,
            fields={"nu": pddlvm.Constant(pddlvm.Uniform(0.01, 1.0))},
            dirichlet=[pddlvm.Dirichlet(None, kovasznay)],
            constraints=[pddlvm.MeanValue("p")],
        )
        errors.append(
            errors_of(case, case.solve(double([1 / REYNOLDS])), kovasznay, kovasznay_pressure)
        )
    found = orders(errors)[-1]
    assert found[0] == pytest.approx(3.0, abs=0.25)
    assert 1.8 < found[1] < 2.9


@pytest.mark.parametrize("reynolds", [10.0, 100.0])
def test_a_lid_drives_a_cavity(reynolds):
    """The smallest velocity of the centre line by Ghia, Ghia and Shin (1982): -0.21090 at 100."""
    lid = pddlvm.Dirichlet("top", lambda x: torch.stack([1.0 + 0 * x[0], 0 * x[0]]))
    case = channel(
        16,
        navier_stokes,
        fields={"nu": pddlvm.Constant(pddlvm.Uniform(0.001, 1.0))},
        dirichlet=[lid, *(pddlvm.Dirichlet(side) for side in ("left", "right", "bottom"))],
        constraints=[pddlvm.MeanValue("p")],
    )
    z = double([1 / reynolds])
    u = case.solve(z)
    at_rest = u.index_fill(0, torch.from_numpy(case.free_dofs), 0.0)
    assert case.residual(u, z).norm() < 1e-9 * case.residual(at_rest, z).norm()
    y = np.linspace(0.0, 1.0, 101)
    along = case.evaluation(np.column_stack([0.5 + 0 * y, y])) @ u.numpy()
    if reynolds == 100:
        # A mesh of 16 x 16 against their 129 x 129 points.
        assert along[::2].min() == pytest.approx(-0.2109, rel=0.02)


def test_the_matrix_of_a_flow_is_its_jacobian():
    case = channel(2, navier_stokes)
    u = torch.randn(case.n_dofs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = double([0.8])
    full = torch.autograd.functional.jacobian(lambda u: case.residual(u, z), u)
    # Sums in another order, entries of size one.
    np.testing.assert_allclose(
        case.solver.matrix(u, z).toarray(), full[:, case.free_dofs], atol=1e-13
    )


# --- waves ---------------------------------------------------------------------------------------

SQUARE_OF_K = 65.0
"""Between the third and the fourth eigenvalue, 49.3 and 79, of the unit square."""


def mode(x):
    """No eigenfunction, and zero on the boundary."""
    return x[..., 0] * (1 - x[..., 0]) * (PI * x[..., 1]).sin()


def source(x):
    return (PI**2 - SQUARE_OF_K) * mode(x) + 2 * (PI * x[..., 1]).sin()


def helmholtz(n, degree=1, kind="energy", **changes):
    space = fem.Space(fem.unit_square(n), degree)

    def energy(u, du, x, k2):
        return 0.5 * du @ du - 0.5 * k2 * u * u - source(x) * u

    def flux(u, du, x, k2):
        return -k2 * u - source(x), du

    term = pddlvm.Energy if kind == "energy" else pddlvm.Flux
    return pddlvm.Problem(
        "helmholtz",
        space,
        [term(space.interior(), {"energy": energy, "flux": flux}[kind])],
        {"k2": pddlvm.Constant(pddlvm.Uniform(1.0, 100.0))},
        [pddlvm.Dirichlet(None)],
        **changes,
    )


@pytest.mark.parametrize("kind", ["energy", "flux"])
@pytest.mark.parametrize("degree", [1, 2])
def test_orders_of_waves(degree, kind):
    errors = []
    for n in (16, 32):
        case = helmholtz(n, degree, kind)
        errors.append(l2_error(case.space, case.solve(double([SQUARE_OF_K])), mode))
    assert orders(errors)[-1] == pytest.approx(degree + 1, abs=0.15)


def test_waves_without_assembly_give_the_same():
    case, z = helmholtz(8), double([[SQUARE_OF_K], [30.0]])
    u, factors = case.solve_with_factors(z)
    # The condition of these matrices is a few thousand.
    torch.testing.assert_close(u, case.solve(z), rtol=0, atol=1e-11)
    assert not any(isinstance(f, BandedFactors) for f in factors)


def test_a_large_wave_problem_ends_at_a_direct_solver():
    case = helmholtz(8, solver=linalg.Multigrid())
    with pytest.raises(pddlvm.ConvergenceError, match="needs it to be"):
        case.solve(double([SQUARE_OF_K]))


def at_resonance(case):
    """The first k^2 without a solution, and the matrix there."""
    zero, one = torch.zeros(case.n_dofs).double(), double([1.0])
    k = torch.from_numpy(case.solver.matrix(zero, one).toarray())
    m = k - torch.from_numpy(case.solver.matrix(zero, one + 1).toarray())
    root = torch.linalg.inv(torch.linalg.cholesky(m))
    z = torch.linalg.eigvalsh(root @ (k + m) @ root.T)[:1]
    return z, case.solver.matrix(zero, z)


def test_a_resonance_is_recognised():
    case = helmholtz(6)
    why = why_singular(case.form, at_resonance(case)[1])
    assert "largest at (0.5, 0.5): a resonance" in why


def test_a_resonance_is_told():
    case = helmholtz(6)
    with pytest.raises(pddlvm.ConvergenceError, match=r"singular to working precision.*resonance"):
        case.solve(at_resonance(case)[0])


def test_a_reaction_that_vanishes_is_told():
    space = fem.Space(fem.unit_square(3))
    case = pddlvm.Problem(
        "reaction",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: du @ du + k * u * u - u)],
        {"k": pddlvm.Constant(pddlvm.Normal(1.0, 1.0))},
    )
    zero = torch.zeros(case.n_dofs).double()
    assert "known up to a constant" in why_singular(case.form, case.solver.matrix(zero, zero[:1]))
    assert why_singular(case.form, case.solver.matrix(zero, double([1.0]))) is None
