"""Time series of other programs: one XDMF file with the mesh once, and the values at each time."""

from pathlib import Path

from meshio.xdmf import TimeSeriesWriter
from numpy.typing import ArrayLike
from torch import Tensor

from pddlvm.basics.checks import check_count
from pddlvm.basics.errors import InputError
from pddlvm.basics.files import replacing_by_name
from pddlvm.latent.core import LatentModel
from pddlvm.results.vtu import checked_path, series

__all__ = ["write_xdmf"]


def write_xdmf(
    model: LatentModel,
    path: str | Path,
    z: Tensor,
    *,
    times: "ArrayLike | Tensor | None" = None,
    n_samples: int = 0,
    seed: int = 0,
) -> None:
    """Write the time series of one z, with the names that `write_vtu` gives.

    The values stand in the file itself, as text: there is no second file that could be lost, or be
    older than this one.

    Args:
        model: a trained model.
        path: the file, ending in .xdmf; replaced in one step.
        z: one parameter vector, (d,).
        times: of a problem with steps in time, by default all of them.
        n_samples: draws of u, written as `u_sample_0`, `u_sample_1`, ...
        seed: of the draws.

    Raises:
        InputError: a name that does not end in .xdmf, no such folder, not one parameter vector, or
            times that the problem has not.
        RunFileError: the file cannot be written.
    """
    path = checked_path(path, ".xdmf")
    check_count(0, n_samples=n_samples)
    z = model.problem.prior.check(z).reshape(-1, model.problem.n_parameters)
    if len(z) != 1:
        raise InputError(
            f"an .xdmf file has the times of one z, got {len(z)}; write a .pvd file of a sweep"
        )
    meshes = series(model, z[0], times, n_samples, seed)
    with (
        replacing_by_name(path) as written,
        TimeSeriesWriter(written, data_format="XML") as writer,
    ):
        for i, (time, mesh) in enumerate(meshes):
            if i == 0:
                writer.write_points_cells(mesh.points, mesh.cells)
            writer.write_data(time, mesh.point_data, mesh.cell_data)
