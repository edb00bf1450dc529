"""The grid of a problem in strong form as a mesh, for VTU files: x and t are its axes."""

from collections.abc import Iterator

import meshio
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.basics.errors import InputError
from pddlvm.collocation.model import CollocationMaps

__all__ = ["mesh_of_grid", "meshes_over_time"]

_CELLS = {1: "line", 2: "quad", 3: "hexahedron"}
_CORNERS: dict[int, list[tuple[int, ...]]] = {
    1: [(0,), (1,)],
    2: [(0, 0), (1, 0), (1, 1), (0, 1)],
    3: [
        (0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1),
    ],
}  # fmt: skip


def mesh_of_grid(model: CollocationMaps, z: Tensor, n_samples: int, seed: int) -> meshio.Mesh:
    """Mean, std, draws and fields at one z (d,)."""
    axes = [axis.double().numpy() for axis in model.problem.axes]
    return _mesh(axes, _data(model, z, n_samples, seed))


def meshes_over_time(
    model: CollocationMaps, z: Tensor, n_samples: int, seed: int
) -> Iterator[tuple[float, meshio.Mesh]]:
    """The same at each time of the grid, whose last coordinate is t, and that time."""
    *space, times = (axis.double().numpy() for axis in model.problem.axes)
    data = _data(model, z, n_samples, seed)
    for i, time in enumerate(times):
        yield float(time), _mesh(space, {name: v[..., i] for name, v in data.items()})


def _data(
    model: CollocationMaps, z: Tensor, n_samples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Mean, std, samples and fields at one z (d,), by name, each in the shape of the grid.

    Of several unknowns each has its own: `v_mean`, `v_std`.
    """
    problem = model.problem
    prediction = model.forward(z)
    fields = problem.ansatz.values(z[None], problem.grid_points.to(z).unbind(-1))
    data: dict[str, Tensor] = {}
    samples = prediction.sample((n_samples,), seed=seed) if n_samples else ()
    for u, own in problem.fields_of_u.items():
        data |= {f"{u}_mean": prediction.mean[own], f"{u}_std": prediction.std[own]}
        data |= {f"{u}_sample_{i}": sample[own] for i, sample in enumerate(samples)}
    n_points = len(problem.grid_points)
    data |= {name: fields[name].expand(1, n_points)[0] for name in problem.random_fields}
    return {k: v.double().cpu().numpy().reshape(problem.grid) for k, v in data.items()}


def _mesh(axes: list[NDArray[np.float64]], data: dict[str, NDArray[np.float64]]) -> meshio.Mesh:
    """A tensor grid with point data.

    Args:
        axes: coordinates along each axis.
        data: name -> values in the shape of the grid.

    Raises:
        InputError: more than three axes.
    """
    grid, k = tuple(map(len, axes)), len(axes)
    if k not in _CELLS:
        raise InputError(f"a VTU file has at most 3 coordinates, the problem has {k}")
    numbers = np.arange(np.prod(grid)).reshape(grid)
    corners = [
        numbers[tuple(slice(c, n - 1 + c) for c, n in zip(corner, grid, strict=True))]
        for corner in _CORNERS[k]
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, k)
    return meshio.Mesh(
        points=np.pad(points, ((0, 0), (0, 3 - k))),
        cells=[(_CELLS[k], np.stack([c.ravel() for c in corners], axis=1))],
        point_data={name: values.ravel() for name, values in data.items()},
    )
