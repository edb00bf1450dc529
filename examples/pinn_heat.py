"""A nonlinear heat equation in strong form: no mesh, and sigma that knows where it was trained.

    u_t = (1 / gamma) ((kappa u + 1 / kappa) u_x)_x,   x in [0, 2 pi], t in [0, 2]
    u = 1 + sin x at the start, u = 1 at both ends,    gamma, kappa ~ U[1, 5]

(Vadeboncoeur et al., arXiv 2208.04856, section 4.) The residual is taken at random points by
automatic differentiation of the forward map. The figures: profiles in time, maps over space and
time, what happens outside of the box of parameters that the maps were trained on, and the inverse
map over that plane.

Run:  python examples/pinn_heat.py --out heat
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import pddlvm
from pddlvm import plot
from problems import method_of_lines, pinn

PLANE = (0.1, 12.0)
BOX = (1.0, 5.0)


def profiles(model: pddlvm.LatentVariableModel, z: torch.Tensor, ax: Axes) -> None:
    """u(x) at a few times: mean with its band of 2 sigma, and the reference."""
    problem = model.problem
    x, t = (axis.numpy() for axis in problem.axes)
    forward, shape = model.forward(z), problem.grid
    u, mean, std = (v.reshape(shape).numpy() for v in (problem.solve(z), forward.mean, forward.std))
    for k, j in enumerate((0, 10, 40, 100, len(t) - 1)):
        colour = f"C{k}"
        ax.plot(x, mean[:, j], colour, label=f"t = {t[j]:.2f}")
        low, high = mean[:, j] - 2 * std[:, j], mean[:, j] + 2 * std[:, j]
        ax.fill_between(x, low, high, color=colour, alpha=0.3)
        ax.plot(x[::4], u[::4, j], "k.", markersize=4)
    ax.set(xlabel="x", ylabel="u", title="mean ± 2σ (lines), reference (dots)")
    ax.legend()


def magnified(model: pddlvm.LatentVariableModel, z: torch.Tensor, ax: Axes) -> None:
    """The error at one time inside of the band of 2 sigma, which is too narrow to be seen above."""
    problem = model.problem
    x, t = (axis.numpy() for axis in problem.axes)
    forward = model.forward(z)
    error = (problem.solve(z) - forward.mean).reshape(problem.grid).numpy()
    band = 2 * forward.std.reshape(problem.grid).numpy()
    j = 40
    ax.plot(x, error[:, j], "k-", label="reference - mean")
    ax.fill_between(x, -band[:, j], band[:, j], color="C1", alpha=0.4, label="±2σ")
    ax.set(xlabel="x", title=f"error at t = {t[j]:.2f}")
    ax.legend()


def over_the_plane(values: torch.Tensor, axis: torch.Tensor, ax: Axes, title: str) -> None:
    """A map over gamma and kappa, with the box of the training drawn in."""
    drawn = ax.pcolormesh(
        axis.numpy(), axis.numpy(), values.T.numpy(), cmap="viridis", shading="gouraud"
    )
    side = BOX[1] - BOX[0]
    ax.add_patch(Rectangle((BOX[0], BOX[0]), side, side, fill=False, edgecolor="red", lw=2))
    ax.set(xlabel="gamma", ylabel="kappa", title=title)
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(drawn, ax=ax)


def plane(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n values of each parameter, and all n^2 pairs, (n, n, 2)."""
    axis = torch.linspace(*PLANE, n, dtype=torch.float64)
    return axis, torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, solve, invert, validate; write figures, a VTU file and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("heat"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=120.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--samples", type=int, default=16, help="draws of the validation")
    parser.add_argument("--plane", type=int, default=19, help="parameters along each axis")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = pinn.make_heat()
    print(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    result = pddlvm.train(
        model, max_seconds=options.seconds, max_steps=options.steps, progress=True
    )
    report = pddlvm.validate(model, options.samples)

    z = torch.tensor([2.0, 3.0], dtype=torch.float64)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    profiles(model, z, axes[0])
    magnified(model, z, axes[1])
    plot.calibration(report, axes[2])
    figure.savefig(options.out / "profiles.png", dpi=120)
    plot.forward_figure(model, z).savefig(options.out / "space_time.png", dpi=120)

    axis, parameters = plane(options.plane)
    forward = model.forward(parameters, extrapolate=True)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    log_residual, log_sigma = forward.residual_norm.log10(), forward.std.mean(-1).log10()
    over_the_plane(log_residual, axis, axes[0], "log10 residual (box: trained here)")
    over_the_plane(log_sigma, axis, axes[1], "log10 mean σ")
    x, t = problem.axes
    u = method_of_lines.heat(parameters.flatten(0, 1), x, t)
    inverse = model.inverse(u).mean.reshape(parameters.shape)
    error = ((inverse - parameters).norm(dim=-1) / parameters.norm(dim=-1)).clamp(min=1e-4)
    over_the_plane(error.log10(), axis, axes[2], "log10 relative error of the inverse map")
    figure.savefig(options.out / "plane.png", dpi=120)

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    plot.elbo(result, ax)
    figure.savefig(options.out / "training.png", dpi=120)
    plt.close("all")

    model.to_vtu(options.out / "heat.vtu", z)
    (options.out / "report.txt").write_text(f"{problem}\n\n{report}\n")
    print(f"\n{report}\n\nfigures, VTU and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
