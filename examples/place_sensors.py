"""Where to measure: sensors that are placed, beside regular and random ones of the same number.

    -div(kappa grad u) = 1 on the unit square,   u = 0 on the left, no flux through the other sides
    kappa log-normal,   y_i = u(x_i) + N(0, 0.02^2)

Sensors are chosen among a grid of points by what they tell of all parameters, or of one quantity,
the mean of u over a patch on the right. Then 100 data sets are simulated with the finite element
solver, and the spreads of their posteriors compared: what was promised before anything was measured
has to be seen there. Sensors for a goal leave most parameters open, and posteriors far from
Gaussian: all of them are sampled, side by side, by Metropolis-adjusted Langevin steps

    xi' = xi + h/2 L L^T d log p(xi | y) / dxi + h^(1/2) L e,    e ~ N(0, I)

with L of the Laplace approximation, from its draws.

Run:  python examples/place_sensors.py --out place_sensors
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import pddlvm
from pddlvm import plot
from problems import poisson

NOISE = 0.02
N_CHAINS = 8


def right_half(problem: pddlvm.Problem) -> pddlvm.Quantity:
    """The mean of u over a patch near the right side."""
    patch = [lambda x: (x[:, 0] > 0.7) & (abs(x[:, 1] - 0.5) < 0.2)]
    return pddlvm.Quantity(problem, pddlvm.average_matrix(problem, patch), "mean on the right")


def grid(n: int) -> Tensor:
    """n x n points inside of the square."""
    ticks = torch.linspace(0, 1, n + 2, dtype=torch.float64)[1:-1]
    return torch.cartesian_prod(ticks, ticks)


class Chains:
    """N_CHAINS chains for each of n data sets y, (N_CHAINS, n, d), in standard coordinates."""

    def __init__(
        self, model: pddlvm.LatentVariableModel, sensors: pddlvm.LinearObservation, y: Tensor
    ) -> None:
        self.surrogate, self.sensors, self.y = model.surrogate(sensors), sensors, y
        standardise = model.problem.prior.standardise
        near = standardise(model.infer(y, sensors, "laplace").sample((400,), seed=2))
        away = near - near.mean(0)
        covariance = torch.einsum("cni,cnj->nij", away, away) / (len(near) - 1)
        self.factor = torch.linalg.cholesky(covariance)
        # Some draws of an approximation are far from what it approximates.
        best = self.density(near)[0].topk(N_CHAINS, dim=0).indices
        self.xi = near.gather(0, best[..., None].expand(-1, -1, near.shape[-1]))
        self.here = self.density(self.xi)
        self.step = torch.full((len(y), 1), 0.3, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(4)

    def density(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """log p(xi | y) up to a constant, (N_CHAINS, n), and its gradient times L^T."""
        xi = xi.detach().requires_grad_()
        misfit = self.y - self.surrogate.predict(xi.flatten(0, 1)).unflatten(0, xi.shape[:2])
        value = self.sensors.noise.log_prob(misfit) - 0.5 * xi.square().sum(-1)
        (slope,) = torch.autograd.grad(value.sum(), xi)
        return value.detach(), self.times(slope, transposed=True)

    def times(self, x: Tensor, *, transposed: bool = False) -> Tensor:
        """L x of each data set."""
        factor = self.factor.mT if transposed else self.factor
        return (factor @ x[..., None])[..., 0]

    def advance(self, *, adapt: bool) -> None:
        """One step of all chains."""
        h, (value, slope) = self.step, self.here
        e = torch.randn(self.xi.shape, generator=self.generator, dtype=torch.float64)
        w = 0.5 * h * slope + h.sqrt() * e
        xi = self.xi + self.times(w)
        new_value, new_slope = self.density(xi)
        back = (-w - 0.5 * h * new_slope).square().sum(-1) / h[:, 0]
        log_ratio = new_value - value - 0.5 * back + 0.5 * e.square().sum(-1)
        level = torch.rand(value.shape, generator=self.generator, dtype=torch.float64).log()
        taken = level < log_ratio
        self.xi = torch.where(taken[..., None], xi, self.xi)
        slope = torch.where(taken[..., None], new_slope, slope)
        self.here = torch.where(taken, new_value, value), slope
        if adapt:
            rate = taken.double().mean(0)[:, None]
            self.step = (self.step * (0.1 * (rate - 0.57)).exp()).clamp(max=1.5)

    def run(self, n_steps: int) -> Tensor:
        """Draws of the second half, (n_kept, N_CHAINS, n, d)."""
        kept = []
        for k in range(n_steps):
            self.advance(adapt=2 * k < n_steps)
            if 2 * k >= n_steps and k % 10 == 9:
                kept.append(self.xi)
        return torch.stack(kept)


def spreads(
    model: pddlvm.LatentVariableModel,
    sensors: pddlvm.LinearObservation,
    goal: pddlvm.Quantity,
    u: Tensor,
    n_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each data set: log volume of the posterior, spread of the goal, R-hat of that."""
    xi = Chains(model, sensors, sensors.simulate(u, seed=1)).run(n_steps)
    flat = xi.flatten(0, 1)
    away = flat - flat.mean(0)
    covariance = torch.einsum("cni,cnj->nij", away, away) / (len(flat) - 1)
    volume = 0.5 * torch.linalg.slogdet(covariance).logabsdet
    parts = model.problem.prior.unstandardise(xi).flatten(0, 2).split(1000)
    values = torch.cat([goal(model.forward(z).mean) for z in parts])[:, 0].reshape(xi.shape[:3])
    within = values.var(0).mean(0)
    rhat = (1 + values.mean(0).var(0) / within).sqrt()
    return volume, values.flatten(0, 1).std(0), rhat


