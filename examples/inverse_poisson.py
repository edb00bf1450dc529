"""Parameters from noisy data at the two ends of an interval; nothing is seen in the middle.

    -(kappa u')' = f on [-1, 1],   u(-1) = u_left,   u(1) = u_right
    kappa = 1 + softplus(sum_i z_i T_i(x)),   z_i ~ U[-1, 1],   f ~ U[1, 5]
    u_left, u_right ~ U[-1/2, 1/2]
    y = u at the first and last 40 % of the nodes + N(0, noise^2)

(Vadeboncoeur et al., arXiv 2208.04856, section 4.) The figures: the posterior of u and of kappa by
each method, where the data are and where they are not; the marginal densities of the parameters;
and the evidence that the amortised posterior can be trusted: ranks and coverage over data sets that
were simulated with the reference solver.

Run:  python examples/inverse_poisson.py --out inverse
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

import pddlvm
from pddlvm import plot
from problems import poisson

METHODS = ("amortized", "laplace", "variational", "nuts", "exact")


def band(x: torch.Tensor, draws: torch.Tensor, ax: Axes, colour: str, label: str) -> None:
    """Mean and central 95 % of draws (n, n_points)."""
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype), dim=0)
    ax.plot(x, draws.mean(0), color=colour, label=label)
    ax.fill_between(x, low, high, color=colour, alpha=0.2)


def solutions(
    problem: pddlvm.Problem,
    posteriors: dict[str, pddlvm.Posterior],
    z: torch.Tensor,
    y: torch.Tensor,
    seen: torch.Tensor,
) -> plt.Figure:
    """u and kappa by two methods."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    x = torch.from_numpy(problem.space.mesh.p[0])
    order = x.argsort()
    cells = x[torch.from_numpy(problem.space.mesh.t)].mean(0)
    for k, name in enumerate(("amortized", "exact")):
        posterior = posteriors[name]
        u = posterior.solution(400).samples
        band(x[order], u[:, order], axes[0], f"C{k}", name)
        kappa = problem.parameter_field(posterior.sample((400,), seed=0))
        band(cells, kappa, axes[1], f"C{k}", name)
    axes[0].plot(x[order], problem.solve(z)[order], "k--", lw=1, label="true")
    axes[0].plot(x[seen], y, "k.", markersize=3, label="data")
    axes[1].plot(cells, problem.parameter_field(z), "k--", lw=1, label="true")
    axes[0].set(xlabel="x", ylabel="u", title="solution, 95 % bands")
    axes[1].set(xlabel="x", ylabel="kappa", title="conductivity, 95 % bands")
    for ax in axes:
        ax.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("inverse_poisson"))
    parser.add_argument("--seconds", type=float, default=60, help="training time of the maps")
    parser.add_argument("--amortize", type=float, default=60, help="training time of q(z | y)")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    problem = poisson.make_missing_middle()
    model = pddlvm.LatentVariableModel(problem, seed=arguments.seed)
    pddlvm.train(model, max_seconds=arguments.seconds, progress=True)
    obs = poisson.both_ends(problem, arguments.noise)
    model.amortize(obs, max_seconds=arguments.amortize, seed=arguments.seed)

    z = problem.prior.sample(seed=2)
    y = obs.simulate(problem.solve(z), seed=3)
    posteriors = {}
    for method in METHODS:
        start = time.perf_counter()
        posterior = model.infer(y, obs, method, n_samples=2000, n_chains=8)
        seconds = time.perf_counter() - start
        posteriors[method] = posterior
        spread = ", ".join(
            f"{m:.2f}±{s:.2f}" for m, s in zip(posterior.mean, posterior.std, strict=True)
        )
        checked = posterior if method == "exact" else posterior.check()
        print(f"{method:<12}{seconds:8.3f} s   {spread}   {checked.diagnostics.verdict}")
    print("true        ", " " * 11, ", ".join(f"{v:.2f}" for v in z))

    seen = torch.from_numpy(obs.matrix.indices)
    figure = solutions(problem, posteriors, z, y, seen)
    figure.savefig(arguments.out / "solution.png", dpi=120)
    shown = {name: posteriors[name] for name in ("amortized", "laplace", "exact")}
    plot.marginals(shown, truth=z).savefig(arguments.out / "marginals.png", dpi=120)

    report = pddlvm.validate_inference(model, obs, "amortized", n_data=300)
    print(report)
    plot.inference_figure(report).savefig(arguments.out / "calibration.png", dpi=120)
    print(f"figures in {arguments.out}")


if __name__ == "__main__":
    main()
