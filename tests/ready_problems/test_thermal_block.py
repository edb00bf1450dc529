"""The thermal block: its solutions, and that certificates on it hold."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from problems import thermal_block
from problems.poisson import diffusion


def smooth(x):
    """Zero on the sides of all 3 x 2 blocks."""
    return torch.sin(3 * torch.pi * x[0]) * torch.sin(2 * torch.pi * x[1])


def heat_source(u, du, x):
    return -13 * torch.pi**2 * smooth(x) * u


def test_manufactured_solutions_converge_with_second_order():
    """U = smooth / theta is continuous across the sides, and so is its flux."""
    errors = []
    for n in (12, 24, 48):
        made = thermal_block.make(3, 2, n)
        terms = [
            pddlvm.Energy(made.space.interior(), diffusion),
            pddlvm.Energy(made.space.interior(), heat_source),
        ]
        fields = {"kappa": made.fields["kappa"]}
        problem = pddlvm.Problem("manufactured", made.space, terms, fields, made.dirichlet)
        z = problem.prior.sample(seed=0)
        fine = fem.Space(made.space.mesh, quadrature=6).interior()
        values = (fine.matrix @ problem.solve(z).numpy()).reshape(-1, fine.shape[2])[:, 0]
        theta = problem.parameter_field(z).numpy().repeat(fine.shape[1])
        exact = torch.vmap(smooth)(torch.from_numpy(fine.points.x)).numpy() / theta
        errors.append(np.sqrt(fine.weights.ravel() @ (values - exact) ** 2))
    orders = -np.diff(np.log2(errors))
    assert abs(orders[-1] - 2) < 0.15, orders


def test_blocks_are_numbered_row_by_row():
    problem = thermal_block.make(2, 3, 6)
    z = torch.linspace(0.1, 1.0, 6).double()
    x = problem.space.centroids.x
    block = (x[:, 0] * 2).astype(int) + 2 * (x[:, 1] * 3).astype(int)
    assert torch.equal(problem.parameter_field(z), z[torch.from_numpy(block)])


@pytest.mark.parametrize("nx, ny, n", [(1, 1, 42), (3, 3, 42), (4, 4, 40), (5, 2, 40), (50, 1, 50)])
def test_blocks_are_whole_cells(nx, ny, n):
    assert thermal_block.make(nx, ny).n_dofs == (n + 1) ** 2


@pytest.mark.parametrize(
    "arguments, message",
    [((2, 3, 8), "multiple of nx = 2 and ny = 3.*try 6"), ((0, 1), "nx"), ((1, 2.0), "ny")],
)
def test_what_makes_no_blocks_is_refused(arguments, message):
    with pytest.raises(pddlvm.InputError, match=message):
        thermal_block.make(*arguments)


def test_a_basis_may_go_down_to_round_off():
    basis = pddlvm.ResidualEnriched(n_modes=24, tolerance=1e-12)
    model = pddlvm.LatentVariableModel(thermal_block.make(2, 2, 20), basis=basis)
    problem = model.problem
    z = problem.prior.sample((50,), seed=1)
    forward, u = model.forward(z, corrections=1), problem.solve(z)
    error, size = problem.energy_norm(forward.mean - u), problem.energy_norm(u)
    assert model.n_modes <= 24 and (error <= 1e-8 * size).all()
    # The bound is of use there, too.
    assert (error <= forward.error_bound).all() and (forward.error_bound <= 1e-8 * size).all()


@pytest.mark.slow
@pytest.mark.parametrize("nx", [2, 3])
def test_no_violation_in_a_thousand_draws(nx):
    model = pddlvm.LatentVariableModel(thermal_block.make(nx, nx))
    pddlvm.train(model, max_seconds=60)
    for found in pddlvm.validate(model, n_samples=1000).effectivity.values():
        assert found.violations == 0 and found.median <= 3
