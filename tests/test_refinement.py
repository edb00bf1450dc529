"""Refinement reaches the finite element solution, sooner from a better start."""

import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import nonlinear_poisson, poisson
from problems.poisson import diffusion, load


def stiffening(u, du, x, kappa):
    """Nonlinear energy: the material stiffens with the gradient."""
    return 0.5 * kappa * (du * du).sum() * (1 + (du * du).sum())


def advection_diffusion(u, du, x, kappa):
    return 3 * du[0] - 1.0, kappa * du


def problem_of(kind: str) -> pddlvm.Problem:
    space = fem.Space(fem.unit_square(6))
    cells = space.interior()
    terms = {
        "linear": [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        "nonlinear": [pddlvm.Energy(cells, stiffening), pddlvm.Energy(cells, load)],
        "nonsymmetric": [pddlvm.Flux(cells, advection_diffusion)],
    }[kind]
    kappa = pddlvm.KarhunenLoeve.on(space, 3, length=0.4)
    return pddlvm.Problem(kind, space, terms, {"kappa": kappa, "f": 4.0}, [pddlvm.Dirichlet(None)])


@pytest.mark.parametrize("kind", ["linear", "nonlinear", "nonsymmetric"])
def test_refinement_reaches_the_reference_solution(kind):
    problem = problem_of(kind)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    z = problem.prior.sample((3,), seed=0)
    u = problem.solve(z)
    found = model.refine(z)
    # The acceptance of the package: 1e-8 relative.
    assert ((found.u - u).norm(dim=1) <= 1e-8 * u.norm(dim=1)).all()
    assert (found.residual_norm <= 1e-10).all()


def test_the_warm_start_saves_iterations():
    problem = poisson.make(12, n_terms=4)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=24))
    pddlvm.train(model, max_steps=100, calibrate=False)
    z = problem.prior.sample((8,), seed=0)
    warm = model.refine(z)
    cold = model.refine(z, u=torch.zeros(8, problem.n_dofs, dtype=torch.float64))
    assert warm.iterations.sum() < cold.iterations.sum()


def test_shapes_follow_z():
    problem = problem_of("linear")
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    for batch in ((), (2,), (2, 3)):
        found = model.refine(problem.prior.sample(batch, seed=0))
        assert found.u.shape == (*batch, problem.n_dofs)
        assert found.iterations.shape == found.residual_norm.shape == batch


def test_the_certificate_is_the_relative_energy_error_at_the_centre_of_the_prior():
    problem = problem_of("linear")
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    pddlvm.train(model, max_steps=100, calibrate=False)
    z = torch.zeros(1, 3, dtype=torch.float64)
    forward = model.forward(z)
    free = torch.from_numpy(problem.free_dofs)
    k0 = torch.from_numpy(model.reduction.reference.matrix.toarray())
    error, mean = (forward.mean - problem.solve(z))[0, free], forward.mean[0, free]
    expected = ((error @ k0 @ error) / (mean @ k0 @ mean)).sqrt()
    # There K(z) = K0 and |r| in K0^{-1} is |error| in K0, up to the float32 mean.
    assert float(forward.residual_norm[0]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "nonlinear", "nonsymmetric"])
def test_the_warm_start_saves_iterations_for_any_kind_of_problem(kind):
    problem = problem_of(kind)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    pddlvm.train(model, max_steps=60, calibrate=False)
    z = problem.prior.sample((3,), seed=0)
    cold = model.refine(z, u=torch.zeros(3, problem.n_dofs, dtype=torch.float64))
    assert model.refine(z).iterations.sum() < cold.iterations.sum()


def test_a_looser_tolerance_is_kept_with_fewer_iterations():
    problem = problem_of("linear")
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=8))
    z = problem.prior.sample((3,), seed=0)
    loose, tight = model.refine(z, tolerance=1e-4), model.refine(z, tolerance=1e-10)
    assert (loose.residual_norm <= 1e-4).all() and loose.iterations.sum() < tight.iterations.sum()


def test_boundary_values_are_exact_whatever_the_start():
    problem = poisson.make_1d()
    model = pddlvm.LatentVariableModel(problem)
    z = problem.prior.sample((2,), seed=0)
    start = torch.ones(2, problem.n_dofs, dtype=torch.float64)
    ends = torch.from_numpy(problem.fixed_dofs)
    assert torch.equal(model.refine(z, u=start).u[:, ends], problem.solve(z)[:, ends])


def test_strong_advection_is_refined_too():
    problem = nonlinear_poisson.make_advection_diffusion(12, peclet=2.0)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=24))
    z = problem.prior.sample((4,), seed=0)
    found, u = model.refine(z), problem.solve(z)
    assert ((found.u - u).norm(dim=1) <= 1e-8 * u.norm(dim=1)).all()
    # Each step takes the nearest reference operator and the reduced model: far fewer steps than
    # the 121 unknowns.
    assert found.iterations.max() < 60


def test_a_correction_far_from_the_prior_says_so():
    model = pddlvm.LatentVariableModel(poisson.make(6, n_terms=2), basis=pddlvm.EnergyModes(4))
    z = torch.tensor([[0.0, 0.0], [2e4, 0.0]], dtype=torch.float64)
    with pytest.raises(
        pddlvm.ConvergenceError, match="1 of 2 z are not finite, the first is number 1"
    ):
        model.forward(z, corrections=1)
