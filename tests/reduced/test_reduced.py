"""The reduced model against the full operator in the same basis: affine terms and cubature."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

import pddlvm
from pddlvm import fem, links
from pddlvm.latent.size import LogQuadratic
from pddlvm.reduced.cubature import CellSelection
from pddlvm.reduced.galerkin import Galerkin
from pddlvm.reduced.reduction import (
    Reduction,
    _snapshots,
    reduce,
    reduce_terms,
    reduced_model,
)
from pddlvm.reduced.reference import Reference
from pddlvm.reduced.representation import Units
from pddlvm.reduced.solving import solve_reduced
from pddlvm.weak.affine_term import AffineTerm
from problems import elasticity, poisson

EXACT = 1e-10
"""Relative: rounding, with a margin of a few hundred. Affine terms of finite rank are exact, and so
is a cubature on meshes as small as these, which may take all cells that it needs (1e-13 to 1e-15
were measured). The error of a cubature that has to choose is tested by itself below."""


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum()


def load(u, du, x, f):
    return -f * u


def quartic_density(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum() + 2 * u**4


def advection(u, du, x, kappa, speed):
    return speed * du[0] - 1.0, kappa * du


def blocks() -> pddlvm.Problem:
    """Two materials, a random load along x and boundary values that follow z; all affine."""
    space = fem.Space(fem.unit_square(5))
    return pddlvm.Problem(
        "blocks",
        space,
        terms=[
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={
            "kappa": pddlvm.Piecewise.on_blocks(space, (2, 1), prior=pddlvm.LogNormal(0.0, 0.5)),
            "f": pddlvm.Chebyshev(prior=pddlvm.Normal(), n_terms=2, low=0, high=1),
            "g": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0)),
        },
        dirichlet=[
            pddlvm.Dirichlet("bottom", 0.0),
            pddlvm.Dirichlet("top", lambda x, g: 1 + g * x[0]),
        ],
    )


def quartic(n: int = 400) -> pddlvm.Problem:
    """-(kappa u')' + 8 u^3 = 10 on (0, 1): a nonlinear energy, hence cubature."""
    space = fem.Space(fem.interval(n))
    return pddlvm.Problem(
        "quartic",
        space,
        terms=[
            pddlvm.Energy(space.interior(), quartic_density),
            pddlvm.Energy(space.interior(), load),
        ],
        fields={
            "kappa": pddlvm.Chebyshev(
                prior=pddlvm.Normal(0.0, 0.3), link=links.exp, n_terms=3, low=0, high=1
            ),
            "f": 10.0,
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )


def transport() -> pddlvm.Problem:
    """s du/dx - div(kappa grad u) = 1: no energy, not symmetric, affine."""
    space = fem.Space(fem.unit_square(5))
    return pddlvm.Problem(
        "transport",
        space,
        terms=[pddlvm.Flux(space.interior(), advection)],
        fields={
            "kappa": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
            "speed": pddlvm.Constant(pddlvm.Uniform(1.0, 3.0)),
        },
        dirichlet=[pddlvm.Dirichlet(None)],
    )


PROBLEMS = {
    "blocks": (blocks, pddlvm.EnergyModes(6)),
    "quartic": (quartic, pddlvm.ResidualEnriched(4)),
    "square": (lambda: poisson.make(8, n_terms=3), pddlvm.ResidualEnriched(6)),
    "transport": (transport, pddlvm.EnergyModes(6)),
}


class Case:
    """A problem, its reduction, and a few states: Galerkin solutions of fresh draws."""

    def __init__(self, problem: pddlvm.Problem, basis) -> None:
        self.problem = problem
        # In the units of the problem, like the full operator.
        self.reduction: Reduction = replace(reduce(problem, basis), units=Units())
        self.model = self.reduction.model(problem, torch.float64)
        self.z = problem.prior.sample((4,), seed=11)
        galerkin = Galerkin(problem, self.reduction.reference)
        self.c = torch.from_numpy(galerkin.solve(self.reduction.v, self.z)[0])
        self.is_affine = all(isinstance(t, AffineTerm) for t in self.model.terms)

    @property
    def v(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.reduction.v))

    def away(self) -> torch.Tensor:
        """States at which the residual does not vanish: ten percent from the solutions."""
        noise = torch.randn(self.c.shape, generator=torch.Generator().manual_seed(1)).double()
        return self.c + 0.1 * self.c.norm(dim=1, keepdim=True) * noise / noise.shape[1] ** 0.5

    def expand(self, c: torch.Tensor) -> torch.Tensor:
        return self.model.representation.expand(c, self.z)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(make(), basis) for name, (make, basis) in PROBLEMS.items()}


@pytest.fixture
def case(request, cases) -> Case:
    return cases[request.param]


everywhere = pytest.mark.parametrize("case", PROBLEMS, indirect=True)
with_energy = pytest.mark.parametrize("case", ["blocks", "quartic", "square"], indirect=True)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
    """Relative to the largest entry: small entries of a residual are differences of large ones."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("case", "is_affine"),
    [("blocks", True), ("transport", True), ("quartic", False), ("square", False)],
    indirect=["case"],
)
def test_terms_are_affine_where_they_can_be(case, is_affine):
    assert case.is_affine == is_affine


