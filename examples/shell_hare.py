"""A thin shell with a stiffness that varies with the height: a hare, pushed aside.

    Pi = int t/2 e : C(E) e + t^3/24 k : C(E) k - p . u,   E = 1 + softplus(sum_i z_i T_i(height))

with z_i ~ U[-2, 2] (the shell of Vadeboncoeur et al., arXiv 2208.04856, on a surface that is free
to use). Any closed or open surface of triangles in a file works alike: `--mesh surface.obj`.

Run:  python examples/shell_hare.py --out hare
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from mpl_toolkits.mplot3d import Axes3D

import pddlvm
from pddlvm import plot
from problems import shell


def modulus(model: pddlvm.LatentVariableModel, z: torch.Tensor, ax: Axes) -> None:
    """True and reconstructed Young's modulus along the height, with 2 sigma."""
    problem = model.problem
    posterior = model.inverse(problem.solve(z))
    height = problem.space.centroids.x[:, 1]
    order = height.argsort()
    truth = problem.parameter_field(z)[order]
    draws = problem.parameter_field(posterior.sample((200,), seed=0))[:, order]
    found, sigma = problem.parameter_field(posterior.median)[order], draws.std(0)
    x = height[order]
    ax.plot(x, truth, "k-", label="true")
    ax.plot(x, found, "C1--", label="inferred")
    ax.fill_between(x, found - 2 * sigma, found + 2 * sigma, color="C1", alpha=0.4, label="±2σ")
    ax.set(xlabel="height", ylabel="E", title="Young's modulus from the displacement")
    ax.set_ylim(0, 1.2 * float(truth.max()))
    ax.legend()


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, solve, invert, validate; write figures, a VTU file and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("hare"), help="folder for the results")
    parser.add_argument("--mesh", type=Path, default=None, help="surface file instead of the hare")
    parser.add_argument("--seconds", type=float, default=90.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--samples", type=int, default=100, help="draws of the validation")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = shell.make(options.mesh)
    print(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    result = pddlvm.train(
        model, max_seconds=options.seconds, max_steps=options.steps, progress=True
    )

    z = problem.prior.sample(seed=5)
    figure = plot.forward_figure(model, z)
    for ax in figure.axes:
        if isinstance(ax, Axes3D):
            # The height of the hare is along y.
            ax.view_init(elev=15, azim=-60, vertical_axis="y")
            ax.set_aspect("equal")
    figure.savefig(options.out / "forward.png", dpi=120)

    report = pddlvm.validate(model, options.samples)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    modulus(model, z, axes[0])
    plot.elbo(result, axes[1])
    plot.calibration(report, axes[2])
    figure.savefig(options.out / "inverse.png", dpi=120)
    plt.close("all")

    model.to_vtu(options.out / "shell.vtu", z)
    (options.out / "report.txt").write_text(f"{problem}\n\n{report}\n")
    print(f"\n{report}\n\nfigures, VTU and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
