"""A public benchmark: 64 conductivities of a plate from 169 published measurements.

    -div(theta(x) grad u) = 10 in (0, 1)^2,   u = 0 on the boundary
    theta = theta_k on 8 x 8 blocks,   ln theta_k ~ N(4, 2^2);   y_i = u(x_i) + N(0, 0.05^2)

(D. Aristoff, W. Bangerth, A benchmark for the Bayesian inversion of coefficients in partial
differential equations, SIAM Review 65(4), 2023.) With a prior that spans several powers of ten a
map that was trained on prior draws is a poor guide to where these data are: its posteriors must be
rejected by their own evidence (k-hat). `exact` samples the finite element posterior itself.

Run:  python examples/inverse_real_data.py --out real_data
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import pddlvm
from problems import bayesian_poisson

SURROGATES: tuple[pddlvm.Method, ...] = ("laplace", "variational", "amortized", "nuts")


def blocks(log_theta: torch.Tensor) -> Figure:
    """Mean and standard deviation of ln theta of every block."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    parts = (("mean", log_theta.mean(0).numpy()), ("standard deviation", log_theta.std(0).numpy()))
    for ax, (name, values) in zip(axes, parts, strict=True):
        image = ax.imshow(values.reshape(8, 8), origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
        ax.set(xlabel="x", ylabel="y", title=f"ln theta: {name}")
        figure.colorbar(image, ax=ax)
    return figure


def main(arguments: list[str] | None = None) -> pddlvm.Posterior:
    """Train shortly, let the surrogates be judged, then sample the finite element posterior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("real_data"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=30.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--samples", type=int, default=14000, help="draws of the Markov chains")
    parser.add_argument("--chains", type=int, default=8, help="Markov chains")
    parser.add_argument("--seed", type=int, default=0, help="of the Markov chains")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = bayesian_poisson.make()
    data = bayesian_poisson.read_data(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)

    model.amortize(data.observation, max_seconds=options.seconds)
    verdicts = {
        method: model.infer(data.y, data.observation, method).check().diagnostics.verdict
        for method in SURROGATES
    }
    exact = model.infer(
        data.y,
        data.observation,
        "exact",
        n_samples=options.samples,
        n_chains=options.chains,
        seed=options.seed,
    )
    d = exact.diagnostics
    log_theta = exact.sample((options.samples,), seed=0).log()
    blocks(log_theta).savefig(options.out / "blocks.png", dpi=120)
    plt.close("all")

    assert d.rhat is not None and d.bulk_size is not None  # Chains have both.
    rows = [" ".join(f"{v:6.2f}" for v in row) for row in log_theta.mean(0).reshape(8, 8).flip(0)]
    text = (
        f"{problem}\n\n"
        + "".join(f"{method:<12}{verdict}\n" for method, verdict in verdicts.items())
        + f"{'exact':<12}{d.verdict}\n"
        f"            {d.seconds:.0f} s, R-hat <= {float(d.rhat.max()):.3f}, "
        f"effective draws >= {float(d.bulk_size.min()):.0f}\n\n"
        "mean of ln theta, as on the plate:\n" + "\n".join(rows) + "\n"
    )
    (options.out / "report.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\nfigure and report are in {options.out}/")
    return exact


if __name__ == "__main__":
    main()
