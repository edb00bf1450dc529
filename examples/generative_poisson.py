"""A population of samples with two kinds, learnt from data alone.

    -(kappa u')' = 1 on [-1, 1],   kappa = softplus(z),   y = u at 7 points + N(0, noise^2)

500 samples came from two production lines, z ~ 1/2 N(-1, 0.2^2) + 1/2 N(1, 0.3^2), but nobody has
told us so, and no z was ever measured. From the data the generative model learns p(z), and then
makes new samples with their solutions and data, which obey the physics. A two-sample test compares
them with members of the true population.

Run:  python examples/generative_poisson.py --out generative
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import ks_2samp

import pddlvm
from problems import poisson

NOISE = 0.005
SENSORS = [-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75]


def members(n: int, seed: int) -> torch.Tensor:
    """z of the true population, (n, 1)."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(n, 1, generator=generator, dtype=torch.float64) < 0.5
    white = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return torch.where(first, -1 + 0.2 * white, 1 + 0.3 * white)


def figure_of(z: torch.Tensor, y: torch.Tensor, new: pddlvm.Generated) -> Figure:
    """Learnt against true population; data against generated data."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    bins = np.linspace(-2.2, 2.4, 47)
    axes[0].hist(z[:, 0].numpy(), bins, density=True, color="0.8", label="true population")
    style = {"histtype": "step", "color": "C0", "linewidth": 1.5}
    axes[0].hist(new.z[:, 0].numpy(), bins, density=True, label="learnt from data", **style)
    axes[0].set(xlabel="z", ylabel="density", title="Parameters")
    for values, colour, shift, label in ((y, "0.6", -0.01, "data"), (new.y, "C0", 0.01, "new")):
        x = torch.tensor(SENSORS).expand(100, -1) + shift
        axes[1].plot(
            x.numpy().ravel(), values[:100].numpy().ravel(), ".", c=colour, ms=3, label=label
        )
    axes[1].set(xlabel="x", ylabel="y", title="100 data sets and 100 generated ones")
    for ax in axes:
        ax.legend()
    return figure


def main(arguments: list[str] | None = None) -> float:
    """Learn the population and compare; the p-value of the two-sample test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("generative"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=20.0, help="training time of the maps")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--learn", type=float, default=60.0, help="time to learn the population")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = poisson.make_1d()
    model = pddlvm.LatentVariableModel(problem, seed=options.seed)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)
    obs = pddlvm.PointObservation(problem, SENSORS, NOISE)
    z = members(1000, options.seed + 1)
    y = obs.simulate(problem.solve(z), seed=options.seed + 2)
    known, held_out = y[:500], y[500:]

    population = pddlvm.learn_population(
        model, obs, known, max_seconds=options.learn, seed=options.seed
    )
    new = population.sample(500, seed=options.seed)
    test = ks_2samp(new.z[:, 0].numpy(), members(500, options.seed + 3)[:, 0].numpy())
    figure_of(members(20_000, 9), y, population.sample(5000, seed=9)).savefig(
        options.out / "population.png", dpi=120
    )
    plt.close("all")

    text = (
        f"{problem}\n\n"
        f"two-sample test, 500 new members against 500 true ones: p = {test.pvalue:.3f}\n"
        f"share of the first kind: {float((new.z < 0).double().mean()):.2f}\n"
        f"log-likelihood of data, bound: {float(population.log_likelihood(known).mean()):.2f}, "
        f"held out: {float(population.log_likelihood(held_out).mean()):.2f}\n"
        f"relative residual of the new solutions, median: {float(new.residual_norm.median()):.1e}\n"
    )
    (options.out / "report.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\nfigure and report are in {options.out}/")
    return float(test.pvalue)


if __name__ == "__main__":
    main()
