"""Linear functionals by adjoint solutions: their bounds hold, and their errors are products."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import helmholtz, nonlinear_poisson, poisson, stokes, thermal_block


def right_half(x):
    return x[:, 0] > 0.5


def average_and_flux(problem):
    average = pddlvm.average_matrix(problem, [right_half]).toarray()
    flux = pddlvm.gradient_matrix(problem, [[0.3, 0.4]]).toarray()[:1]
    return pddlvm.Quantity(problem, np.concatenate([average, flux]), "average and flux")


def of_all_fields(problem):
    """The mean of each over a half."""
    rows = [
        pddlvm.average_matrix(problem, [right_half], field).toarray()
        for field in problem.space.field_names
    ]
    return pddlvm.Quantity(problem, np.concatenate(rows), "means")


def held_at(x, level):
    return 300.0 + level * x[0]


def far_from_zero():
    """Boundary values whose rounding in single precision is no less than other errors."""
    space = fem.Space(fem.unit_square(6))
    fields = {
        "k": pddlvm.Piecewise.on_blocks(space, (2, 2), prior=pddlvm.Uniform(0.5, 2.0)),
        "level": pddlvm.Constant(pddlvm.Uniform(-1.0, 1.0)),
    }
    ends = [pddlvm.Dirichlet("left", held_at), pddlvm.Dirichlet("right", held_at)]

    def diffusion(u, du, x, k):
        return 0.5 * k * (du * du).sum() - u

    return pddlvm.Problem(
        "far from zero", space, [pddlvm.Energy(space.interior(), diffusion)], fields, ends
    )


def advected(u, du, x, b):
    return b * du[0] - 1.0, du


def advection():
    space = fem.Space(fem.unit_square(6))
    return pddlvm.Problem(
        "advection",
        space,
        [pddlvm.Flux(space.interior(), advected)],
        {"b": pddlvm.Constant(pddlvm.Uniform(1.0, 3.0))},
        [pddlvm.Dirichlet(None)],
    )


CASES = {
    "poisson": (lambda: poisson.make(8, n_terms=4), average_and_flux),
    "far from zero": (far_from_zero, average_and_flux),
    "waves": (lambda: helmholtz.make(5), average_and_flux),
    "damped waves": (lambda: helmholtz.make_damped(5), of_all_fields),
    "saddle point": (lambda: stokes.make_cavity(4), of_all_fields),
}


def trained(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    pddlvm.train(model, max_steps=40, calibrate=False)
    return model


SLOW = {"damped waves", "saddle point"}


@pytest.fixture(
    scope="module", params=[pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in CASES]
)
def case(request):
    make, quantity_of = CASES[request.param]
    model = trained(make())
    return model, quantity_of(model.problem)


@pytest.fixture(scope="module")
def solved(case):
    """Two hundred z, numbers of single precision, and their solutions."""
    problem = case[0].problem
    z = problem.prior.sample((10, 20), seed=1).float().double()
    return z, problem.solve(z)


@pytest.mark.parametrize(("corrections", "dtype"), [(0, torch.float32), (1, torch.float64)])
@pytest.mark.slow
def test_bounds_hold_on_two_hundred_draws(case, solved, dtype, corrections):
    model, quantity = case
    z, u = solved
    found = model.forward(z.to(dtype), corrections=corrections).of(quantity)
    assert found.mean.shape == (10, 20, quantity.n) and found.mean.dtype == dtype
    assert found.bound.dtype == torch.float64
    error = (found.mean.double() - quantity(u)).abs()
    # The reference solution has its own rounding.
    size = u.abs() @ torch.from_numpy(abs(quantity.matrix).toarray()).T
    assert (error <= found.bound + 1e-13 * size).all()


def test_errors_of_values_are_far_smaller_and_their_bounds_sharp(case):
    model, quantity = case
    z = model.problem.prior.sample((100,), seed=2)
    u = model.problem.solve(z)
    forward, exact = model.forward(z), quantity(u)
    found = forward.of(quantity)
    error = (found.mean - exact).abs()
    seen = exact.abs().median(0).values > 1e-12
    plain = (quantity(forward.mean) - exact).abs()
    assert (error.median(0).values < 0.02 * plain.median(0).values)[seen].all()
    # Bases of small problems may be exact, but for rounding.
    known = 1e-13 * (u.abs() @ torch.from_numpy(abs(quantity.matrix).toarray()).T).amax(0)
    bound = found.bound.median(0).values
    assert (bound < 60 * error.median(0).values + known)[seen].all()
    # Cauchy's inequality is no better than the product of the two residuals.
    assert (bound < 0.2 * plain.median(0).values)[seen].all()


def test_a_compliance_has_a_bound_as_well():
    problem = thermal_block.make(2, 2, 8)
    model = trained(problem)
    load = torch.zeros(problem.n_dofs, dtype=torch.float64)
    z = problem.prior.sample((50,), seed=3)
    load[problem.free_dofs] = -problem.residual(torch.zeros(problem.n_dofs).double(), z[0])
    quantity = pddlvm.Quantity(problem, load, "compliance")
    forward = model.forward(z)
    found = forward.of(quantity)
    exact = quantity(problem.solve(z))
    error = (found.mean - exact).abs()
    assert (error <= found.bound).all()
    # The first adjoint vector is the solution at the centre, that of other z is close to those.
    assert error.median() < 1e-3 * (quantity(forward.mean) - exact).abs().median()


def test_without_the_mesh_values_and_bounds_are_the_same(monkeypatch):
    model = trained(thermal_block.make(2, 1, 6))
    quantity = average_and_flux(model.problem)
    z = model.problem.prior.sample((5,), seed=0)
    found = model.forward(z, corrections=1).of(quantity)
    monkeypatch.setitem(model.__dict__, "online", None)
    expected = model.forward(z, corrections=1).of(quantity)
    assert torch.allclose(found.mean, expected.mean, rtol=1e-9)
    assert torch.isfinite(found.bound).all()


def test_values_of_an_operator_that_is_not_symmetric_have_no_bound():
    model = trained(advection())
    quantity = average_and_flux(model.problem)
    z = model.problem.prior.sample((50,), seed=0)
    forward, exact = model.forward(z), quantity(model.problem.solve(z))
    found = forward.of(quantity)
    assert found.bound is None
    plain = (quantity(forward.mean) - exact).abs().median(0).values
    assert ((found.mean - exact).abs().median(0).values < 1e-3 * plain).all()


def test_values_of_nonlinear_problems_are_those_of_the_mean():
    model = pddlvm.LatentVariableModel(nonlinear_poisson.make_1d(8))
    quantity = pddlvm.Quantity(model.problem, np.ones(model.problem.n_dofs), "sum")
    forward = model.forward(model.problem.prior.sample((2, 3), seed=0))
    found = forward.of(quantity)
    assert found.bound is None
    assert torch.allclose(found.mean, forward.mean.sum(-1, keepdim=True))


def test_adjoint_solutions_are_made_once(poisson_2d, monkeypatch):
    model = pddlvm.LatentVariableModel(poisson_2d)
    quantity = average_and_flux(poisson_2d)
    z = poisson_2d.prior.sample((3,), seed=0)
    first = model.forward(z).of(quantity).mean

    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr("pddlvm.galerkin.quantities.adjoint_of", fail)
    assert torch.equal(model.forward(z).of(quantity).mean, first)
    with pytest.raises(AssertionError, match="made again"):
        model.forward(z).of(average_and_flux(poisson_2d))


def test_a_quantity_that_only_reads_boundary_values_is_exact():
    problem = far_from_zero()
    model = pddlvm.LatentVariableModel(problem)
    held = pddlvm.mask_matrix(problem, problem.fixed_dofs[:2])
    z = problem.prior.sample((4,), seed=0)
    found = model.forward(z).of(pddlvm.Quantity(problem, held))
    assert torch.allclose(found.mean, problem.solve(z)[:, problem.fixed_dofs[:2]], rtol=1e-6)


def test_another_problem_is_refused(poisson_2d):
    model = pddlvm.LatentVariableModel(poisson_2d)
    other = far_from_zero()
    quantity = pddlvm.Quantity(other, np.ones(other.n_dofs), "sum")
    forward = model.forward(poisson_2d.prior.sample(seed=0))
    with pytest.raises(pddlvm.InputError, match=r"'sum' is of problem 'far from zero'"):
        forward.of(quantity)
    with pytest.raises(pddlvm.InputError, match="quantity"):
        forward.of(np.ones(poisson_2d.n_dofs))


@pytest.mark.slow
def test_values_of_the_default_problem():
    """An average and a flux, before and after a correction of the mean."""
    problem = poisson.make()
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, max_steps=300, calibrate=False)
    quantity, z = average_and_flux(problem), problem.prior.sample((200,), seed=4)
    exact = quantity(problem.solve(z))
    for corrections in (0, 1):
        found = model.forward(z, corrections=corrections).of(quantity)
        error = (found.mean - exact).abs()
        assert (error <= found.bound).all()
        relative = (error / exact.abs()).median(0).values
        assert (relative < (1e-4, 2e-5)[corrections]).all()
        assert ((found.bound / error).median(0).values < 150).all()
