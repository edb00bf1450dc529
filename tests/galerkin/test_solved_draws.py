"""A pool of solved draws: known again by their bits, others are solved when asked for."""

import pytest
import torch
import waves

import pddlvm
from pddlvm.basics.random import generator_of
from pddlvm.galerkin import solved_draws
from pddlvm.galerkin.solved_draws import SolvedDraws
from pddlvm.latent.rows import Rows
from pddlvm.reduced.interpolated import Interpolated
from pddlvm.reduced.solving import solve_reduced


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
