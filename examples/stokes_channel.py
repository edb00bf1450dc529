"""A viscous flow around an obstacle, in velocity and pressure: reference solutions and a model.

    -div(2 nu(x; z) eps(u) - p) = 0,   div u = 0,   log nu a Gaussian field, random inflow

Figures of two draws of the viscosity, with the velocities and pressures that belong to them, and
what the uncertainty of viscosity and inflow means for the pressure that drives the flow. Then a
model learns both fields from the residual alone, with an error bar and a rigorous bound, and finds
the viscosity behind the pressures at eight points of the walls.

Run:  python examples/stokes_channel.py --out stokes --seconds 60
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

import pddlvm
from pddlvm import plot
from problems import stokes


def arrows(problem: pddlvm.Problem, u: torch.Tensor, ax: Axes) -> None:
    """Velocities at some vertices; fluid at rest and pressures have none."""
    every = problem.space.mesh.p.T[::3]
    v = (problem.evaluation(every) @ u.numpy()).reshape(-1, 2)
    ax.quiver(*every.T, *v.T, color="w", width=2e-3, scale=40)


def panels(problem: pddlvm.Problem, z: torch.Tensor, axes: np.ndarray) -> None:
    """Viscosity, velocity and pressure of one draw."""
    u = problem.solve(z)
    plot.field(problem, problem.parameter_field(z), axes[0], label="nu", title="viscosity")
    plot.field(problem, u, axes[1], name="u", label="|u|", title="velocity")
    arrows(problem, u, axes[1])
    plot.field(problem, u, axes[2], name="p", label="p", title="pressure", cmap="coolwarm")


def learn(problem: pddlvm.Problem, budget: dict[str, Any], path: Path) -> pddlvm.ValidationReport:
    """Train a model; one draw of it beside the reference solution, and the viscosity from data."""
    model = pddlvm.LatentVariableModel(problem)
    pddlvm.train(model, **budget, progress=True)
    report = pddlvm.validate(model, n_samples=50)
    print(f"errors in energy: {report.relative_norm:.1e}, {report.relative_norm_corrected:.1e}")
    print("+-2 std hold", {k: round(v, 3) for k, v in report.coverage_of.items()}, "of u and p")
    z = problem.prior.sample((1,), seed=4)
    u = problem.solve(z)
    forward = model.forward(z)
    bound = forward.error_bound
    if bound is not None:
        print(
            f"error {float(model.norm(forward.mean - u)):.3g}, certainly at most {float(bound):.3g}"
        )

    walls = [[x, y] for x in (0.3, 1.2, 1.8, 2.4) for y in (0.0, 1.0)]
    sensors = pddlvm.PointObservation(problem, walls, noise_std=0.1, field="p")
    posterior = model.infer(sensors.simulate(u, seed=0), sensors)
    found = problem.parameter_field(posterior.mean)
    figure, axes = plt.subplots(2, 2, figsize=(12, 5), layout="constrained")
    dofs = problem.fields_of_u["p"]
    error = torch.zeros_like(u[0])
    error[dofs] = (forward.mean - u)[0, dofs].abs()
    plot.field(problem, error, axes[0, 0], name="p", label="p", title="error of the pressure")
    std = forward.std[0]
    plot.field(problem, std, axes[0, 1], name="p", label="p", title="its standard deviation")
    for ax, values, title in zip(axes[1], (z, None), ("true", "found"), strict=True):
        nu = found[0] if values is None else problem.parameter_field(values)[0]
        plot.field(problem, nu, ax, label="nu", title=f"{title} viscosity")
        ax.plot(*np.array(walls).T, "wo", mec="k", clip_on=False)
    figure.savefig(path, dpi=120)
    return report


def main(
    arguments: list[str] | None = None,
) -> tuple[torch.Tensor, pddlvm.ValidationReport]:
    """Solve, learn, draw the figures; mean pressures at the inflow, (samples,), and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("stokes"), help="folder for the results")
    parser.add_argument("--samples", type=int, default=200, help="draws of the prior")
    parser.add_argument("--n", type=int, default=12, help="cells per height, a multiple of 3")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--steps", type=int, help="of training, in the place of seconds")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = stokes.make_channel(options.n)
    print(problem)
    figure, axes = plt.subplots(3, 2, figsize=(12, 7), layout="constrained")
    for i, z in enumerate(problem.prior.sample((2,), seed=4)):
        panels(problem, z, axes[:, i])
    figure.savefig(options.out / "flow.png", dpi=120)

    # There is no traction at the outflow: the mean of p on the other end drives the flow.
    z = problem.prior.sample((options.samples,), seed=0)
    y = np.linspace(0.0, 1.0, 101)
    at_inflow = problem.evaluation(np.column_stack([0 * y, y]), field="p")
    pressure = torch.from_numpy((at_inflow @ problem.solve(z).T.numpy()).mean(axis=0))
    flow = z[:, problem.prior.slices["flow"]][:, 0]
    nu = problem.parameter_field(z).log().mean(dim=1).exp()
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    dots = ax.scatter(flow, pressure, c=nu, norm="log", s=14)
    figure.colorbar(dots, ax=ax, label="geometric mean of nu")
    ax.set(xlabel="flow", ylabel="pressure at the inflow", title=f"{options.samples} draws")
    figure.savefig(options.out / "pressure.png", dpi=120)
    plt.close("all")
    low, middle, high = np.quantile(pressure, [0.05, 0.5, 0.95])
    print(f"pressure at the inflow: {middle:.1f}, 90 % between {low:.1f} and {high:.1f}")
    budget: dict[str, Any] = {"max_seconds": options.seconds}
    if options.steps is not None:
        budget = {"max_steps": options.steps}
    report = learn(problem, budget, options.out / "model.png")
    plt.close("all")
    print(f"figures are in {options.out}/")
    return pressure, report


if __name__ == "__main__":
    main()
