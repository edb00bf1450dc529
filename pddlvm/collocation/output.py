"""The grid of a problem in strong form as a mesh, for VTU files: x and t are its axes."""

from typing import TYPE_CHECKING

import meshio
import numpy as np
from torch import Tensor

from pddlvm.errors import InputError

if TYPE_CHECKING:
    from pddlvm.collocation.model import CollocationModel

__all__ = ["grid_mesh"]

_CELLS = {1: "line", 2: "quad", 3: "hexahedron"}
_CORNERS: dict[int, list[tuple[int, ...]]] = {
    1: [(0,), (1,)],
    2: [(0, 0), (1, 0), (1, 1), (0, 1)],
    3: [
        (0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1),
    ],
}  # fmt: skip


def grid_mesh(model: "CollocationModel", z: Tensor) -> meshio.Mesh:
    """Mean, std and fields at one z (d,), on the grid.

    Raises:
        InputError: a domain of more than three coordinates.
    """
    problem = model.problem
    k = len(problem.grid)
    if k not in _CELLS:
        raise InputError(f"a VTU file has at most 3 coordinates, the problem has {k}")
    numbers = np.arange(problem.n_dofs).reshape(problem.grid)
    corners = [
        numbers[tuple(slice(c, n - 1 + c) for c, n in zip(corner, problem.grid, strict=True))]
        for corner in _CORNERS[k]
    ]
    prediction = model.forward(z)
    x = problem.grid_points.to(z).unbind(-1)
    fields = problem.ansatz.values(z[None], x)
    data = {"u_mean": prediction.mean, "u_std": prediction.std}
    data |= {name: fields[name].expand(1, problem.n_dofs)[0] for name in problem.random_fields}
    return meshio.Mesh(
        points=np.pad(problem.grid_points.numpy(), ((0, 0), (0, 3 - k))),
        cells=[(_CELLS[k], np.stack([c.ravel() for c in corners], axis=1))],
        point_data={name: v.double().cpu().numpy() for name, v in data.items()},
    )
