"""Checks that several test files share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.inference.density import Density
from problems import nonlinear_poisson, poisson
from problems.shell import bending_energy, membrane_energy

UNLIKE_PROBLEMS = [
    lambda: poisson.make(6, n_terms=3),
    lambda: nonlinear_poisson.make_1d(10),  # nonlinear, with a random boundary value
    lambda: nonlinear_poisson.make_advection_diffusion(6, 3),  # not symmetric
]


def refuses(message, make, *arguments, error=pddlvm.ProblemError, **changes):
    """It raises the error, with this in its message."""
    with pytest.raises(error, match=message):
        make(*arguments, **changes)


@dataclass(frozen=True)
class Known:
    """Proposals and a target that are given, in the place of `pddlvm.amortized.proposals`."""

    density: Density
    log_target: Callable[[torch.Tensor], torch.Tensor]
    is_foreign: bool = False


def dot_test(operator, n_columns, n_rows):
    """Assert that forward and adjoint belong together: <B u, q> = <u, B^T q>, u and q random."""
    dtype = next(operator.buffers()).dtype
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(n_columns, generator=generator, dtype=torch.float64).to(dtype)
    q = torch.randn(n_rows, generator=generator, dtype=torch.float64).to(dtype)
    e, adjoint = operator(u), operator.adjoint(q)
    assert e.shape == (n_rows,)
    assert adjoint.shape == (n_columns,)
    # Two orders of the same sum: equal to some units of round-off of its largest possible value.
    scale = e.norm() * q.norm() + u.norm() * adjoint.norm()
    assert abs(e @ q - u @ adjoint) <= 10 * torch.finfo(dtype).eps * scale


def slope_test(read, z, unit, rtol, atol):
    """The derivative of what is read at z is that of differences, by random weights and directions.

    Args:
        read: z -> values.
        z: (batch, d).
        unit: of each parameter.
    """
    generator = torch.Generator().manual_seed(1)
    along = unit * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    there = read(z)
    weights = torch.randn(there.shape, generator=generator, dtype=z.dtype) / there.norm()

    def total(z):
        return (read(z) * weights).sum()

    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(at), at)
    h = 1e-4
    difference = (total(z + h * along) - total(z - h * along)) / (2 * h)
    torch.testing.assert_close((slope * along).sum(), difference, rtol=rtol, atol=atol)


def shell(mesh, loads, dirichlet, *, E=1.0, nu=0.3, thickness=0.1):
    """A shell of which the only parameter is its Young's modulus."""
    space = fem.ShellSpace(mesh)
    return pddlvm.Problem(
        "shell",
        space,
        [
            pddlvm.Energy(space.membrane(), membrane_energy),
            pddlvm.Energy(space.bending(), bending_energy),
            *loads(space),
        ],
        {
            "E": pddlvm.Constant(pddlvm.LogNormal(np.log(E), 0.1)),
            "thickness": thickness,
            "nu": nu,
        },
        dirichlet,
    )


def l2_error(space, u, exact):
    """|u - exact| in L2 on a Lagrange space; exact maps points (n, dim) to (n, n_components)."""
    region = space.with_quadrature(6).interior()
    c = space.n_components
    values = (region.matrix @ np.asarray(u)).reshape(-1, region.shape[2])[:, :c]
    expected = exact(torch.from_numpy(region.points.x)).reshape(-1, c).numpy()
    return float(np.sqrt(region.weights.ravel() @ (values - expected) ** 2 @ np.ones(c)))


def orders(errors):
    """Observed orders of errors on meshes of which each halves the cells of the one before."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
