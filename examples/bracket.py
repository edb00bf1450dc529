"""A bracket of two materials in three dimensions: deflections with bounds, and what was pulling it.

    -div sigma(u; E_q) = 0,   u = 0 below,   sigma n = (t_x, t_y, t_z) on the end of the upright

A model learns the displacement from the residual alone. Of fresh draws of stiffnesses and tractions
it tells the deflection of the tip, corrected by an adjoint solution, with a rigorous bound of its
error. Then the traction is found from displacements at six points of the surface.

Run:  python examples/bracket.py --out bracket --seconds 30
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import pddlvm
from pddlvm import plot
from problems import elasticity

SENSORS = [[0.0, y, z] for y in (0.4, 0.7, 1.0) for z in (0.0, 0.5)]
"""Points of the outer face of the upright."""
MICRO = 1e6


def pictures(model: pddlvm.GalerkinModel, z: torch.Tensor, path: Path) -> None:
    """Displacement of one draw, the error of the map and its standard deviation."""
    problem, u = model.problem, model.problem.solve(z)
    forward = model.forward(z)
    fields = {
        "displacement": forward.mean,
        "error of the map": forward.mean - u,
        "its standard deviation": forward.std,
    }
    figure = plt.figure(figsize=(13, 4.2), layout="constrained")
    for i, (title, values) in enumerate(fields.items()):
        ax = figure.add_subplot(1, 3, i + 1, projection="3d")
        plot.field(problem, MICRO * values, ax, title=title, label="in millionths of a leg")
        ax.view_init(elev=25, azim=40, vertical_axis="y")
        ax.set_aspect("equal")
        ax.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def deflections(model: pddlvm.GalerkinModel, n_samples: int, path: Path) -> int:
    """Errors of the mean displacement of the tip beside their bounds; how many are exceeded."""
    problem = model.problem
    tip = pddlvm.average_matrix(problem, [lambda x: x[:, 1] > 7 / 8])
    quantity = pddlvm.Quantity(problem, tip[:1], "deflection along x")
    z = problem.prior.sample((n_samples,), seed=1)
    exact = quantity(problem.solve(z))[:, 0]
    found = model.forward(z).of(quantity)
    assert found.bound is not None
    plain = (quantity(model.forward(z).mean)[:, 0] - exact).abs()
    error, bound = (found.mean[:, 0] - exact).abs(), found.bound[:, 0]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(MICRO * exact, MICRO * found.mean[:, 0], "o", ms=4)
    left.axline((0, 0), slope=1, color="0.7", zorder=0)
    left.set(xlabel="reference", ylabel="model", title="deflection of the tip, millionths of a leg")
    order, x = bound.argsort(), range(n_samples)
    right.plot(x, MICRO * plain[order], ".", color="C1", label="error of the map")
    right.plot(x, MICRO * error[order], ".", color="C0", label="error of the corrected value")
    right.plot(x, MICRO * bound[order], color="k", lw=1, label="bound of the latter")
    right.set(yscale="log", xlabel="draw, sorted by bound", ylabel="millionths of a leg")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(
        f"deflection of the tip, median error: {float((plain / exact.abs()).median()):.1e} of the "
        f"map, {float((error / exact.abs()).median()):.1e} corrected, certainly at most "
        f"{float((bound / exact.abs()).median()):.1e}"
    )
    # But for the rounding of the reference solution.
    return int((error > bound + 1e-12 * exact.abs().max()).sum())


def traction(model: pddlvm.GalerkinModel, path: Path) -> None:
    """What pulled, from displacements with an error of 2 % of the largest."""
    problem = model.problem
    z = problem.prior.sample(seed=4)
    u = problem.solve(z)
    noise_std = 0.02 * float(u.abs().max())
    sensors = pddlvm.PointObservation(problem, SENSORS, noise_std=noise_std)
    posterior = model.infer(sensors.simulate(u, seed=0), sensors)
    pulled = [problem.prior.slices[name].start for name in ("t_x", "t_y", "t_z")]
    figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    x = np.arange(len(pulled))
    ax.errorbar(
        x, posterior.mean[pulled], 2 * posterior.std[pulled], fmt="o", capsize=4, label="found, ±2σ"
    )
    ax.plot(x, z[pulled], "kx", ms=9, label="true")
    ax.axhspan(-10, 10, color="0.93", zorder=0, label="prior")
    ax.set(xlim=(-0.5, 2.5), ylabel="traction [MPa]", title="From displacements at six points")
    ax.set_xticks(x, ["$t_x$", "$t_y$", "$t_z$"])
    ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> tuple[pddlvm.ValidationReport, int]:
    """Train, draw the figures, write a file for ParaView; report, and how many bounds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bracket"), help="folder for the results")
    parser.add_argument("--n", type=int, default=8, help="cells per leg, a multiple of 4")
    parser.add_argument("--samples", type=int, default=40, help="draws of the validation")
    parser.add_argument("--seconds", type=float, default=30, help="of training")
    parser.add_argument("--steps", type=int, help="of training, in the place of seconds")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = elasticity.make_bracket(options.n)
    print(problem)
    model = pddlvm.LatentVariableModel(problem)
    budget: dict[str, Any] = {"max_seconds": options.seconds}
    if options.steps is not None:
        budget = {"max_steps": options.steps}
    pddlvm.train(model, **budget, progress=True)
    report = pddlvm.validate(model, options.samples)
    print(report)
    z = problem.prior.sample(seed=4)
    pictures(model, z, options.out / "displacement.png")
    n_exceeded = deflections(model, options.samples, options.out / "deflection.png")
    traction(model, options.out / "traction.png")
    model.to_vtu(options.out / "bracket.vtu", z)
    print(f"figures, and a file for ParaView, are in {options.out}/")
    return report, n_exceeded


if __name__ == "__main__":
    main()
