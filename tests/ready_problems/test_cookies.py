"""The cookies problem: the discs of the benchmark, its matrices, and its published value."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import cookies
from problems.poisson import diffusion

POINT = [-0.2, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8]
AT_POINT = 0.05725576523730292
"""What the benchmark says there, on 400 x 400 cells."""


def of(problem: pddlvm.Problem, z: torch.Tensor) -> torch.Tensor:
    return cookies.quantity(problem)(problem.solve(z))[..., 0]


@pytest.mark.parametrize(
    ("n", "tolerance"),
    # The error of the mesh, and what the solver of the benchmark leaves.
    [(100, 2e-3), pytest.param(400, 1e-8, marks=pytest.mark.slow)],
)
def test_value_of_the_benchmark(n, tolerance):
    found = of(cookies.make(n), torch.tensor(POINT).double())
    assert float(found) == pytest.approx(AT_POINT, rel=tolerance)


def test_discs_are_numbered_row_by_row():
    problem = cookies.make(50)
    z = torch.tensor(POINT).double()
    kappa, x = problem.parameter_field(z), problem.space.centroids.x
    centres = [(0.2, 0.2), (0.5, 0.2), (0.8, 0.2), (0.2, 0.5), (0.8, 0.5)]
    centres += [(0.2, 0.8), (0.5, 0.8), (0.8, 0.8)]
    rest = np.ones(len(x), dtype=bool)
    for i, centre in enumerate(centres):
        inside = np.linalg.norm(x - centre, axis=1) < 0.13
        assert torch.all(kappa[torch.from_numpy(inside)] == 1 + z[i])
        rest &= ~inside
    assert torch.all(kappa[torch.from_numpy(rest)] == 1)


def test_cells_that_no_circle_cuts_need_no_quadrature_of_degree_8():
    made = cookies.make(20)
    space = fem.Space(made.space.mesh, quadrature=8)
    terms = [
        pddlvm.Energy(space.interior(), diffusion),
        pddlvm.Energy(space.interior("source"), cookies.source),
    ]
    everywhere = pddlvm.Problem("everywhere", space, terms, made.fields, made.dirichlet)
    z = made.prior.sample((2,), seed=0)
    torch.testing.assert_close(made.solve(z), everywhere.solve(z), rtol=1e-10, atol=1e-12)


def test_quantity_integrates_over_the_middle():
    problem = cookies.make(20)
    x = torch.from_numpy(problem.space.dof_points)
    found = cookies.quantity(problem)(torch.stack([torch.ones(len(x)).double(), x[:, 0]]))
    # The area of [0.4, 0.6]^2, and half of it.
    torch.testing.assert_close(found[:, 0], torch.tensor([0.04, 0.02]).double())


@pytest.mark.parametrize("n", [0, 12, 20.0, True])
def test_cells_that_the_source_would_cut_are_refused(n):
    with pytest.raises(pddlvm.InputError, match=r"multiple of 5.*got"):
        cookies.make(n)


def test_the_quantity_is_that_of_this_problem(poisson_2d):
    with pytest.raises(pddlvm.InputError, match=r"cookies\.make"):
        cookies.quantity(poisson_2d)
