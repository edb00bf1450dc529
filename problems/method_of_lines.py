"""References that know nothing of the models: finite volumes in x, stiff integration in time.

    du_i/dt = -(F_{i+1/2} - F_{i-1/2}) / h_i + source,   F the flux between neighbours

Second order in x on fixed meshes of several hundred cells, extrapolated from three (Richardson);
`scipy.integrate.solve_ivp` with BDF and tight tolerances in time. Corrected solutions of smooth
problems are right to ten digits and more: a reference has to be better.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.interpolate import make_interp_spline
from torch import Tensor

import pddlvm

__all__ = ["heat", "integrate", "reaction_diffusion"]

Array = NDArray[np.float64]
_N_CELLS = 800
_DEGREE = 7
"""Of the splines between nodes, whose error must be smaller than the extrapolated one."""


def integrate(rate: Callable[[Array], Array], u: Array, nodes: Array, x: Array, t: Array) -> Array:
    """Integrate du/dt = rate(u) with fixed end values; u on the grid (len(x), len(t)).

    Args:
        rate: of the inner nodes, from the values at all nodes.
        u: start, at all nodes.
        nodes: increasing.
        x: grid in space.
        t: grid in time.
    """
    ends = u[[0, -1]]
    n = len(nodes) - 2
    neighbours: Any = sp.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))

    def inner_rate(_: float, inner: Any) -> Array:
        return rate(np.concatenate([ends[:1], inner, ends[1:]]))

    found: Any = solve_ivp(
        inner_rate,
        (float(t[0]), float(t[-1])),
        np.asarray(u[1:-1], dtype=float),
        method="BDF",
        t_eval=t,
        rtol=1e-12,
        atol=1e-14,
        jac_sparsity=neighbours,
    )
    if not found.success:
        raise pddlvm.ConvergenceError(f"the reference integration failed: {found.message}")
    full = np.concatenate([np.full((1, len(t)), ends[0]), found.y, np.full((1, len(t)), ends[1])])
    return np.asarray(make_interp_spline(nodes, full, k=_DEGREE)(x))


def _extrapolated(solve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """(64 u_h - 20 u_2h + u_4h) / 45, in which errors of second and fourth order cancel."""

    @wraps(solve)
    def better(*arguments: Any, n_cells: int = _N_CELLS) -> Tensor:
        fine, middle, coarse = (solve(*arguments, n_cells=n_cells // n) for n in (1, 2, 4))
        return (64 * fine - 20 * middle + coarse) / 45

    return better


@_extrapolated
def heat(z: Tensor, x: Tensor, t: Tensor, n_cells: int) -> Tensor:
    """u_t = (1 / gamma) ((kappa u + 1 / kappa) u_x)_x, u = 1 + sin x at the start."""
    nodes = np.linspace(float(x[0]), float(x[-1]), n_cells + 1)
    h = nodes[1] - nodes[0]

    def solve(gamma: float, kappa: float) -> Array:
        def rate(u: Array) -> Array:
            flux = (kappa * 0.5 * (u[1:] + u[:-1]) + 1 / kappa) * np.diff(u) / h
            return np.diff(flux) / (gamma * h)

        start = 1 + np.sin(nodes)
        start[[0, -1]] = 1.0
        return integrate(rate, start, nodes, x.numpy(), t.numpy())

    return _stack([solve(*row) for row in z.tolist()])


@_extrapolated
def reaction_diffusion(
    f: pddlvm.Field,
    diffusion: float,
    rate_of_reaction: float,
    z: Tensor,
    x: Tensor,
    t: Tensor,
    n_cells: int,
) -> Tensor:
    """u_t = D u_xx + rate u^2 + f(x; z), zero at the start and at both ends."""
    nodes = np.linspace(float(x[0]), float(x[-1]), n_cells + 1)
    h = nodes[1] - nodes[0]
    points = pddlvm.fem.Points(nodes[1:-1, None], np.zeros(n_cells - 1, dtype=np.int64))
    sources = f.at(points)(z.double()).numpy()

    def solve(source: Array) -> Array:
        def rate(u: Array) -> Array:
            return diffusion * np.diff(u, 2) / h**2 + rate_of_reaction * u[1:-1] ** 2 + source

        return integrate(rate, np.zeros_like(nodes), nodes, x.numpy(), t.numpy())

    return _stack([solve(source) for source in sources])


def _stack(solutions: list[Array]) -> Tensor:
    return torch.from_numpy(np.stack(solutions)).flatten(1)
