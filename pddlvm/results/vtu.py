"""Results for other programs: VTU files and PVD collections of them, which ParaView opens."""

from collections.abc import Iterable, Iterator
from glob import escape
from pathlib import Path
from xml.etree import ElementTree

import meshio
import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import check_count, check_kind, check_path, numbers_of
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import (
    check_folder_of,
    next_folder,
    remove_older,
    replacing_by_name,
    write_text,
)
from pddlvm.latent.core import LatentModel
from pddlvm.results.elements import solution_mesh
from pddlvm.weak.problem import Problem

__all__ = ["checked_path", "series", "write_pvd", "write_solution", "write_vtu"]


def write_vtu(
    model: LatentModel, path: str | Path, z: Tensor, *, n_samples: int = 0, seed: int = 0
) -> None:
    """Write mean, std and parameter fields: `u_mean`, `u_std`, and a field per name.

    On the mesh, or on the grid of a problem in strong form. Of several z each name has a number
    after it: `u_mean[0]`, `u_mean[1]`, ...
    Of several fields each has its own: `p_mean`, `p_std`.
    A shell has `displacement_mean`, `rotation_mean` and their stds, and the stresses of the mean.

    Args:
        model: a trained model.
        path: the file, ending in .vtu; replaced in one step.
        z: parameter vectors, (d,) or (n, d).
        n_samples: draws of u at each z, written as `u_sample_0`, `u_sample_1`, ...
        seed: of the draws.

    Raises:
        InputError: a name that does not end in .vtu, no such folder, or no parameter vectors.
        RunFileError: the file cannot be written.
    """
    path = checked_path(path, ".vtu")
    check_count(0, n_samples=n_samples)
    z = model.problem.prior.check(z)
    if z.ndim not in (1, 2) or not len(z):
        raise InputError(f"z must be (d,) or (n, d), got shape {tuple(z.shape)}")
    if z.ndim == 1:
        return _write(model.mesh_of(z, n_samples, seed), path)
    whole, *others = (_numbered(model.mesh_of(one, n_samples, seed), i) for i, one in enumerate(z))
    for mesh in others:
        whole.point_data |= mesh.point_data
        whole.cell_data |= mesh.cell_data
    _write(whole, path)


def write_solution(problem: Problem, path: str | Path, u: Tensor, z: Tensor | None = None) -> None:
    """Write a solution to a file for ParaView, that of `problem.solve` for one: without a model.

    It has `u`, of several fields each by its name, of a shell `displacement` and `rotation`.

    Args:
        problem: of finite elements, whose solution it is.
        path: the file, ending in .vtu; replaced in one step.
        u: (n_dofs,).
        z: its parameters (d,); with them the file has the random fields, and stresses of a shell.

    Raises:
        InputError: a name that does not end in .vtu, no such folder, or not one u or z.
        RunFileError: the file cannot be written.
    """
    path = checked_path(path, ".vtu")
    if len(getattr(problem, "solution_shape", ())) > 1:
        raise InputError(
            f"problem {problem.name!r} is one in time, and a .vtu file has one state: "
            "write_solution(problem.steady, path, u[k], problem.at(z, problem.times[k])[0]), or "
            "model.to_pvd(path, z) for all of them"
        )
    check_kind(Problem, problem=problem)
    u = problem.check_solution(u)
    z = z if z is None else problem.prior.check(z)
    for name, x in (("u", u), ("z", z)):
        if x is not None and x.ndim != 1:
            raise InputError(f"{name} must be one vector, got shape {tuple(x.shape)}; write u[i]")
    _write(solution_mesh(problem, u, z), path)


def write_pvd(
    model: LatentModel,
    path: str | Path,
    z: Tensor,
    *,
    times: "ArrayLike | Tensor | None" = None,
    n_samples: int = 0,
    seed: int = 0,
) -> None:
    """Write a collection: a parameter sweep, or the time series of one z.

    Several z give a VTU file each, numbered as times. One z of a problem with steps in time gives a
    file for each of them, or for each of the times; of one in strong form whose last coordinate is
    t for each time of its grid. The files stand beside `path` in a
    numbered folder of a folder that has its name. Written once more, they stand in the next one,
    `path` is replaced in one step, and then the older files go: at all times it names a whole set.

    Args:
        model: a trained model.
        path: the file, ending in .pvd.
        z: parameter vectors, (n, d), or one (d,).
        times: of one z of a problem with steps in time, between its first step and its end.
        n_samples: draws of u in each file.
        seed: of the draws.

    Raises:
        InputError: a name that does not end in .pvd, no such folder, or no parameter vectors; times
            of several z, of a problem without steps in time, or outside of them.
        RunFileError: a file cannot be written.
    """
    path = checked_path(path, ".pvd")
    check_count(0, n_samples=n_samples)
    z = model.problem.prior.check(z).reshape(-1, model.problem.n_parameters)
    meshes: Iterable[tuple[float, meshio.Mesh]]
    if len(z) == 1:
        meshes = series(model, z[0], times, n_samples, seed)
    elif times is not None:
        raise InputError(f"times are of one z, and a sweep has {len(z)}; write them one by one")
    else:
        meshes = ((float(i), model.mesh_of(one, n_samples, seed)) for i, one in enumerate(z))
    folder = path.with_suffix("")
    root = ElementTree.Element("VTKFile", type="Collection", version="0.1")
    collection = ElementTree.SubElement(root, "Collection")
    with next_folder(folder) as (new, numbered):
        for i, (time, mesh) in enumerate(meshes):
            name = f"{folder.name}_{i:04d}.vtu"
            mesh.write(new / name)
            file = f"{folder.name}/{numbered.name}/{name}"
            entry = {"timestep": f"{time:.10g}", "part": "0", "file": file}
            ElementTree.SubElement(collection, "DataSet", entry)
    write_text(ElementTree.tostring(root, encoding="unicode", xml_declaration=True), path)
    remove_older(numbered, f"{escape(folder.name)}_[0-9]*.vtu")


def series(
    model: LatentModel,
    z: Tensor,
    times: "ArrayLike | Tensor | None",
    n_samples: int,
    seed: int,
) -> Iterator[tuple[float, meshio.Mesh]]:
    """Times and meshes of one z (d,).

    Raises:
        InputError: times that the problem has not.
    """
    if times is not None:
        if model.problem.times_seen(times) is None:
            raise InputError(
                f"problem {model.problem.name!r} has no steps in time to choose from; leave times "
                "out, or make a TransientProblem of it"
            )
        if not len(np.atleast_1d(numbers_of(times, "times"))):
            raise InputError("times has no time; give at least one, or leave it out for all steps")
    return model.series_of(z, n_samples, seed, times)


def checked_path(path: str | Path, suffix: str) -> Path:
    """A path that ends as it should, in a folder that is there; or an InputError."""
    path = check_path(path)
    if path.suffix != suffix:
        raise InputError(f"path must end in {suffix}, got {str(path)!r}")
    check_folder_of(path)
    return path


def _write(mesh: meshio.Mesh, path: Path) -> None:
    with replacing_by_name(path) as written:
        mesh.write(written)


def _numbered(mesh: meshio.Mesh, i: int) -> meshio.Mesh:
    """The same mesh with a number after each name."""
    return meshio.Mesh(
        points=mesh.points,
        cells=mesh.cells,
        point_data={f"{name}[{i}]": values for name, values in mesh.point_data.items()},
        cell_data={f"{name}[{i}]": values for name, values in mesh.cell_data.items()},
    )
