"""On a full disk every writer says so, and the file that was there before stays.

A limit on the size of files stands for the disk: the system refuses the write in the same way.
"""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pddlvm
from pddlvm.basics.files import replacing
from pddlvm.runs.figures import plt
from pddlvm.runs.report import Table, write_report
from pddlvm.runs.tables import write_table
from problems import poisson

resource = pytest.importorskip("resource")

Z = torch.zeros(1, dtype=torch.float64)
BYTES = 100


@pytest.fixture(scope="module")
def model() -> pddlvm.GalerkinModel:
    problem = poisson.make_1d(6)
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=3))


def write_netcdf(model: pddlvm.GalerkinModel, path: Path) -> None:
    observation = pddlvm.PointObservation(model.problem, [-0.5, 0.5], 0.1)
    model.infer(torch.zeros(2).double(), observation, "laplace").to_netcdf(path, n_samples=40)


def write_figure(model: pddlvm.GalerkinModel, path: Path) -> None:
    with replacing(path) as file:
        plt.figure().savefig(file, format="png")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("model.pt", lambda model, path: model.save(path)),
        ("posterior.nc", write_netcdf),
        ("u.vtu", lambda model, path: model.to_vtu(path, Z)),
        ("sweep.pvd", lambda model, path: model.to_pvd(path, Z)),
        ("u.xdmf", lambda model, path: model.to_xdmf(path, Z)),
        ("z.csv", lambda model, path: write_table(path, ["z"], torch.zeros(BYTES, 1))),
        ("figure.png", write_figure),
        ("page.html", lambda model, path: write_report(path, "", [Table("", {"": "x" * 99})], {})),
    ],
)
def test_a_full_disk_is_reported_and_nothing_is_lost(
    name: str, write: Callable[[pddlvm.GalerkinModel, Path], None], model, tmp_path: Path
):
    path = tmp_path / name
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, limits[1]))
    try:
        with pytest.raises(pddlvm.RunFileError, match="was not written"):
            write(model, path)
        # A library that lost its file must not end the process when it cleans up.
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        plt.close("all")
    assert path.read_text() == "before"
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]
