"""Where should a roof be thick? The stiffest one of a volume, certified by finite elements.

    minimise  f . u(z)    over the thickness t = 0.25 exp(sum_i z_i g_i),    |z_i| <= 2.5,
    mean of t over the roof  <=  0.25

The roof is that of Scordelis and Lo, under its own weight, which is held: f . u is its compliance.
The optimiser asks the trained map, whose answers are corrected in the reduced basis, for values and
gradients. What it finds is then judged by finite elements: the compliance there, and how much an
optimiser that solves the PDE, with its adjoint, still gains from there.

Run:  python examples/optimal_roof.py --out optimal_roof
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import NonlinearConstraint, minimize
from torch import Tensor

import pddlvm
from pddlvm import plot
from problems import shell

FARTHEST = 2.5
"""Standard deviations of the prior, in each direction: where the map was trained."""

Array = NDArray[np.float64]
Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Optimum:
    """A thickness, its compliance, and what finding it took."""

    z: Tensor
    compliance: float
    n_solves: int
    seconds: float


class Design:
    """Compliance and volume of roofs, as functions of the thickness alone, load factor 1.

    Args:
        problem: `shell.make_roof`; the last parameter is the load.
    """

    def __init__(self, problem: pddlvm.Problem) -> None:
        self.problem = problem
        self.uniform = torch.zeros(problem.n_parameters - 1, dtype=torch.float64)
        self.work = pddlvm.Quantity(problem, pddlvm.compliance(problem), "compliance")
        areas = torch.from_numpy(problem.space.cell_volumes)
        self.weights = areas / areas.sum()

    def with_load(self, design: Tensor) -> Tensor:
        """z of a thickness."""
        return torch.cat([design, design.new_ones(1)])

    def compliance(self, solve: Solve, design: Tensor) -> Tensor:
        """f . u, ()."""
        z = self.with_load(design)
        return self.work(solve(z), z)[0]

    def volume(self, design: Tensor) -> Tensor:
        """Mean thickness, ()."""
        return self.weights @ self.problem.parameter_field(self.with_load(design), "thickness")

    def optimise(self, solve: Solve, start: Tensor) -> Optimum:
        """Sequential quadratic programming with the gradients of `solve`."""
        unit = float(self.compliance(solve, self.uniform).detach())
        most = float(self.volume(self.uniform))

        def graded(function: Callable[[Tensor], Tensor]) -> Callable[[Array], tuple[float, Array]]:
            def value(x: Array) -> tuple[float, Array]:
                z = torch.tensor(x, dtype=torch.float64, requires_grad=True)
                found = function(z)
                (slope,) = torch.autograd.grad(found, z)
                return float(found.detach()), slope.numpy()

            return value

        volume = graded(lambda z: 1 - self.volume(z) / most)
        begin = perf_counter()
        found = minimize(
            graded(lambda z: self.compliance(solve, z) / unit),
            start.numpy(),
            jac=True,
            method="SLSQP",
            bounds=[(-FARTHEST, FARTHEST)] * len(start),
            constraints=NonlinearConstraint(
                lambda x: [volume(x)[0]], 0.0, np.inf, jac=lambda x: volume(x)[1][None]
            ),
            options={"ftol": 1e-10, "maxiter": 200},
        )
        seconds = perf_counter() - begin
        return Optimum(torch.from_numpy(found.x), unit * float(found.fun), found.nfev, seconds)


def report_of(design: Design, by_map: Optimum, by_solves: Optimum) -> str:
    """What was gained, and what finite elements say of it."""
    solve = design.problem.solve
    uniform = float(design.compliance(solve, design.uniform))
    there = float(design.compliance(solve, by_map.z))
    left = 1 - by_solves.compliance / there
    moved = float((by_solves.z - by_map.z).abs().max())
    return "\n".join(
        [
            f"compliance of the uniform roof      {uniform:.6g}",
            f"of the optimum, by the map          {by_map.compliance:.6g}",
            f"of the optimum, by finite elements  {there:.6g}, {1 - there / uniform:.1%} less",
            f"error of the map there              {abs(by_map.compliance / there - 1):.1e}",
            f"what solving the PDE still gains    {left:.1e}, moving z by {moved:.1e}",
            f"mean thickness, before and after    {float(design.volume(design.uniform)):.6g}, "
            f"{float(design.volume(by_map.z)):.6g}",
            f"optimiser on the map                {by_map.n_solves} values and gradients, "
            f"{1e3 * by_map.seconds / by_map.n_solves:.1f} ms each",
            f"on finite elements, from there      {by_solves.n_solves}, "
            f"{1e3 * by_solves.seconds / by_solves.n_solves:.1f} ms each",
        ]
    )


def main(arguments: list[str] | None = None) -> tuple[Design, Optimum, Optimum]:
    """Train, optimise, certify; write a figure and a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("optimal_roof"), help="folder")
    parser.add_argument("--n", type=int, default=20, help="cells per side")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time")
    parser.add_argument("--steps", type=int, default=None, help="limit on the training steps")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    problem = shell.make_roof(options.n)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)

    design = Design(problem)
    by_map = design.optimise(lambda z: model.forward(z, corrections=1).mean, design.uniform)
    by_solves = design.optimise(problem.solve, by_map.z)
    text = report_of(design, by_map, by_solves)
    (options.out / "report.txt").write_text(f"{problem}\n\n{text}\n")
    print(f"\n{text}\n\nfigure and report are in {options.out}/")

    figure = plt.figure(figsize=(12, 4), layout="constrained")
    roofs = {"uniform": design.uniform, "optimal": by_map.z}
    moved = {name: problem.solve(design.with_load(z)) for name, z in roofs.items()}
    # Of each node its displacement and its rotation, three numbers each.
    largest = float(moved["uniform"].reshape(-1, 6)[:, :3].norm(dim=-1).max())
    for k, (name, u) in enumerate(moved.items()):
        ax = figure.add_subplot(1, 3, k + 1, projection="3d")
        title = f"displacement, {name} thickness"
        plot.field(problem, u, ax, title=title, limits=(0.0, largest))
    ax = figure.add_subplot(1, 3, 3, projection="3d")
    thickness = problem.parameter_field(design.with_load(by_map.z), "thickness")
    plot.field(problem, thickness, ax, title="optimal thickness")
    figure.savefig(options.out / "optimum.png", dpi=120)
    plt.close(figure)
    return design, by_map, by_solves


if __name__ == "__main__":
    main()
