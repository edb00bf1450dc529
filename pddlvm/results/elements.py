"""The mesh of a finite element problem with what a model says on it, for VTU files."""

from collections.abc import Callable, Iterator

import meshio
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pddlvm.fem import FunctionSpace, SurfaceMesh
from pddlvm.fem.cells import kind_of
from pddlvm.fem.mixed import field_names, fields_of
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.results.nodes import std_at_nodes
from pddlvm.trajectory.model import TrajectoryMaps
from pddlvm.weak.problem import Problem
from pddlvm.weak.stresses import shell_stresses

__all__ = ["element_mesh", "element_meshes_over_time", "solution_mesh"]


def element_mesh(model: GalerkinMaps, z: Tensor, n_samples: int, seed: int) -> meshio.Mesh:
    """Mean, std, draws and fields at one z (d,), and the stresses of a shell."""
    problem, prediction = model.problem, model.forward(z)
    point_data = {
        **_at_nodes(problem, prediction.mean, "_mean"),
        **_std(problem, prediction.std, prediction.sample),
    }
    if n_samples:
        for i, sample in enumerate(prediction.sample((n_samples,), seed=seed)):
            point_data |= _at_nodes(problem, sample, f"_sample_{i}")
    return _mesh(problem, point_data, _in_cells(problem, prediction.mean, z))


def element_meshes_over_time(
    model: TrajectoryMaps,
    z: Tensor,
    n_samples: int,
    seed: int,
    times: "ArrayLike | Tensor | None" = None,
) -> Iterator[tuple[float, meshio.Mesh]]:
    """The same at times of a problem with steps in time, at all steps by default."""
    problem, prediction = model.problem, model.forward(z, times=times)
    samples = prediction.sample((n_samples,), seed=seed) if n_samples else ()

    def at(k: int) -> Callable[..., Tensor]:
        return lambda shape, seed: prediction.sample(shape, seed=seed)[..., k, :]

    fields = {name: problem.parameter_field(z, name) for name in problem.random_fields}
    in_cells = {name: [values.double().cpu().numpy()] for name, values in fields.items()}
    for k, t in enumerate(prediction.times.tolist()):
        point_data = {
            **_at_nodes(problem.steady, prediction.mean[k], "_mean"),
            **_std(problem.steady, prediction.std[k], at(k)),
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
    return _named(problem, what, lambda space, dofs: space.at_nodes(found[dofs]))


def _std(
    problem: Problem, std: Tensor, sample: Callable[..., Tensor]
) -> dict[str, NDArray[np.float64]]:
    return _named(problem, "_std", lambda space, dofs: std_at_nodes(space, dofs, std, sample))


def _named(
    problem: Problem, what: str, of: Callable[[FunctionSpace, slice], NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Values of all fields, by their names in the file."""
    fields = zip(field_names(problem.space), fields_of(problem.space), strict=True)
    values = {name: of(space, dofs) for name, (dofs, space) in fields}
    if isinstance(problem.space.mesh, SurfaceMesh):
        u = values["u"]
        return {f"displacement{what}": u[:, :3], f"rotation{what}": u[:, 3:]}
    return {f"{name}{what}": _components(u) for name, u in values.items()}


def _components(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A number, or a vector of three, for each node."""
    return values[:, 0] if values.shape[1] == 1 else _in_space(values)


def _in_space(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows padded with zeros to three components, as VTK wants vectors."""
    return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))
