"""Steady flows in strong form, by their stream function."""

import math
from itertools import pairwise

import pytest
import torch

import pddlvm
from pddlvm import fem, links
from problems import pinn, stokes
from problems.navier_stokes import navier_stokes

PI = math.pi


def kovasznay(x, y, Re):
    """psi of the flow behind a grid (L. Kovasznay, Proc. Camb. Phil. Soc. 44, 1948)."""
    rate = Re / 2 - torch.sqrt(Re**2 / 4 + 4 * PI**2)
    return y - torch.exp(rate * x) * torch.sin(2 * PI * y) / (2 * PI)


def disturbed(x, y, Re):
    """With the same values and slopes all around."""
    return kovasznay(x, y, Re) + 0.1 * (torch.sin(PI * x) * torch.cos(PI * y)) ** 2


def behind_a_grid(nodes):
    box = pddlvm.Box(x=(0.0, 1.0), y=(-0.5, 0.5))
    return pddlvm.CollocationProblem(
        "Kovasznay",
        box,
        pinn.navier_stokes,
        {"Re": pddlvm.Constant(pddlvm.Uniform(10.0, 60.0))},
        unknowns=("psi",),
        lift=disturbed,
        hard=[side(c, with_slope=True) for c in box.names for side in (box.start, box.end)],
        grid=(13, 11),
        nodes=nodes,
    )


def test_the_flow_behind_a_grid_is_found_with_spectral_order():
    z = torch.tensor([[10.0], [40.0]], dtype=torch.float64)
    errors = []
    for n in (8, 12, 16, 20):
        problem = behind_a_grid((n, n))
        expected = kovasznay(*problem.grid_points.unbind(-1), z)
        errors.append(float((problem.solve(z) - expected).abs().max()))
    # Measured: 2e-3, 2e-6, 4e-10 and 3e-14.
    assert all(after < before / 10 for before, after in pairwise(errors))
    assert errors[-1] < 1e-10


def test_the_flow_behind_a_grid_has_no_residual(generator):
    problem = behind_a_grid((8, 8))
    z = torch.tensor([[30.0]], dtype=torch.float64)
    points = torch.rand(20, 2, generator=generator, dtype=torch.float64) - torch.tensor([0.0, 0.5])
    r = problem.residual(lambda x, y: kovasznay(x, y, z), z, points)
    assert r.abs().max() < 1e-9


def test_the_cavity_is_that_of_finite_elements():
    def lid(x, skew):
        s = x[0]
        return torch.stack([(4 * s * (1 - s)) ** 2 * (1 + skew * (2 * s - 1)), 0 * s])

    space = stokes.taylor_hood(fem.unit_square(16))
    mixed = pddlvm.Problem(
        "cavity",
        space,
        terms=[pddlvm.Flux(space.interior(), navier_stokes)],
        fields={
            "Re": pddlvm.Constant(pddlvm.Uniform(2.0, 5.0), link=links.exp),
            "skew": pddlvm.Constant(pddlvm.Uniform(-0.5, 0.5)),
        },
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", lid)],
        constraints=[pddlvm.MeanValue("p")],
    )
    z = torch.tensor([[math.log(80.0), 0.4]], dtype=torch.float64)
    n, h = 10, 1e-3
    at = torch.linspace(0.05, 0.85, n, dtype=torch.float64)
    points = torch.stack([torch.full_like(at, 0.5), at], dim=-1)
    seen = pddlvm.PointObservation(mixed, points, 1.0, field="u")
    velocity = seen.apply(mixed.solve(z)).reshape(n, 2)
    # psi between its grid lines is off by some 1e-6: a wide difference along y.
    problem = pinn.make_navier_stokes(grid=(11, 201))
    psi = problem.solve(z)
    step = torch.tensor([0.0, h], dtype=torch.float64)
    ends = [
        pddlvm.PointObservation(problem, points + s * step, 1.0, field="psi").apply(psi)
        for s in (1, -1)
    ]
    found = (ends[0] - ends[1])[0] / (2 * h)
    assert velocity[:, 0].abs().max() > 0.1
    # Measured: 2e-4, the error of the elements.
    assert (found - velocity[:, 0]).abs().max() < 1e-3


def test_walls_are_at_rest_and_the_lid_moves():
    problem = pinn.make_navier_stokes()
    s = torch.linspace(-1, 1, 7, dtype=torch.float64)
    z = torch.tensor([[3.0, 0.5]], dtype=torch.float64)
    for side, axis in ((-1, 0), (1, 0), (-1, 1), (1, 1)):
        at = [s, torch.full_like(s, side)] if axis else [torch.full_like(s, side), s]
        lift = problem.ansatz.lift_jet(z, problem.ansatz.place(at, z).x)
        x = 0.5 + 0.5 * s
        moves = (4 * x * (1 - x)) ** 2 * (1 + 0.5 * (2 * x - 1))
        expected = moves if (side, axis) == (1, 1) else torch.zeros_like(s)
        torch.testing.assert_close(lift[()][0], torch.zeros_like(s))
        torch.testing.assert_close(lift[(axis,)][0], expected)


@pytest.mark.slow
def test_a_model_of_the_cavity():
    problem = pinn.make_navier_stokes(grid=(21, 21), nodes=(20, 20))
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=500, calibrate=False)
    model.calibrate(128)
    z = problem.prior.sample((60,), seed=5)
    psi, forward = problem.solve(z), model.forward(z)
    error = forward.mean - psi
    assert (error.norm(dim=1) / psi.norm(dim=1)).mean() < 1e-3
    held = (error.abs() <= 2 * forward.std)[forward.std > 0].double().mean()
    assert 0.9 < held < 0.99
    corrected = model.forward(z, corrections=1).mean
    assert ((corrected - psi).norm(dim=1) / psi.norm(dim=1)).max() < 1e-6
