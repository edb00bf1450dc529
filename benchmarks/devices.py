"""A CUDA device against the CPU of the same machine: set-up, training step, queries.

Run:  python -m benchmarks.devices [--quick] [--threads 16] [--out FILE]

Medians in milliseconds, in one run. `sensors` are the means of 25 of them, `field` means and
standard deviations of all nodes; of a million the figures are those of the whole batch. The set-up
runs on the CPU in either case. Where there is no CUDA device, only the CPU's rows are printed.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pddlvm
from benchmarks.run import table
from benchmarks.speed import bracket, milliseconds
from pddlvm.latent.rows import Rows
from problems import pinn, poisson

_GRID = [[(i + 0.5) / 5, (j + 0.5) / 5] for i in range(5) for j in range(5)]
_LARGE_BATCH = 4096
_MANY = 1_000_000
_MOST_VALUES = 2e9
"""Of a field of all draws: beyond it neither machine holds them."""


def weak(quick: bool) -> dict[str, pddlvm.Problem]:
    """Finite element problems."""
    if quick:
        return {"poisson 8 x 8": poisson.make(8, n_terms=3)}
    return {
        "poisson 32 x 32": poisson.make(32),
        "poisson 128 x 128": poisson.make(128),
        "bracket": bracket(),
    }


def run(quick: bool = False) -> list[dict[str, Any]]:
    """One row per problem and device."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = []
    for name, problem in weak(quick).items():
        start = time.perf_counter()
        reduction = pddlvm.reduce(problem)
        set_up = time.perf_counter() - start
        model = pddlvm.LatentVariableModel(problem, reduction=reduction)
        for device in devices:
            row = {"case": name, "device": device, "set_up_s": set_up}
            rows.append(row | _weak(model, device, quick))
            print(rows[-1], flush=True)
    for device in devices:
        model = pddlvm.LatentVariableModel(pinn.make_heat())
        rows.append({"case": "heat, strong form", "device": device} | _steps(model, device, quick))
        print(rows[-1], flush=True)
    return rows


def _weak(model: pddlvm.LatentVariableModel, device: str, quick: bool) -> dict[str, float]:
    found = _steps(model, device, quick)
    nothing = {"step_as_graph": math.nan, "graph_off": math.nan}
    found |= _replayed(model) if device == "cuda" else nothing
    problem = model.problem
    if not model.is_calibrated:
        model.calibrate(64)
    n_many = _MANY // 100 if quick else _MANY
    many = problem.prior.sample((n_many,), seed=0).float().to(device)
    one, thousand = many[:1], many[:1000]
    places = _GRID if problem.dim == 2 else problem.mesh.p.T[:: problem.n_dofs // 25][:25]
    sensors = pddlvm.PointObservation(problem, places, 0.01)
    for name, z, n in (("1", one, 50), ("1000", thousand, 20), ("1e6", many, 2)):
        found[f"sensors_{name}"] = _timed(lambda z=z: model.forward(z).at(sensors), device, n)
        if len(z) * problem.n_dofs <= _MOST_VALUES:
            found[f"field_{name}"] = _timed(lambda z=z: _field(model, z), device, n)
    found["corrected_1000"] = _timed(
        lambda: model.forward(thousand, corrections=1).mean, device, 1 if quick else 3
    )
    u = problem.solve(problem.prior.sample((64,), seed=1)).float().to(device)
    found["inverse_64"] = _timed(lambda: model.inverse(u).mean, device, 3)
    return found


def _steps(model: Any, device: str, quick: bool) -> dict[str, float]:
    """Milliseconds of a training step, with the default batch and a large one."""
    found = {}
    for name, batch in (("step", None), (f"step_{_LARGE_BATCH}", _LARGE_BATCH)):
        result = pddlvm.train(
            model,
            max_steps=200,
            batch_size=batch,
            calibrate=False,
            device=device,
        )
        # Rows of the first stage, after its first steps: what precedes them is no step.
        first, *_, last = [row for row in result.history if row["stage"] == 0][1:-1]
        found[name] = 1e3 * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return found


def _replayed(model: pddlvm.LatentVariableModel) -> dict[str, float]:
    """A step as one CUDA graph, without optimisers: milliseconds, and how far its gradient is off.

    What it would be worth to start all kernels at once.
    """
    (stage,) = model.stages(False)
    rows, generator = Rows.given(model.batch_size), torch.Generator().manual_seed(0)
    drawn = stage.draw(rows, generator)
    parameters = [p for network in stage.networks for p in network.parameters()]

    def step() -> Tensor:
        for p in parameters:
            p.grad = None
        stage.loss(rows, drawn).backward()
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            torch.manual_seed(1)
            expected = step()
    torch.cuda.current_stream().wait_stream(beside)
    for p in parameters:
        p.grad = None
    with torch.cuda.graph(graph, stream=beside):
        stage.loss(rows, drawn).backward()
    torch.manual_seed(1)
    graph.replay()
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    return {
        "step_as_graph": _timed(graph.replay, "cuda", 50),
        "graph_off": float((found - expected).norm() / expected.norm()),
    }


def _field(model: pddlvm.LatentVariableModel, z: torch.Tensor) -> Any:
    forward = model.forward(z)
    return forward.mean, forward.std


def _timed(call: Callable[[], Any], device: str, n: int) -> float:
    def finished() -> Any:
        found = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return milliseconds(finished, n)


def main() -> None:
    """Print the tables of both devices, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="does everything run?")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "devices.json")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = run(options.quick)
    found = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.processor(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "rows": rows,
    }
    options.out.write_text(json.dumps(found, indent=1))
    for case in dict.fromkeys(row["case"] for row in rows):
        table(
            case,
            [{k: v for k, v in row.items() if k != "case"} for row in rows if row["case"] == case],
        )


if __name__ == "__main__":
    main()
