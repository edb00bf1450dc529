"""From the Chebyshev nodes of a form to its grid, or to any points of its box."""

import torch
from torch import Tensor

from pddlvm.strong import chebyshev
from pddlvm.strong.form import StrongForm

__all__ = ["interpolate"]


def interpolate(
    form: StrongForm,
    values: Tensor,
    z: Tensor,
    points: Tensor | None = None,
    nodes: tuple[int, ...] | None = None,
    *,
    hats: bool = False,
) -> Tensor:
    """From nodes to points or, by default, the grid: (batch, n_nodes) -> (batch, n_points).

    Vectors of several unknowns stay such.

    Args:
        form: for its box and, by default, its grid and nodes.
        values: (batch, n_nodes).
        z: (batch, d).
        points: (n_points, k).
        nodes: numbers of them along each coordinate.
        hats: piecewise linear, which keeps what is positive positive.
    """
    nodes = form.nodes if nodes is None else nodes
    axes = form.axes if points is None else points.unbind(-1)
    # Coordinates may be narrow and far from zero: located in float64.
    s = form.ansatz.locate([a.to(values.device, torch.float64) for a in axes], z.double())
    matrices = [matrix.to(values) for matrix in form.matrices(s, nodes, hats=hats)]
    found = []
    for part in values.chunk(form.unknowns.n, dim=-1):
        boxed = part.reshape(len(part), *nodes)
        if points is None:
            found.append(chebyshev.tensor_product(boxed, matrices).flatten(1))
        else:
            found.append(chebyshev.at_points(boxed, matrices))
    return torch.cat(found, dim=-1)
