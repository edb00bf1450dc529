"""Parameters from noisy data at the two ends of an interval; nothing is seen in the middle.

    -(kappa u')' = f on [-1, 1],   u(-1) = u_left,   u(1) = u_right
    kappa = 1 + softplus(sum_i z_i T_i(x)),   z_i ~ U[-1, 1],   f ~ U[1, 5]
    u_left, u_right ~ U[-1/2, 1/2]
    y = u at the first and last 40 % of the nodes + N(0, noise^2)

(Vadeboncoeur et al., arXiv 2208.04856, section 4.) The figures: the posterior of u and of kappa,
where the data are and where they are not; the marginal densities of the parameters; and the
evidence that the amortised posterior can be trusted: ranks and coverage over data sets that were
simulated with the reference solver. Only the ratio of f and kappa shows in u, so the posterior of
both is a long, curved ridge: the Gaussian of the Laplace approximation does not follow it.

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
from matplotlib.figure import Figure

import pddlvm
from pddlvm import plot
from problems import poisson

METHODS: tuple[pddlvm.Method, ...] = ("amortized", "laplace", "exact")


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
) -> Figure:
    """u and kappa by two methods."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    x = torch.from_numpy(problem.space.mesh.p[0])
    order = x.argsort()
    # Fields are evaluated once per element.
    cells = x[torch.from_numpy(problem.space.mesh.t)].mean(0)
    sorted_cells = cells.argsort()
    middles = cells[sorted_cells]
    for k, name in enumerate(("amortized", "exact")):
        posterior = posteriors[name]
        u = posterior.solution(400).samples
        band(x[order], u[:, order], axes[0], f"C{k}", name)
        kappa = problem.field_values(posterior.sample((400,), seed=0), "kappa")
        band(middles, kappa[:, sorted_cells], axes[1], f"C{k}", name)
    axes[0].plot(x[order], problem.solve(z)[order], "k--", lw=1, label="true")
    axes[0].plot(x[seen], y, "k.", markersize=3, label="data")
    true = problem.field_values(z, "kappa")[sorted_cells]
    axes[1].plot(middles, true, "k--", lw=1, label="true")
    axes[0].set(xlabel="x", ylabel="u", title="Solution, 95 % bands")
    axes[1].set(xlabel="x", ylabel="kappa", title="Conductivity, 95 % bands")
    for ax in axes:
        ax.legend()
    return figure


def main(arguments: list[str] | None = None) -> pddlvm.InferenceReport:
    """Train, infer by three methods, draw the figures and check the calibration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("inverse"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=30.0, help="training time of the maps")
    parser.add_argument("--amortize", type=float, default=90.0, help="training time of q(z | y)")
    parser.add_argument("--samples", type=int, default=2000, help="draws of the Markov chains")
    parser.add_argument("--data-sets", type=int, default=200, help="for the calibration")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = poisson.make_missing_middle()
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds, progress=True)
    obs = poisson.both_ends(problem)
    model.amortize(obs, max_seconds=options.amortize)

    z = problem.prior.sample(seed=2)
    y = obs.simulate(problem.solve(z), seed=3)
    posteriors: dict[str, pddlvm.Posterior] = {}
    lines = [f"{'':<10} " + " ".join(f"{n:>14}" for n in problem.parameter_names)]
    lines.append(f"{'true':<10} " + " ".join(f"{value:14.2f}" for value in z.tolist()))
    for method in METHODS:
        start = time.perf_counter()
        posterior = model.infer(y, obs, method, n_samples=options.samples, n_chains=16)
        mean, std = posterior.mean.tolist(), posterior.std.tolist()
        seconds = time.perf_counter() - start
        posteriors[method] = posterior
        values = " ".join(f"{m:8.2f} ±{s:.2f}" for m, s in zip(mean, std, strict=True))
        lines.append(f"{method:<10} {values}   {1e3 * seconds:8.1f} ms")
        lines.append(f"{'':<10} {posterior.check().diagnostics.verdict}")

    seen = torch.from_numpy(obs.matrix.indices)
    solutions(problem, posteriors, z, y, seen).savefig(options.out / "solution.png", dpi=120)
    plot.marginals(posteriors, truth=z).savefig(options.out / "marginals.png", dpi=120)
    report = pddlvm.validate_inference(model, obs, "amortized", n_data=options.data_sets)
    plot.inference_figure(report).savefig(options.out / "calibration.png", dpi=120)
    plt.close("all")

    text = f"{problem}\n\n" + "\n".join(lines) + f"\n\n{report}\n"
    (options.out / "report.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\nfigures and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
