"""Nonlinear diffusion in one dimension: the figures of the paper, and what happens off the prior.

    -(k(x, |u'|) u')' = f on [-1, 1],   u(-1) = 0,   u(1) = u_right,
    k = (sigmoid(|u'|) + 5 kappa(x)) / 10,   kappa = 1 + softplus(sum_i z_i T_i(x))

The coefficients of kappa, the load and the boundary value are all uncertain (Vadeboncoeur et al.,
arXiv 2208.04856, section 4.2). The inverse map is told the load. Then the conductivity is moved
off its prior: the error grows, and the predicted sigma and the certificate must say so.

Run:  python examples/poisson_nonlinear.py --out nonlinear
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

import pddlvm
from pddlvm import plot
from problems import nonlinear_poisson

SHIFTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
"""How far the coefficients of kappa are moved, in standard deviations of the prior."""


def solutions(model: pddlvm.LatentVariableModel, z: torch.Tensor, ax: Axes) -> None:
    """A few reference solutions, their predicted means and bands of 2 sigma."""
    x = model.problem.space.dof_points[:, 0]
    forward, reference = model.forward(z), model.problem.solve(z)
    for i in range(len(z)):
        mean, std = forward.mean[i].numpy(), forward.std[i].numpy()
        ax.plot(x, reference[i], color="k", lw=1, label="reference" if i == 0 else None)
        ax.plot(x, mean, f"C{i}--", label=None if i else "mean")
        ax.fill_between(x, mean - 2 * std, mean + 2 * std, color=f"C{i}", alpha=0.4)
    ax.set(xlabel="x", ylabel="u", title="Solutions and ±2σ")
    ax.legend()


def off_the_prior(model: pddlvm.LatentVariableModel, n_samples: int) -> list[dict[str, float]]:
    """Error, sigma, certificate and coverage where kappa's coefficients are shifted."""
    problem = model.problem
    rows = []
    for shift in SHIFTS:
        z = problem.prior.sample((n_samples,), seed=99)
        # Towards larger conductivity in the middle: along one fixed direction of z.
        z[:, problem.prior.slices["kappa"]] += shift / 5**0.5
        forward, u = model.forward(z), problem.solve(z)
        error = (forward.mean - u)[:, problem.free_dofs]
        std = forward.std[:, problem.free_dofs]
        rows.append(
            {
                "shift": shift,
                "error": float(error.square().mean(1).sqrt().median()),
                "sigma": float(std.square().mean(1).sqrt().median()),
                "certificate": float(forward.residual_norm.median()),
                "coverage": float((error.abs() <= 2 * std).double().mean()),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> pddlvm.ValidationReport:
    """Train, validate, draw the figures; report the behaviour off the prior."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("nonlinear"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--samples", type=int, default=200, help="draws per shift")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = nonlinear_poisson.make_1d()
    print(problem)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    result = pddlvm.train(
        model, max_seconds=options.seconds, max_steps=options.steps, progress=True
    )

    z = problem.prior.sample((4,), seed=3)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    solutions(model, z, axes[0])
    rows = off_the_prior(model, options.samples)
    for key, style in (("error", "ko-"), ("sigma", "C1s--"), ("certificate", "C2^:")):
        axes[1].semilogy(SHIFTS, [row[key] for row in rows], style, label=key)
    axes[1].set(xlabel="shift of kappa's coefficients [prior std]", title="Off the prior (medians)")
    axes[1].legend()
    figure.savefig(options.out / "forward.png", dpi=120)
    plot.inverse_figure(model, z[0], known=["f"]).savefig(options.out / "inverse.png", dpi=120)

    report = pddlvm.validate(model, known=["f"])
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    plot.elbo(result, axes[0])
    plot.calibration(report, axes[1])
    figure.savefig(options.out / "training.png", dpi=120)
    plt.close("all")

    lines = ["shift  RMS error  RMS sigma  certificate  coverage"]
    lines += [
        f"{r['shift']:5.1f}  {r['error']:9.1e}  {r['sigma']:9.1e}  {r['certificate']:11.1e}  "
        f"{r['coverage']:8.3f}"
        for r in rows
    ]
    text = f"{problem}\n\n{report}\n\n" + "\n".join(lines) + "\n"
    (options.out / "report.txt").write_text(text)
    print(f"\n{text}\nfigures and report are in {options.out}/")
    return report


if __name__ == "__main__":
    main()
