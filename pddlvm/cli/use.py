"""`pddlvm forward`, `pddlvm infer` and `pddlvm export`: a run at work."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pddlvm.basics.errors import InputError
from pddlvm.basics.files import make_folder
from pddlvm.cli.common import (
    AsJson,
    MisuseError,
    OwnProblem,
    RunFolder,
    Seed,
    answer,
    check_file,
    numbers,
    parameters,
)
from pddlvm.inference.methods import Method
from pddlvm.inference.posterior import Posterior
from pddlvm.models import LatentVariableModel
from pddlvm.results.exported import Format, export_maps
from pddlvm.runs.folder import METRICS, Run
from pddlvm.runs.series import read_series
from pddlvm.runs.tables import read_measurements, write_table
from pddlvm.sensors.observation import Observation

__all__ = ["export_command", "forward_command", "infer_command"]

_N_DRAWS = 4000
_REASONS = {
    "rhat": "too few draws to compare chains, or chains that never moved",
    "khat": "too few draws to see the tail of their weights, or one that outweighs all others",
}
"""Why these may not be finite."""


def forward_command(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            help=".vtu, .pvd (a file per z, or per time of one z), .xdmf (all times of one z), or "
            ".csv (mean and std of each dof)."
        ),
    ] = None,
    z: Annotated[str | None, typer.Option(help="Parameters, with commas between them.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV table of parameters, a column for each.")
    ] = None,
    draws: Annotated[int | None, typer.Option(min=1, max=10**6, help="Draws of the prior.")] = None,
    corrections: Annotated[int, typer.Option(min=0, help="Newton steps in the basis.")] = 0,
    times: Annotated[
        str | None,
        typer.Option(help="Times of the states in a .pvd or .xdmf file, with commas between them."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, max=10**4, help="Draws of u in .vtu, .pvd and .xdmf files.")
    ] = 0,
    seed: Seed = 0,
    problem: OwnProblem = None,
    as_json: AsJson = False,
) -> None:
    """Solve forward problems, with error bars.

    pddlvm forward runs/poisson --z 0.1,-0.4,1.2,0.0 --out u.vtu

    pddlvm forward runs/poisson --draws 5 --out sweep.pvd

    pddlvm forward runs/poisson --table parameters.csv --out u.csv --json

    pddlvm forward runs/heat --draws 1 --times 0.5,1,2 --out u.xdmf
    """
    check_file(out, (".vtu", ".pvd", ".xdmf", ".csv"), table, run / METRICS)
    if times is not None and (out is None or out.suffix not in (".pvd", ".xdmf")):
        raise MisuseError("--times is for a .pvd or .xdmf file, --out u.xdmf")
    chosen = None if times is None else numbers(times, "--times")
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    found = parameters(model.problem, z, table, draws, seed)
    if out is not None and out.suffix == ".csv" and len(model.problem.solution_shape) > 1:
        raise InputError(
            "a .csv file has one state of each z, and these are trajectories; write a .pvd file or "
            "an .xdmf file, which have all steps of one z"
        )
    prediction = model.forward(found, corrections=corrections)
    if out is not None and out.suffix == ".csv":
        n = model.problem.n_dofs
        names = [f"mean[{i}]" for i in range(n)] + [f"std[{i}]" for i in range(n)]
        write_table(out, names, torch.cat([prediction.mean, prediction.std], dim=-1))
    elif out is not None and out.suffix == ".pvd":
        model.to_pvd(out, found, times=chosen, n_samples=samples, seed=seed)
    elif out is not None and out.suffix == ".xdmf":
        model.to_xdmf(out, found, times=chosen, n_samples=samples, seed=seed)
    elif out is not None:
        model.to_vtu(out, found[0] if len(found) == 1 else found, n_samples=samples, seed=seed)
    answer(
        {
            "z": found,
            "residual_norm": prediction.residual_norm,
            "max_abs_mean": prediction.mean.abs().flatten(1).amax(-1),
            "max_std": prediction.std.flatten(1).amax(-1),
            **({} if out is None else {"written": out}),
        },
        as_json,
    )


def infer_command(
    run: RunFolder,
    data: Annotated[
        Path, typer.Option(help="CSV table: coordinates (in time t too), value, perhaps std.")
    ],
    noise_std: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise, if not in the table.")
    ] = None,
    sensors: Annotated[
        Path | None,
        typer.Option(
            help="Table of the places of sensors (sensor, x, ...), where data are a time series: "
            "t, sensor, value, or t and a column for each sensor."
        ),
    ] = None,
    field: Annotated[
        str, typer.Option(help="Of a solution of several fields, the one that was measured.")
    ] = "u",
    method: Annotated[
        Method, typer.Option(help="See the documentation on parameters from data.")
    ] = "laplace",
    out: Annotated[
        Path | None, typer.Option(help=".nc (for ArviZ and xarray) or .csv (draws of z).")
    ] = None,
    density: Annotated[
        Path | None,
        typer.Option(
            help="File of the density that `amortized` trains; read where it is there already."
        ),
    ] = None,
    max_time: Annotated[
        float, typer.Option(help="Training time of `amortized`, in seconds (max_seconds).")
    ] = 60.0,
    samples: Annotated[int, typer.Option(min=4, max=10**6, help="Draws.")] = 1000,
    chains: Annotated[
        int, typer.Option(min=1, max=1000, help="Markov chains of nuts and exact.")
    ] = 4,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare with the finite element likelihood (64 solves)."),
    ] = False,
    seed: Seed = 0,
    problem: OwnProblem = None,
    as_json: AsJson = False,
) -> None:
    """Infer the parameters behind measured data.

    pddlvm infer runs/poisson --data sensors.csv --noise-std 0.01 --method nuts --out post.nc

    pddlvm infer runs/poisson --data sensors.csv --method amortized --density sensors.pt

    pddlvm infer runs/heat --data series.csv --sensors places.csv --noise-std 0.01
    """
    check_file(out, (".nc", ".csv"), data, run / METRICS)
    check_file(density, (".pt",))
    if density is not None and method != "amortized":
        raise MisuseError(f"--density is for --method amortized, not for {method}")
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    if sensors is None:
        measured = read_measurements(data, model.problem, noise_std, field)
    else:
        measured = read_series(data, sensors, model.problem, noise_std, field)
    measured.observation.check(measured.y, allow_missing=method != "amortized")
    if method == "amortized":
        _amortize(model, measured.observation, density, max_time, seed)
    posterior = model.infer(
        measured.y,
        measured.observation,
        method,
        n_samples=samples,
        n_chains=chains,
        seed=seed,
    )
    if check:
        posterior = posterior.check(seed=seed)
    names = model.problem.parameter_names
    if out is not None and out.suffix == ".csv":
        write_table(out, list(names), posterior.sample((samples,), seed=seed))
    elif out is not None:
        posterior.to_netcdf(out, n_samples=samples, seed=seed)
    d = posterior.diagnostics
    answer(
        {
            "method": method,
            "verdict": d.verdict,
            **_marginals(posterior, names, seed, as_json),
            "p_value": float(d.p_value),
            **({} if d.khat is None else {"khat": float(d.khat)}),
            **({} if d.rhat is None else {"rhat": float(d.rhat.max())}),
            "seconds": d.seconds,
            **({} if out is None else {"written": out}),
        },
        as_json,
        _REASONS,
    )


def _amortize(
    model: LatentVariableModel, observation: Observation, file: Path | None, limit: float, seed: int
) -> None:
    """The density of these sensors: from its file, or trained, and then kept there."""
    if file is not None and file.exists():
        model.load_amortized(file, observation)
        return
    trained = model.amortize(observation, max_seconds=limit, seed=seed)
    if file is not None:
        trained.save(file)


def _marginals(
    posterior: Posterior, names: tuple[str, ...], seed: int, as_json: bool
) -> dict[str, Any]:
    """For programs a dictionary of each moment, for people a row of each parameter.

    All of the same draws: the mean and std that `amortized` has by itself are rougher.
    """
    z = posterior.sample((_N_DRAWS,), seed=seed)
    quantiles = z.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=z.dtype), dim=0)
    if as_json:
        moments = {"mean": z.mean(0), "std": z.std(0), "quantiles_05_50_95": quantiles.T}
        return {k: dict(zip(names, v.tolist(), strict=True)) for k, v in moments.items()}
    table = torch.column_stack([z.mean(0), z.std(0), quantiles.T]).tolist()
    return {"": ["mean", "std", "5 %", "50 %", "95 %"], **dict(zip(names, table, strict=True))}


def export_command(
    run: RunFolder,
    format: Annotated[Format, typer.Option(help="onnx (extra `export`), or torch.export.")],
    out: Annotated[Path | None, typer.Option(help="Folder; by default that of the run.")] = None,
    problem: OwnProblem = None,
    as_json: AsJson = False,
) -> None:
    """Write both maps for other programs, and check the files against the model.

    pddlvm export runs/poisson --format onnx --out maps
    """
    opened = Run.open(run)
    model = opened.model(opened.problem(problem))
    folder = out or run
    make_folder(folder)
    exported = export_maps(model, folder, format)
    answer(
        {
            "files": [str(f) for f in exported.files],
            "relative_difference": exported.difference,
        },
        as_json,
    )
