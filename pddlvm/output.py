"""Results for other programs: VTU files that ParaView opens."""

import os
from pathlib import Path

import meshio
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pddlvm.collocation.model import CollocationModel
from pddlvm.collocation.output import grid_mesh
from pddlvm.errors import InputError
from pddlvm.fem import SurfaceMesh
from pddlvm.latent import LatentVariableModel
from pddlvm.model import GalerkinModel
from pddlvm.problem import Problem
from pddlvm.stresses import shell_stresses

__all__ = ["write_vtu"]

_CELLS = {
    "MeshLine1": "line",
    "MeshTri1": "triangle",
    "MeshQuad1": "quad",
    "MeshTet1": "tetra",
    "MeshHex1": "hexahedron",
}
_HEXAHEDRON = [0, 1, 4, 2, 3, 5, 7, 6]
"""VTK's order of the corners of scikit-fem's hexahedron."""


def write_vtu(model: LatentVariableModel, path: str | Path, z: Tensor) -> None:
    """Write mean, std and parameter fields at one z: `u_mean`, `u_std`, and a field per name.

    On the mesh, or on the grid of a problem in strong form.
    A shell has `displacement_mean`, `rotation_mean` and their stds, and the stresses of the mean.

    Args:
        model: a trained model.
        path: the file, ending in .vtu; replaced in one step.
        z: one parameter vector, (d,).

    Raises:
        InputError: more than one z, a name that does not end in .vtu, or no such folder.
    """
    path = Path(path)
    problem = model.problem
    if path.suffix != ".vtu":
        raise InputError(f"path must end in .vtu, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist; create it first")
    z = problem.prior.check(z)
    if z.shape != (problem.n_parameters,):
        raise InputError(
            f"z must be one parameter vector of {problem.n_parameters} values, got shape "
            f"{tuple(z.shape)}; write one file per vector"
        )
    if isinstance(model, CollocationModel):
        mesh = grid_mesh(model, z)
    else:
        assert isinstance(model, GalerkinModel)
        mesh = _element_mesh(model, z)
    temporary = path.with_name(f".{path.stem}.part.vtu")
    try:
        mesh.write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _element_mesh(model: GalerkinModel, z: Tensor) -> meshio.Mesh:
    problem, prediction = model.problem, model.forward(z)
    cell_data = {
        name: [problem.parameter_field(z, name).double().cpu().numpy()]
        for name in problem.random_fields
    }
    if isinstance(problem.space.mesh, SurfaceMesh):
        stresses = vars(shell_stresses(problem, prediction.mean, z))
        cell_data |= {k: [v.double().cpu().numpy()] for k, v in stresses.items()}
    return meshio.Mesh(
        points=_in_space(problem.space.mesh.p.T),
        cells=[_cells(problem)],
        point_data={
            **_at_vertices(problem, prediction.mean, "mean"),
            **_at_vertices(problem, prediction.std, "std"),
        },
        cell_data=cell_data,
    )


def _cells(problem: Problem) -> tuple[str, NDArray[np.int64]]:
    mesh = problem.space.mesh
    if isinstance(mesh, SurfaceMesh):
        return "triangle", np.ascontiguousarray(mesh.t.T)
    kind = _CELLS[next(k.__name__ for k in type(mesh).__mro__ if k.__name__ in _CELLS)]
    cells = np.asarray(mesh.t.T, dtype=np.int64)
    return kind, cells[:, _HEXAHEDRON] if kind == "hexahedron" else cells


def _at_vertices(problem: Problem, u: Tensor, what: str) -> dict[str, NDArray[np.float64]]:
    values = u.detach().double().cpu()[torch.from_numpy(problem.space.vertex_dofs)].numpy()
    if isinstance(problem.space.mesh, SurfaceMesh):
        return {f"displacement_{what}": values[:, :3], f"rotation_{what}": values[:, 3:]}
    return {f"u_{what}": values[:, 0] if values.shape[1] == 1 else _in_space(values)}


def _in_space(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows padded with zeros to three components, as VTK wants vectors."""
    return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))
