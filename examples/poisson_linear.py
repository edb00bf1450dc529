"""Diffusion with an uncertain conductivity on the unit square, forward and inverse.

    -div(kappa(x; z) grad u) = 10,   u = 0 on the boundary,   kappa = exp(g(x; z))

g is a Gaussian field with 16 Karhunen-Loève terms. The model learns from the residual alone: no
solution is computed for training. Afterwards it solves forward problems in less than a
millisecond, reads the conductivity back from a solution, and says how far it can be trusted.

Run:  python examples/poisson_linear.py --out demo
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import pddlvm
from pddlvm import plot
from problems import poisson


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, solve, invert, validate; write figures, a VTU file, the model and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--n", type=int, default=32, help="cells per side")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = poisson.make(options.n)
    print(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    result = pddlvm.train(
        model, max_seconds=options.seconds, max_steps=options.steps, progress=True
    )

    print(f"after {result.n_steps} steps: {result.verdict}")

    # Forward: one new conductivity, its solution with an error bar.
    z = problem.prior.sample(seed=7)
    prediction = model.forward(z)
    print(f"certificate |r| / |u| of this prediction: {prediction.residual_norm:.1e}")
    plot.forward_figure(model, z).savefig(options.out / "forward.png", dpi=120)
    # Inverse: the conductivity behind a full solution.
    plot.inverse_figure(model, z).savefig(options.out / "inverse.png", dpi=120)

    report = pddlvm.validate(model)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    plot.elbo(result, axes[0])
    plot.calibration(report, axes[1])
    figure.savefig(options.out / "training.png", dpi=120)
    plt.close("all")

    model.to_vtu(options.out / "solution.vtu", z)
    model.save(options.out / "model.pt")
    (options.out / "report.txt").write_text(f"{problem}\n\n{result.verdict}\n\n{report}\n")
    print(f"\n{report}\n\nfigures, VTU, model and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
