"""Refinement reaches the finite element solution, sooner from a better start."""

import math
from functools import cache

import pytest
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.galerkin.refinement import check_converged, nearly_exact, refine
from pddlvm.linalg import Multigrid, SuperLU
from pddlvm.linalg.multigrid import MultigridFactors
from problems import nonlinear_poisson, poisson
from problems.poisson import diffusion, load


def stiffening(u, du, x, kappa):
    """Nonlinear energy: the material stiffens with the gradient."""
    return 0.5 * kappa * (du * du).sum() * (1 + (du * du).sum())


def advection_diffusion(u, du, x, kappa):
    return 3 * du[0] - 1.0, kappa * du


@cache
def problem_of(kind: str) -> pddlvm.Problem:
    space = fem.Space(fem.unit_square(6))
    cells = space.interior()
    terms = {
        "linear": [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        "nonlinear": [pddlvm.Energy(cells, stiffening), pddlvm.Energy(cells, load)],
        "nonsymmetric": [pddlvm.Flux(cells, advection_diffusion)],
    }[kind]
    kappa = pddlvm.KarhunenLoeve.on(space, 3, length=0.4)
    known = {"f": 4.0} if kind != "nonsymmetric" else {}
    return pddlvm.Problem(kind, space, terms, {"kappa": kappa} | known, [pddlvm.Dirichlet(None)])


def blocks(contrast: float) -> pddlvm.Problem:
    """A conductivity of 3 x 3 blocks, log-uniform over some decades."""
    space = fem.Space(fem.unit_square(6))
    cells = space.interior()
    end = math.log(contrast) / 2
    kappa = pddlvm.Piecewise.on_blocks(
        space, (3, 3), prior=pddlvm.Uniform(-end, end), link=links.exp
    )
    terms = [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)]
    return pddlvm.Problem(
        "blocks", space, terms, {"kappa": kappa, "f": 1.0}, [pddlvm.Dirichlet(None)]
    )


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


@pytest.mark.slow
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
    pddlvm.train(model, max_steps=30, calibrate=False)
    z = torch.zeros(1, 3, dtype=torch.float64)
    forward = model.forward(z)
    free = torch.from_numpy(problem.free_dofs)
    k0 = torch.from_numpy(model.reduction.reference.matrix.toarray())
    error, mean = (forward.mean - problem.solve(z))[0, free], forward.mean[0, free]
    expected = ((error @ k0 @ error) / (mean @ k0 @ mean)).sqrt()
    # There K(z) = K0 and |r| in K0^{-1} is |error| in K0, up to the float32 mean.
    assert float(forward.residual_norm[0]) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.slow
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


