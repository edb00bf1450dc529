"""Periodic composites: orders of a manufactured solution, and effective tensors that are known."""

import math

import numpy as np
import pytest
import torch
from manufactured import manufactured, observed_orders
from torch.func import grad

import pddlvm
from pddlvm import fem
from problems.homogenisation import effective_tensor, inclusion_energy, make, tensor_error_bound

PI = math.pi


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# --- orders --------------------------------------------------------------------------------------


def conductivity(x):
    return 1.5 + 0.5 * torch.sin(2 * PI * x).sum()


def ripples(x):
    return 0.2 * torch.sin(2 * PI * x[0]) * torch.cos(2 * PI * x[1])


def waves(x):
    return 0.1 * torch.cos(2 * PI * (x[0] + x[1]))


def physics(du, dv, x, amplitude):
    k = amplitude * conductivity(x)
    by_u, by_v = grad(inclusion_energy, argnums=(0, 1))(du, dv, k)
    return {"u": (0.0, by_u), "v": (0.0, by_v)}


def law(du, dv, x, amplitude):
    k = amplitude * conductivity(x)
    return {
        "u": (0.0, k * torch.stack([1 + du[0], du[1]])),
        "v": (0.0, k * torch.stack([dv[0], 1 + dv[1]])),
    }


def test_orders_of_a_manufactured_solution():
    exact = {"u": ripples, "v": waves}
    held = [pddlvm.MeanValue("u"), pddlvm.MeanValue("v")]

    def make(n):
        mesh = fem.unit_square(n)
        cell = fem.Space(mesh, 2, periodic={"left": "right", "bottom": "top"})
        space = fem.MixedSpace({"u": cell, "v": cell})
        return manufactured(space, physics, law, exact, [], constraints=held)

    # Quadratic elements: three.
    for order in observed_orders(make, exact).values():
        assert order == pytest.approx(3.0, abs=0.15)


# --- effective tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("contrast", [1.0, 10.0, 100.0])
def test_equal_inclusions_have_the_known_tensor(contrast):
    problem = make()
    z = torch.full((4,), math.log(contrast), dtype=torch.float64)
    # Squares of a quarter of the volume (Yu. V. Obnosov, SIAM J. Appl. Math. 59, 1267-1287, 1999).
    expected = math.sqrt((1 + 3 * contrast) / (3 + contrast))
    found = effective_tensor(problem, problem.solve(z), z)
    # As documented, from above: the energy of an approximation is larger.
    assert (found.diagonal() >= expected * (1 - 1e-12)).all()
    torch.testing.assert_close(
        found, expected * torch.eye(2, dtype=torch.float64), rtol=1.2e-3, atol=1e-12
    )


def test_tensors_lie_between_the_means():
    problem = make(8)
    z = problem.prior.sample((3, 2), seed=0)
    a = effective_tensor(problem, problem.solve(z), z)
    assert a.shape == (3, 2, 2, 2)
    torch.testing.assert_close(a, a.mT)
    k = z.exp()
    arithmetic = 0.75 + 0.25 * k.mean(-1)
    harmonic = 1 / (0.75 + 0.25 * (1 / k).mean(-1))
    values = torch.linalg.eigvalsh(a)
    # Voigt and Reuss.
    assert (values > harmonic[..., None]).all()
    assert (values < arithmetic[..., None]).all()
    # Pi is half of the trace.
    energy = problem.energy(problem.solve(z), z)
    torch.testing.assert_close(energy, 0.5 * a.diagonal(dim1=-2, dim2=-1).sum(-1))


def test_a_row_of_conductors_makes_the_cell_anisotropic():
    problem = make(8)
    row = [math.log(100.0), math.log(100.0), 0.0, 0.0]
    z = double([row, [row[0], row[2], row[1], row[3]]])
    along, across = effective_tensor(problem, problem.solve(z), z)
    # Blocks are counted along x first: the first sample has its conductors in a row along x.
    assert along[0, 0] > along[1, 1]
    # The other is the same cell with x and y exchanged; so is its mesh.
    torch.testing.assert_close(across, along.flip(0, 1), rtol=1e-9, atol=1e-9)


def test_an_error_of_the_solution_enters_by_its_square():
    problem = make(8)
    z = problem.prior.sample(seed=1)
    u = problem.solve(z)
    error = torch.from_numpy(np.cos(np.arange(problem.n_dofs)))
    traces = [float(effective_tensor(problem, u + t * error, z).trace()) for t in (0, 1e-4, 2e-4)]
    # Four times the error for twice the distance, to round-off.
    assert (traces[2] - traces[0]) / (traces[1] - traces[0]) == pytest.approx(4.0, rel=1e-4)


@pytest.mark.slow
def test_the_bound_of_the_tensor_holds_and_is_sharp():
    problem = make(8)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=12))
    pddlvm.train(model, max_steps=60, calibrate=False)
    z = problem.prior.sample((40,), seed=1)
    forward = model.forward(z)
    bound = tensor_error_bound(problem, forward.error_bound, z)
    exact = effective_tensor(problem, problem.solve(z), z)
    error = (effective_tensor(problem, forward.mean, z) - exact).abs().amax((-2, -1))
    assert (error <= bound).all()
    assert (bound / error).median() < 40


def test_cells_that_do_not_fit_the_inclusions_are_refused():
    with pytest.raises(pddlvm.InputError, match="multiple of 12"):
        make(8, 3)


def test_other_problems_have_no_effective_tensor(poisson_1d):
    z = double([0.0])
    with pytest.raises(pddlvm.InputError, match=r"that of homogenisation\.make"):
        effective_tensor(poisson_1d, poisson_1d.solve(z), z)
