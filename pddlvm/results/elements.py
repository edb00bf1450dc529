"""The mesh of a finite element problem with what a model says on it, for VTU files."""

import meshio
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.fem import MixedSpace, SurfaceMesh
from pddlvm.fem.cells import kind_of
from pddlvm.galerkin.model import GalerkinMaps
from pddlvm.weak.problem import Problem
from pddlvm.weak.stresses import shell_stresses

__all__ = ["element_mesh"]


def element_mesh(model: GalerkinMaps, z: Tensor, n_samples: int, seed: int) -> meshio.Mesh:
    """Mean, std, draws and fields at one z (d,), and the stresses of a shell."""
    problem, prediction = model.problem, model.forward(z)
    cell_data = {
        name: [problem.parameter_field(z, name).double().cpu().numpy()]
        for name in problem.random_fields
    }
    if isinstance(problem.space.mesh, SurfaceMesh):
        stresses = vars(shell_stresses(problem, prediction.mean, z))
        cell_data |= {k: [v.double().cpu().numpy()] for k, v in stresses.items()}
    point_data = {
        **_at_nodes(problem, prediction.mean, "mean"),
        **_at_nodes(problem, prediction.std, "std"),
    }
    if n_samples:
        for i, sample in enumerate(prediction.sample((n_samples,), seed=seed)):
            point_data |= _at_nodes(problem, sample, f"sample_{i}")
    return meshio.Mesh(
        points=_in_space(problem.space.mesh.p.T),
        cells=[_cells(problem)],
        point_data=point_data,
        cell_data=cell_data,
    )


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
        return {f"{k}_{what}": _components(s.at_nodes(found[dofs])) for k, dofs, s in fields}
    values = problem.space.at_nodes(found)
    if isinstance(problem.space.mesh, SurfaceMesh):
        return {f"displacement_{what}": values[:, :3], f"rotation_{what}": values[:, 3:]}
    return {f"u_{what}": _components(values)}


def _components(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A number, or a vector of three, for each node."""
    return values[:, 0] if values.shape[1] == 1 else _in_space(values)


def _in_space(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows padded with zeros to three components, as VTK wants vectors."""
    return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))
