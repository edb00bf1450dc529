"""Rigorous error bounds on the thermal block: how wrong predictions may be, and how wrong they are.

    -div(theta_q grad u) = 1   in block q of the unit square, u = 0 around it,   theta_q ~ U[0.1, 1]

No solution of the PDE enters a bound: it needs the residual, the reference operator, and how far
the operator of a query is from it, which the conductivities tell.

Run:  python examples/thermal_block.py --out thermal_block
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import pddlvm
from pddlvm import plot
from problems import thermal_block


def bounds(ax: Axes, model: pddlvm.GalerkinModel, n_samples: int) -> None:
    """Errors of fresh draws in the energy norm, and the intervals that hold them."""
    problem = model.problem
    z = problem.prior.sample((n_samples,), seed=99)
    u = problem.solve(z)
    size = problem.energy_norm(u)
    for corrections, color in ((0, "C0"), (1, "C1")):
        forward = model.forward(z, corrections=corrections)
        error = problem.energy_norm(u - forward.mean) / size
        assert forward.error_interval is not None
        order = error.argsort()
        lower, upper = (end[order] / size[order] for end in forward.error_interval)
        x = range(n_samples)
        name = f"bounds, corrections={corrections}"
        ax.fill_between(x, lower, upper, color=color, alpha=0.3, label=name)
        ax.plot(x, error[order], color=color, label=f"true error, corrections={corrections}")
    ax.set(yscale="log", xlabel="draw, sorted by error", ylabel="relative error in energy")
    ax.legend()


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, compare bounds with errors, write a figure and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("thermal_block"), help="folder")
    parser.add_argument("--blocks", type=int, default=3, help="blocks per side")
    parser.add_argument("--n", type=int, default=None, help="cells per side")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--samples", type=int, default=200, help="draws of the validation")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = thermal_block.make(options.blocks, options.blocks, options.n)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)

    figure, axes = plt.subplots(
        1, 2, figsize=(10.5, 4), layout="constrained", gridspec_kw={"wspace": 0.08}
    )
    z = problem.prior.sample(seed=7)
    forward = model.forward(z)
    assert forward.error_bound is not None
    error = forward.error_bound / problem.energy_norm(forward.mean)
    plot.field(problem, forward.mean, axes[0], title=f"mean, at most {float(error):.1%} wrong")
    bounds(axes[1], model, options.samples)
    figure.savefig(options.out / "bounds.png", dpi=120)
    plt.close(figure)

    report = pddlvm.validate(model, options.samples)
    (options.out / "report.txt").write_text(f"{problem}\n\n{report}\n")
    print(report)
    return report


if __name__ == "__main__":
    main()