@everywhere
def test_residual_is_the_projected_full_residual(case):
    c = case.away()
    full = case.problem.residual(case.expand(c), case.z) @ case.v
    close(case.model.residual(c, case.z), full, EXACT)


@everywhere
def test_stiffness_is_the_projected_full_stiffness(case):
    found = case.model.stiffness(case.c, case.z)
    u = case.expand(case.c)
    for k, u_one, z_one in zip(found, u, case.z, strict=True):
        full = case.v.T @ torch.from_numpy(case.problem.solver.matrix(u_one, z_one) @ case.v)
        close(k, full, EXACT)


@with_energy
def test_energy_differences_are_those_of_the_full_energy(case):
    def gain(energy):
        return energy(case.away()) - energy(case.c)

    full = gain(lambda c: case.problem.energy(case.expand(c), case.z))
    close(gain(lambda c: case.model.energy(c, case.z)), full, EXACT)


@with_energy
def test_residual_is_the_gradient_of_the_energy(case):
    c = case.away().requires_grad_()
    (gradient,) = torch.autograd.grad(case.model.energy(c, case.z).sum(), c)
    close(case.model.residual(c, case.z), gradient, EXACT)


@everywhere
def test_stiffness_is_the_derivative_of_the_residual(case):
    def one(c, z):
        return case.model.residual(c[None], z[None])[0]

    derivative = vmap(jacrev(one))(case.away(), case.z)
    close(case.model.stiffness(case.away(), case.z), derivative, EXACT)


@everywhere
def test_galerkin_solutions_are_zeros_of_the_reduced_residual(case):
    at_zero = case.model.residual(torch.zeros_like(case.c), case.z).abs().max()
    # Galerkin's own iteration stops at 1e-8.
    assert case.model.residual(case.c, case.z).abs().max() < 1e-8 * at_zero


@everywhere
def test_reduced_solver_finds_galerkin_solutions(case):
    # Both iterations stop at a relative residual of 1e-8; quadratic convergence goes far below.
    close(solve_reduced(case.model, case.z), case.c, 1e-8)


@pytest.mark.parametrize("case", ["blocks", "transport"], indirect=True)
def test_one_newton_step_solves_a_linear_problem(case, monkeypatch):
    monkeypatch.setattr("pddlvm.linalg.newton._MAX_STEPS", 1)
    close(solve_reduced(case.model, case.z), case.c, EXACT)