def compare(ax: Axes, found: dict[str, Tensor], label: str) -> None:
    """A box of each way to place."""
    ax.boxplot(list(found.values()), tick_labels=list(found), showfliers=False)
    ax.set_ylabel(label)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Train, place, infer, write the figure; medians of both spreads by the way to place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("place_sensors"), help="folder")
    parser.add_argument("--n", type=int, default=32, help="cells per side")
    parser.add_argument("--terms", type=int, default=16, help="parameters of the conductivity")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    parser.add_argument("--side", type=int, default=3, help="regular sensors per side")
    parser.add_argument("--data", type=int, default=100, help="data sets")
    parser.add_argument("--chain-steps", type=int, default=1000, help="steps of each chain")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = poisson.make(options.n, n_terms=options.terms, source=1.0, dirichlet={"left": 0.0})
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)

    candidates, goal, n = grid(31), right_half(problem), options.side**2
    every = pddlvm.place_sensors(model, candidates, n, NOISE)
    for_goal = pddlvm.place_sensors(model, candidates, n, NOISE, goal)
    generator = torch.Generator().manual_seed(0)
    random = candidates[torch.randperm(len(candidates), generator=generator)[:n]]
    ways = {
        "placed": every.observation,
        "for the goal": for_goal.observation,
        "regular": pddlvm.PointObservation(problem, grid(options.side), NOISE),
        "random": pddlvm.PointObservation(problem, random, NOISE),
    }
    u = problem.solve(problem.prior.sample((options.data,), seed=3))
    found = {name: spreads(model, own, goal, u, options.chain_steps) for name, own in ways.items()}

    figure, axes = plt.subplots(2, 2, figsize=(11, 9), layout="constrained")
    plot.sensors(every, axes[0, 0], title="what tells of all parameters")
    plot.sensors(for_goal, axes[0, 1], title="what tells of the mean on the right")
    compare(axes[1, 0], {k: v for k, (v, _, _) in found.items()}, "log volume, nats")
    compare(axes[1, 1], {k: s for k, (_, s, _) in found.items()}, "posterior std of the goal")
    figure.savefig(options.out / "sensors.png", dpi=120)
    plt.close(figure)

    medians = {k: (float(v.median()), float(s.median())) for k, (v, s, _) in found.items()}
    worst = max(float(rhat.max()) for _, _, rhat in found.values())
    volume, spread = found["placed"][0], found["for the goal"][1]
    lines = [
        f"{'':<14}{'log volume':>12}{'placed smaller':>16}{'goal std':>12}{'goal smaller':>14}"
    ]
    for k, (v, s, _) in found.items():
        shares = [float((a < b).double().mean()) for a, b in ((volume, v), (spread, s))]
        cells = f"{medians[k][0]:>12.3f}{shares[0]:>16.0%}{medians[k][1]:>12.5f}{shares[1]:>14.0%}"
        lines.append(f"{k:<14}{cells}")
    lines += [f"of {options.data} data sets; R-hat of the goal at most {worst:.2f}"]
    (options.out / "report.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return medians


if __name__ == "__main__":
    main()
