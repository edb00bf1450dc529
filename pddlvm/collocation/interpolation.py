"""From the Chebyshev nodes of a problem to its grid, or to any points of its box."""

from collections.abc import Callable

import torch
from torch import Tensor

from pddlvm.collocation import chebyshev
from pddlvm.collocation.problem import CollocationProblem

__all__ = ["Interpolation", "interpolate"]

Interpolation = Callable[[Tensor, int], Tensor]
"""Reference coordinates and number of nodes -> matrix, see `chebyshev.barycentric`."""


def interpolate(
    problem: CollocationProblem,
    values: Tensor,
    z: Tensor,
    points: Tensor | None = None,
    matrix: Interpolation = chebyshev.barycentric,
    nodes: tuple[int, ...] | None = None,
) -> Tensor:
    """From nodes to points or, by default, the grid: (batch, n_nodes) -> (batch, n_points).

    Args:
        problem: for its box and, by default, its grid and nodes.
        values: (batch, n_nodes).
        z: (batch, d).
        points: (n_points, k).
        matrix: kind of interpolation.
        nodes: numbers of them along each coordinate.
    """
    nodes = problem.nodes if nodes is None else nodes
    axes = problem.axes if points is None else points.unbind(-1)
    # Coordinates may be narrow and far from zero: located in float64.
    s = problem.ansatz.locate([a.to(values.device, torch.float64) for a in axes], z.double())
    matrices = [matrix(at, n).to(values) for at, n in zip(s, nodes, strict=True)]
    boxed = values.reshape(len(values), *nodes)
    if points is None:
        return chebyshev.tensor_product(boxed, matrices).flatten(1)
    return chebyshev.at_points(boxed, matrices)