@pytest.mark.parametrize("case", ["quartic"], indirect=True)
def test_a_solver_that_starts_nearby_forms_fewer_matrices(case, monkeypatch):
    xi = torch.randn(64, case.problem.prior.size, dtype=torch.float64).clamp(-1.5, 1.5)
    z, formed = case.problem.prior.unstandardise(xi), []
    stiffness = case.model.stiffness

    def counted(c, z):
        formed.append(len(c))
        return stiffness(c, z)

    monkeypatch.setattr(case.model, "stiffness", counted)
    expected = solve_reduced(case.model, z)
    from_zero, _ = sum(formed), formed.clear()
    found = _snapshots(case.model, xi, z, torch.zeros_like(expected))
    from_fit, _ = sum(formed), formed.clear()
    close(found, expected, 1e-8)
    assert from_fit < from_zero
    # One that has converged is not chased below its rounding.
    close(solve_reduced(case.model, z, expected), expected, 1e-10)
    assert not formed


@everywhere
def test_single_precision_agrees_with_double(case):
    model = case.reduction.model(case.problem, torch.float32)
    r = model.residual(case.away().float(), case.z.float())
    # 6e-8 per operation, and an order or two for the cancellation of large parts.
    close(r.double(), case.model.residual(case.away(), case.z), 1e-5)


@everywhere
def test_gradients_flow_to_the_parameters(case):
    z = case.z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case.model.residual(case.away(), z).square().sum(), z)
    assert torch.isfinite(gradient).all() and (gradient.norm(dim=0) > 0).any()


# --- cubature ----------------------------------------------------------------------------------


def selections(reduction: Reduction) -> list[CellSelection]:
    return [term for term in reduction.terms if isinstance(term, CellSelection)]


@pytest.mark.parametrize("case", ["quartic", "square"], indirect=True)
def test_cubature_weights_are_positive(case):
    assert all((s.weights > 0).all() for s in selections(case.reduction))


@pytest.mark.parametrize("case", ["quartic", "square"], indirect=True)
def test_cubature_cells_exist_and_are_taken_once(case):
    (found,) = selections(case.reduction)
    n_cells = case.problem.space.mesh.nelements
    assert len(set(found.cells)) == found.cells.size and set(found.cells) <= set(range(n_cells))


def cubature_of(n_draws: int) -> tuple[CellSelection, float]:
    """Cells chosen among 512 from a few draws, and the error of the solution on fresh draws."""
    problem = poisson.make(16, n_terms=3)
    galerkin = Galerkin(problem, Reference.of(problem))
    v = pddlvm.ResidualEnriched(3).build(galerkin, torch.Generator().manual_seed(0))
    z, fresh = problem.prior.sample((n_draws,), seed=0), problem.prior.sample((16,), seed=1)
    c, exact = galerkin.solve(v, z)[0], torch.from_numpy(galerkin.solve(v, fresh)[0])
    terms = reduce_terms(problem, galerkin, (v, None), z, c, np.random.default_rng(0))
    model = reduced_model(problem, galerkin.reference, (v, None), terms, torch.float64)
    error = (solve_reduced(model, fresh) - exact).norm(dim=1) / exact.norm(dim=1)
    return terms[0], float(error.mean())


def test_a_fifth_of_the_cells_integrates_fresh_draws():
    selection, error = cubature_of(16)
    # Rows of 16 draws fix 96 cells; 1.5e-3 was measured.
    assert selection.cells.size < 512 / 5 and error < 5e-3


@pytest.mark.slow
def test_more_draws_choose_better_cells():
    assert cubature_of(16)[1] < 0.5 * cubature_of(8)[1]


def test_reduction_states_its_cubature_error(cases):
    assert all(0 <= case.reduction.cubature_error < EXACT for case in cases.values())


@pytest.mark.slow
def test_cells_do_not_grow_with_the_mesh():
    coarse, fine = (
        selections(reduce(quartic(n), pddlvm.ResidualEnriched(2)))[0].cells.size
        for n in (400, 1600)
    )
    # Four times as many cells to choose from change the choice, but hardly its number.
    assert fine < 1.25 * coarse and coarse < 250