@cache
def spread() -> tuple[pddlvm.GalerkinModel, torch.Tensor]:
    """Two samples at the centre of the prior, where K0 is exact, and one far from it."""
    model = pddlvm.LatentVariableModel(
        problem_of("linear"), basis=pddlvm.ResidualEnriched(n_modes=4)
    )
    z = torch.tensor([[0.0, 0.0, 0.0], [3.0, -3.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    return model, z


def start_of(model: pddlvm.GalerkinModel, z: torch.Tensor) -> torch.Tensor:
    return model.forward(z, corrections=1).mean


def test_a_slow_sample_does_not_stop_the_others():
    model, z = spread()
    start = start_of(model, z)
    arguments = model.exact, model.reduction.reference
    alone = refine(*arguments, start[:1], z[:1])
    together = refine(*arguments, start, z, max_iterations=int(alone.iterations) + 1)
    assert together.converged.tolist() == [True, False, True]
    assert together.iterations.tolist()[0::2] == 2 * alone.iterations.tolist()


@pytest.mark.parametrize("kind", ["linear", "nonlinear", "nonsymmetric"])
def test_the_residual_norm_is_that_of_the_solution_that_is_returned(kind):
    model = pddlvm.LatentVariableModel(problem_of(kind), basis=pddlvm.ResidualEnriched(n_modes=4))
    z = model.problem.prior.sample((3,), seed=0)
    arguments = model.exact, model.reduction.reference
    found = refine(*arguments, start_of(model, z), z, max_iterations=3)
    again = refine(*arguments, found.u, z, max_iterations=0)
    assert not found.converged.any()
    # The same numbers once more; a batch of another size may be added up in another order.
    torch.testing.assert_close(found.residual_norm, again.residual_norm, rtol=1e-8, atol=0)


def test_samples_that_did_not_converge_are_named():
    model, z = spread()
    found = refine(model.exact, model.reduction.reference, start_of(model, z), z, max_iterations=8)
    with pytest.raises(pddlvm.ConvergenceError, match=r"1 of 3 .* samples 1; at worst 1"):
        check_converged(found, 1e-10)


def test_an_answer_that_did_not_converge_is_given_on_request_only():
    model, z = spread()
    # Below round-off.
    with pytest.raises(pddlvm.ConvergenceError, match="did not converge"):
        model.refine(z, tolerance=1e-20)
    found = model.refine(z, tolerance=1e-20, throw=False)
    assert not found.converged.any()
    assert ((found.u - model.problem.solve(z)).abs().amax(1) < 1e-10).all()


@pytest.mark.parametrize("kind", ["linear", "nonsymmetric", "blocks"])
def test_errors_are_measured_to_some_percent(kind):
    problem = blocks(1e6) if kind == "blocks" else problem_of(kind)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=10))
    z = problem.prior.sample((32,), seed=0)
    start = start_of(model, z)
    u = problem.solve(z)
    left = nearly_exact(model.exact, model.reduction.reference, start, z) - u
    # A hundredth of the residual; its norm weighs errors by the spread of the conductivity.
    assert (left.norm(dim=1) <= 0.1 * (start - u).norm(dim=1)).all()
    assert (left.norm(dim=1) / (start - u).norm(dim=1)).median() <= 0.02


def test_rounding_is_an_error_too():
    problem = poisson.make_1d(8)
    model = pddlvm.LatentVariableModel(problem)
    z = problem.prior.sample((16,), seed=0)
    start = model.forward(z, corrections=2).mean
    left = nearly_exact(model.exact, model.reduction.reference, start, z) - start
    assert (left.norm(dim=1) / start.norm(dim=1)).median() > 1e-17
    assert (left.norm(dim=1) / start.norm(dim=1)).max() < 1e-13


def test_errors_that_cannot_be_measured_are_named():
    model, z = spread()
    start = start_of(model, z)
    start[2] = torch.nan
    with pytest.raises(pddlvm.ConvergenceError, match=r"errors of 1 of 3 .* z = \[0.0, 0.0, 0.0\]"):
        nearly_exact(model.exact, model.reduction.reference, start, z)


@pytest.mark.slow
def test_a_cycle_of_multigrid_takes_the_place_of_solves(monkeypatch):
    # More unknowns than the coarsest level has.
    space = fem.Space(fem.unit_square(32))
    terms = [pddlvm.Energy(space.interior(), density) for density in (diffusion, load)]
    fields = {"kappa": pddlvm.KarhunenLoeve.on(space, 3, length=0.4, link=links.exp), "f": 4.0}
    held = [pddlvm.Dirichlet("left")]
    models = [
        pddlvm.LatentVariableModel(
            pddlvm.Problem("plate", space, terms, fields, held, solver=solver),
            basis=pddlvm.ResidualEnriched(n_modes=8),
        )
        for solver in (SuperLU(), Multigrid())
    ]
    z = models[0].problem.prior.sample((4,), seed=0)
    direct, cycle = (model.refine(z) for model in models)
    torch.testing.assert_close(cycle.u, direct.u, rtol=1e-8, atol=1e-10)
    assert (cycle.iterations <= 2 * direct.iterations).all()
    # Solves are left for the norms alone, one for a step of Newton's method.
    calls, solve = [], MultigridFactors.solve
    monkeypatch.setattr(
        MultigridFactors, "solve", lambda *args, **more: calls.append(1) or solve(*args, **more)
    )
    models[1].refine(z)
    assert 0 < len(calls) < int(cycle.iterations.min())
