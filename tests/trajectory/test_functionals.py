"""Rows of trajectories: dense equality, errors, and what a query of them does not make."""

import parabolic
import pytest
import scipy.sparse as sp
import torch

import pddlvm
from pddlvm.trajectory.functionals import Functionals
from pddlvm.trajectory.modes import Modes

TIMES = [0.05, 0.1123, parabolic.END]


@pytest.fixture(scope="module", params=["heat", pytest.param("boundary", marks=pytest.mark.slow)])
def model(request):
    made = pddlvm.LatentVariableModel(parabolic.make(request.param), n_shapes=12, n_modes=16)
    pddlvm.train(made, max_steps=30)
    return made


def rows_of(answer, n=5):
    """A few numbers in each of some rows, none in the first."""
    generator = torch.Generator().manual_seed(0)
    columns = len(answer.times) * answer.mean.shape[-1]
    rows = torch.zeros(n, columns, dtype=torch.float64)
    for row in rows[1:]:
        row[torch.randint(columns, (4,), generator=generator)] = 1.5
    return sp.csr_matrix(rows.numpy()), rows


@pytest.mark.parametrize("corrections", [0, 1, 2])
@pytest.mark.parametrize("times", [None, TIMES])
def test_values_and_errors_are_those_of_dense_rows(model, corrections, times):
    z = model.problem.prior.sample((2, 2), seed=1)
    found = model.forward(z, corrections, times=times)
    rows, dense = rows_of(found)
    torch.testing.assert_close(found.values(rows), found.mean.flatten(-2) @ dense.T)
    one = torch.zeros_like(dense[:1])
    one[0, -7] = 1.0
    torch.testing.assert_close(
        found.covariance(one)[..., 0, 0].sqrt(), found.std.flatten(-2)[..., -7]
    )


@pytest.mark.parametrize("corrections", [0, 1])
def test_a_query_makes_no_trajectory(model, corrections, monkeypatch):
    z = model.problem.prior.sample(seed=1)
    rows, _ = rows_of(model.forward(z))
    monkeypatch.setattr(Modes, "expand", None)
    assert model.forward(z, corrections).values(rows).shape == (5,)
    assert model.forward(z, corrections).error_of(rows).diagonal().shape == (1, 5)


def test_rows_are_kept_until_they_are_written_to(model, monkeypatch):
    z = model.problem.prior.sample(seed=1)
    rows, _ = rows_of(model.forward(z))
    before = model.forward(z).values(rows)
    rows.data *= 2
    torch.testing.assert_close(model.forward(z).values(rows), 2 * before)
    monkeypatch.setattr(Functionals, "__init__", None)
    model.forward(z).values(rows.copy())
    rows.data *= 2
    with pytest.raises(TypeError):
        model.forward(z).values(rows)


def test_few_rows_are_kept(model):
    answer = model.forward(model.problem.prior.sample(seed=1))
    rows, _ = rows_of(answer)
    for factor in range(1, 20):
        answer.values(factor * rows)
    assert len(model.functionals._kept) <= 8