def test_a_constant_term_need_not_be_symmetric():
    """Advection that reads no parameter: K a, and not K^T a."""
    space = fem.Space(fem.unit_square(4))
    problem = pddlvm.Problem(
        "wind",
        space,
        [
            pddlvm.Energy(space.interior(), lambda u, du, x, k: 0.5 * k * du @ du - u),
            pddlvm.Flux(space.interior(), lambda u, du, x: (3.0 * du[0], torch.zeros_like(du))),
        ],
        {"k": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.3))},
        [pddlvm.Dirichlet(None)],
    )
    model = reduce(problem).model(problem, torch.float64)
    assert any(term.is_constant for term in model.terms)
    z = problem.prior.sample((3,), seed=0)
    c = torch.randn(3, model.n_modes, generator=torch.Generator().manual_seed(0)).double()
    r = problem.residual(model.representation.expand(c, z), z)
    torch.testing.assert_close(model.residual(c, z), model.representation.test(r))


# --- scales ------------------------------------------------------------------------------------


def test_log_quadratic_recovers_a_log_quadratic_size():
    xi = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    size = (0.3 - 0.5 * xi[:, 0] + 0.2 * xi[:, 1] ** 2).exp()
    scale = LogQuadratic(2).double()
    scale.fit(xi, size)
    # The ridge of 1e-3 on 200 draws moves the coefficients by a few parts in 1e5.
    torch.testing.assert_close(scale(xi), size, rtol=1e-3, atol=0)


@everywhere
def test_reduction_energy_is_that_of_its_coefficients(case):
    z = case.problem.prior.unstandardise(case.reduction.xi)
    c = case.reduction.c
    k = case.model.stiffness(c, z)
    close(torch.einsum("bi,bij,bj->b", c, k, c), case.reduction.energy, EXACT)


@pytest.mark.parametrize("small", ["_MOST", "_ENTRIES", "_COLUMNS"])
@pytest.mark.parametrize("make", [poisson.make, elasticity.make_bracket])
def test_memory_decides_how_many_draws_are_solved_at_once_and_not_what_they_are(
    make, small, monkeypatch
):
    problem = make(4)
    v = np.random.default_rng(0).standard_normal((problem.n_free, 5))
    z = problem.prior.sample((5,), seed=0)

    def solved():
        galerkin = Galerkin(problem, Reference.of(problem))
        c, r = galerkin.solve(v, z)
        u = galerkin.lift(z).index_add(1, galerkin.operators.free, torch.from_numpy(c @ v.T))
        return torch.from_numpy(c), r, *galerkin.residuals_of_term(0, [u], z)

    together = solved()
    monkeypatch.setattr(f"pddlvm.reduced.galerkin.{small}", 1)
    for one, other in zip(solved(), together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


def test_draws_are_those_that_made_the_basis_and_then_new_ones(generator):
    problem = poisson.make(8, n_terms=3)
    galerkin = Galerkin(problem, Reference.of(problem))
    v = pddlvm.ResidualEnriched(12).build(galerkin, generator)
    few = galerkin.draws(v, 8, generator)
    z, c = galerkin.draws(v, 60, generator)
    assert torch.equal(z[:8], few[0]) and np.array_equal(c[:8], few[1])
    assert len(z.unique(dim=0)) == len(z) == 60 and c.shape == (60, v.shape[1])
    exact = galerkin.solve(v, z)[0]
    error = np.linalg.norm(c - exact, axis=1) / np.linalg.norm(exact, axis=1)
    # Of most draws of a round one percent is left outside of a basis; the last ones are new.
    assert np.median(error[:8]) < 0.01 and error.max() < 0.2
    assert error[-8:].max() < 1e-9
    assert (error > 1e-9).any()
