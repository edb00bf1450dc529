"""A pool of solved draws: known again by their bits, others are solved when asked for."""

import pytest
import torch
import waves

import pddlvm
from pddlvm import fem, links
from pddlvm.basics.random import generator_of
from pddlvm.galerkin import covariances, solved_draws
from pddlvm.galerkin.solved_draws import SolvedDraws, SolvedSystems
from pddlvm.latent.rows import Rows
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.many_matrices import tangent_of_many
from pddlvm.reduced.solving import solve_reduced
from pddlvm.weak.linear_terms import LinearTerm


@pytest.fixture(scope="module")
def reduced():
    return pddlvm.reduce(waves.helmholtz()).model(waves.helmholtz(), torch.float64)


@pytest.fixture(params=[torch.float32, torch.float64])
def draws(reduced, request, monkeypatch):
    monkeypatch.setattr(solved_draws, "_N_DRAWS", 300)
    return SolvedDraws(Interpolated(reduced), request.param)


def test_batches_are_draws_of_the_pool_and_their_solutions_those_of_the_problem(draws, reduced):
    xi = draws.sample_standard((64,), generator=generator_of(0))
    found = draws.solutions(xi)
    z = reduced.prior.unstandardise(xi.double())
    expected = solve_reduced(reduced, z)
    rounding = 10 * torch.finfo(xi.dtype).eps * float(expected.abs().max())
    # Sums of interpolated operators are right to some nine digits.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=max(rounding, 1e-7))


def test_they_are_looked_up(draws, monkeypatch):
    xi = draws.sample_standard((64,), generator=generator_of(0))
    known = draws.solutions(xi)
    monkeypatch.setattr(draws, "_solve", lambda xi: pytest.fail("solved again"))
    torch.testing.assert_close(draws.solutions(xi[[5, 5, 3]]), known[[5, 5, 3]], rtol=0, atol=0)


def test_others_are_solved(draws, reduced):
    xi = draws.sample_standard((4,), generator=generator_of(0))
    new = xi.clone()
    new[1] = torch.nextafter(new[1], torch.full_like(new[1], torch.inf))
    new[2] = reduced.prior.sample_standard((), generator=generator_of(9)).to(xi)
    found = draws.solutions(new)
    torch.testing.assert_close(found[[0, 3]], draws.solutions(xi)[[0, 3]], rtol=0, atol=0)
    z = reduced.prior.unstandardise(new.double())
    torch.testing.assert_close(found.double(), solve_reduced(reduced, z), rtol=0, atol=1e-5)


def test_the_random_stream_of_the_caller_decides(draws):
    one, two = (draws.sample_standard((7,), generator=generator_of(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, draws.sample_standard((7,), generator=generator_of(5)))


def test_the_pool_is_filled_before_a_training_begins_its_schedule(monkeypatch):
    monkeypatch.setattr(solved_draws, "_N_DRAWS", 300)
    model = pddlvm.LatentVariableModel(waves.helmholtz(), seed=0)
    (stage,) = model.stages(calibrate=False)
    stage.prepare()
    monkeypatch.setattr(SolvedDraws, "_solve", lambda self, xi: pytest.fail("solved in a step"))
    rows = Rows.given(8)
    assert stage.loss(rows, stage.draw(rows, generator_of(0))).isfinite()


def heated(power):
    """Conductivity and exchange of a random field, and random boundary values far from zero."""
    space = fem.Space(fem.unit_square(5))

    def density(u, du, x, k):
        return 0.5 * k**power * (du * du).sum() + 0.1 * k * u**2 - (1 + k) * u

    fields = {
        "k": pddlvm.KarhunenLoeve.on(space, 6, length=0.2, std=0.5, link=links.exp),
        "g": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
    }
    held = [pddlvm.Dirichlet("left", lambda x, g: g), pddlvm.Dirichlet("right", lambda x: 1.0)]
    return pddlvm.Problem("heated", space, [pddlvm.Energy(space.interior(), density)], fields, held)


@pytest.fixture(scope="module", params=[1, 2])
def dear(request):
    """Its reduced model, of physics at points; affine in the values of k, or not."""
    problem = heated(request.param)
    reduced = pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=10)).model(
        problem, torch.float64
    )
    assert reduced.n_strains > 0
    assert any(reduced.affine_in_fields) == (request.param == 1)
    return reduced


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_of_systems_are_those_above_the_minimum(dear, dtype, monkeypatch):
    monkeypatch.setattr(solved_draws, "_N_SYSTEMS", 300)
    pool = SolvedSystems(Interpolated(dear), dtype)
    rtol = 2e-4 if dtype == torch.float32 else 1e-9
    known = pool.sample_standard((32,), generator=generator_of(0))
    other = dear.prior.sample_standard((3,), generator=generator_of(9)).to(dtype)
    for xi in (known, other):
        z = dear.prior.unstandardise(xi.double())
        lowest = solve_reduced(dear, z)
        c = lowest + torch.randn(lowest.shape, generator=generator_of(1), dtype=torch.float64)
        c.requires_grad_()
        expected = dear.energy(c, z) - dear.energy(lowest, z)
        found = pool.energy(c.to(dtype), xi)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=0)
        (gradient,) = torch.autograd.grad(found.sum(), c)
        r = dear.residual(c.detach(), z)
        torch.testing.assert_close(gradient, r, rtol=0, atol=rtol * float(r.abs().max()))


def test_a_model_whose_physics_is_dear_trains_on_systems(monkeypatch):
    problem = heated(1)
    few = pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=6))

    def draws():
        return pddlvm.LatentVariableModel(problem, reduction=few, seed=0).likelihood.draws

    assert not isinstance(draws(), SolvedSystems)
    monkeypatch.setattr(covariances, "_DEAR_STRAINS", 1)
    assert isinstance(draws(), SolvedSystems)
    # Where there is no room for enough of them, a network would learn them by heart.
    monkeypatch.setattr(solved_draws, "_ROOM", 1000)
    assert not isinstance(draws(), SolvedSystems)


def test_entries_that_are_affine_in_fields_are_differentiated_at_one_draw(monkeypatch):
    problem = heated(1)
    reduced = pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=5)).model(
        problem, torch.float64
    )
    z = problem.prior.sample((12,), seed=2)
    expected, own_with = tangent_of_many(reduced, z), LinearTerm.own_with
    asked = []

    def counted(self, values, n):
        asked.append(n)
        return own_with(self, values, n)

    monkeypatch.setattr(LinearTerm, "own_with", counted)
    found = tangent_of_many(reduced, z)
    assert set(asked) == {1}
    torch.testing.assert_close(found, expected)
