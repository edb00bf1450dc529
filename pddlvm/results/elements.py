"""The mesh of a finite element problem with what a model says on it, for VTU files."""

from collections.abc import Iterator

import meshio
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.fem import MixedSpace, SurfaceMesh
from pddlvm.fem.cells import kind_of
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.weak.problem import Problem
from pddlvm.weak.stresses import shell_stresses

__all__ = ["element_mesh", "element_meshes_over_time", "solution_mesh"]


def element_mesh(model: GalerkinMaps, z: Tensor, n_samples: int, seed: int) -> meshio.Mesh:
    """Mean, std, draws and fields at one z (d,), and the stresses of a shell."""
    problem, prediction = model.problem, model.forward(z)
    point_data = {
        **_at_nodes(problem, prediction.mean, "_mean"),
        **_at_nodes(problem, prediction.std, "_std"),
    }
    if n_samples:
        for i, sample in enumerate(prediction.sample((n_samples,), seed=seed)):
            point_data |= _at_nodes(problem, sample, f"_sample_{i}")
    return _mesh(problem, point_data, _in_cells(problem, prediction.mean, z))


def element_meshes_over_time(
    model: TrajectoryMaps, z: Tensor, n_samples: int, seed: int
) -> Iterator[tuple[float, meshio.Mesh]]:
    """The same at each step of a problem in time."""
    problem, prediction = model.problem, model.forward(z)
    samples = prediction.sample((n_samples,), seed=seed) if n_samples else ()
    fields = {name: problem.parameter_field(z, name) for name in problem.random_fields}
    in_cells = {name: [values.double().cpu().numpy()] for name, values in fields.items()}
    for k, t in enumerate(prediction.times.tolist()):
        point_data = {
            **_at_nodes(problem.steady, prediction.mean[k], "_mean"),
            **_at_nodes(problem.steady, prediction.std[k], "_std"),
        }
        for i, sample in enumerate(samples):
            point_data |= _at_nodes(problem.steady, sample[k], f"_sample_{i}")
        yield t, _mesh(problem.steady, point_data, in_cells)


def solution_mesh(problem: Problem, u: Tensor, z: Tensor | None) -> meshio.Mesh:
    """A solution u (n_dofs,), and where z (d,) is given fields and the stresses of a shell."""
    in_cells = {} if z is None else _in_cells(problem, u, z)
    return _mesh(problem, _at_nodes(problem, u, ""), in_cells)


def _in_cells(problem: Problem, u: Tensor, z: Tensor) -> dict[str, list[NDArray[np.float64]]]:
    found = {name: problem.parameter_field(z, name) for name in problem.random_fields}
    if isinstance(problem.space.mesh, SurfaceMesh):
        found |= vars(shell_stresses(problem, u, z))
    return {name: [values.double().cpu().numpy()] for name, values in found.items()}


def _mesh(
    problem: Problem,
    point_data: dict[str, NDArray[np.float64]],
    cell_data: dict[str, list[NDArray[np.float64]]],
) -> meshio.Mesh:
    points = _in_space(problem.space.mesh.p.T)
    return meshio.Mesh(points, [_cells(problem)], point_data=point_data, cell_data=cell_data)


def _cells(problem: Problem) -> tuple[str, NDArray[np.int64]]:
    mesh = problem.space.mesh
    if isinstance(mesh, SurfaceMesh):
        return "triangle", np.ascontiguousarray(mesh.t.T)
    kind = kind_of(mesh)
    return kind.name, mesh.dofs.element_dofs[np.argsort(kind.order)].T.astype(np.int64)


def _at_nodes(problem: Problem, u: Tensor, what: str) -> dict[str, NDArray[np.float64]]:
    found = u.detach().double().cpu().numpy()
    if isinstance(problem.space, MixedSpace):
        fields = ((name, *problem.space.field(name)) for name in problem.space.field_names)
        return {f"{k}{what}": _components(s.at_nodes(found[dofs])) for k, dofs, s in fields}
    values = problem.space.at_nodes(found)
    if isinstance(problem.space.mesh, SurfaceMesh):
        return {f"displacement{what}": values[:, :3], f"rotation{what}": values[:, 3:]}
    return {f"u{what}": _components(values)}


def _components(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A number, or a vector of three, for each node."""
    return values[:, 0] if values.shape[1] == 1 else _in_space(values)


def _in_space(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows padded with zeros to three components, as VTK wants vectors."""
    return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))
