"""Coefficients of a problem that are tensors with unknown axes, or come from a table."""

import math

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem, links

TABLE = torch.tensor([[1.0, 3.0], [0.2, 1.0]], dtype=torch.float64)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def tensor_energy(u, du, x, angle, k):
    along = torch.stack([angle.cos(), angle.sin()]) @ du
    across = torch.stack([-angle.sin(), angle.cos()]) @ du
    return 0.5 * k * (5 * along**2 + across**2)


def test_a_tensor_of_unknown_axes_conducts_along_them():
    space = fem.Space(fem.unit_square(2))
    case = pddlvm.Problem(
        "axes",
        space,
        [pddlvm.Energy(space.interior(), tensor_energy)],
        {
            "angle": pddlvm.Constant(pddlvm.Uniform(-math.pi, math.pi)),
            "k": pddlvm.Piecewise.on_blocks(space, (2, 1), prior=pddlvm.LogNormal()),
        },
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x: x[0])],
    )
    a = double([0.0, math.pi / 2, 0.4])
    z = torch.column_stack([a, torch.ones(3, 2).double()])
    u = torch.from_numpy(space.dof_points[:, 0]).expand(3, -1)
    # Of u = x on a unit square: half of the conductivity along x.
    expected = 0.5 * (5 * a.cos() ** 2 + a.sin() ** 2)
    torch.testing.assert_close(case.energy(u, z), expected, rtol=1e-12, atol=0)


def square_of(x):
    i = 2 * (2 * x[1]).long() + (2 * x[0]).long()
    return TABLE.flatten()[i[None]][0]


def pixels(u, du, x, k):
    return 0.5 * k * square_of(x) * (du @ du)


def through(n):
    """Heat through the table from the left to the right."""
    space = fem.Space(fem.unit_square(n), 2)
    case = pddlvm.Problem(
        "table",
        space,
        [pddlvm.Energy(space.interior(), pixels)],
        {"k": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))},
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", 1.0)],
    )
    z = double([1.0])
    return 2 * float(case.energy(case.solve(z), z))


def test_a_coefficient_may_jump_as_a_table_says():
    found = [through(n) for n in (4, 8, 16)]
    series = 2 / (1 / TABLE[:, 0] + 1 / TABLE[:, 1])
    columns = TABLE.mean(0)
    low, high = float(series.mean()), float(2 / (1 / columns).sum())
    # Rows that exchange nothing, and columns of one temperature each.
    assert low < found[-1] < high
    assert np.all(np.diff(found) < 0)
    # Singular where the squares meet, but nothing is smeared: a jump within cells has order one.
    assert abs(found[2] - found[1]) < 0.01 * found[2]


@pytest.mark.parametrize("link", [links.identity, torch.sigmoid])
def test_fields_of_all_kinds_go_together(link):
    space = fem.Space(fem.unit_square(4))
    fields = {
        "a": pddlvm.KarhunenLoeve.on(space, 3, length=0.5, link=link),
        "b": pddlvm.Piecewise.on_blocks(space, (2, 2), prior=pddlvm.LogNormal()),
        "c": pddlvm.Chebyshev(n_terms=2, low=0.0, high=1.0, axis=1, link=links.softplus),
        "d": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0)),
        "e": 2.0,
    }

    def energy(u, du, x, a, b, c, d, e):
        return 0.5 * (1 + a**2) * b * c * (du @ du) - (d + e) * u

    case = pddlvm.Problem("mixture", space, [pddlvm.Energy(space.interior(), energy)], fields,
                          [pddlvm.Dirichlet(None)])  # fmt: skip
    z = case.prior.sample((3,), seed=0)
    assert case.n_parameters == 3 + 4 + 2 + 1
    u = case.solve(z)
    assert torch.autograd.gradcheck(lambda z: case.residual(u, z), z.requires_grad_())
