"""A digital twin: four thermocouples on a plate, and what they say while they say it.

    du/dt - div(k(x; z) grad u) = source in the insert,   u = 0 on the left,   u(0) = start
    y = u at four points and twenty times + noise that forgets, with gaps

A plate with a hole is cold at its left end, and an insert heats it (`problems.heat`). Neither the
conductivity, a field, nor the heat input is known. At each time the sensors send four temperatures,
and `model.assimilate` answers with a posterior before the next ones come. The figures: the series
after half of the times and after all of them, with what the twin says of those to come; the heat
input as it becomes known; the conductivity; and the temperature of the whole plate.

Run:  python examples/digital_twin.py --out twin
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

import pddlvm
from pddlvm import plot
from problems import heat

POINTS = [[0.1, 0.5], [0.9, 0.5], [1.5, 0.5], [1.9, 0.2]]
TIMES = np.linspace(0.1, 2.0, 20)
NOISE = pddlvm.AR1(0.01, TIMES, len(POINTS), correlation_time=0.1)


def measured(sensors: pddlvm.PointObservation, z: torch.Tensor) -> torch.Tensor:
    """Temperatures, (20, 4): the third thermocouple fails for a while."""
    y = sensors.simulate(sensors.problem.solve(z), seed=0).reshape(len(TIMES), len(POINTS))
    y[5:9, 2] = torch.nan
    return y


def live(posteriors: list[pddlvm.Posterior], true: float, source: int) -> Figure:
    """Series and predictions, and the heat input after each arrival."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    middle = len(posteriors) // 2
    for ax, k in ((panels[0], middle), (panels[1], len(posteriors))):
        plot.series(posteriors[k - 1], ax)
        ax.set_title(f"known at t = {TIMES[k - 1]:g}")
    panels[0].set_ylim(panels[1].get_ylim())
    panels[0].axvline(TIMES[middle - 1], color="black", linewidth=0.8)
    mean = np.array([float(found.mean[source]) for found in posteriors])
    std = np.array([float(found.std[source]) for found in posteriors])
    panels[2].fill_between(TIMES, mean - 2 * std, mean + 2 * std, alpha=0.3, label="±2σ")
    panels[2].plot(TIMES, mean, label="mean")
    panels[2].axhline(true, color="black", linestyle="--", label="true")
    panels[2].set(xlabel="t", ylabel="heat input", title="heat input, as it becomes known")
    panels[2].legend()
    return figure


def conductivity(
    problem: pddlvm.TransientProblem, posteriors: list[pddlvm.Posterior], z: torch.Tensor
) -> Figure:
    """The true field, and what is known of it early and late."""
    shown = {"true conductivity": z} | {
        f"known at t = {TIMES[k - 1]:g}": posteriors[k - 1].mean for k in (4, len(posteriors))
    }
    fields = {title: problem.field_values(one, "k") for title, one in shown.items()}
    limits = (0.0, max(float(values.max()) for values in fields.values()))
    figure, panels = plt.subplots(1, 3, figsize=(14, 2.8), layout="constrained")
    for ax, (title, values) in zip(panels, fields.items(), strict=True):
        plot.field(problem, values, ax, title=title, limits=limits, label="k")
        ax.plot(*np.array(POINTS).T, "w^", markeredgecolor="black")
    return figure


def main(argv: list[str] | None = None) -> tuple[pddlvm.Posterior, pddlvm.Posterior]:
    """Train, assimilate, draw; returns the last posterior, and that of all data at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=25.0, help="of training")
    parser.add_argument("--steps", type=int, help="of training, at most")
    parser.add_argument("--n", type=int, default=20, help="cells per height of the plate")
    parser.add_argument("--out", type=Path, default=Path("twin"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)

    model = pddlvm.LatentVariableModel(heat.make(options.n), seed=0)
    pddlvm.train(model, max_seconds=options.seconds, max_steps=options.steps, progress=True)
    problem = model.problem
    sensors = pddlvm.PointObservation(problem, POINTS, NOISE, times=TIMES)
    z = problem.prior.sample(seed=5)
    y, source = measured(sensors, z), problem.prior.slices["source"].start

    posteriors, begin = [], time.perf_counter()
    print("   t   heat input   +-       ms")
    for t, found in zip(TIMES, model.assimilate(zip(TIMES, y, strict=True), sensors), strict=True):
        mean, std = float(found.mean[source]), float(found.std[source])
        milliseconds = 1000 * (time.perf_counter() - begin)
        print(f"{t:4.1f} {mean:11.3f} {std:7.3f} {milliseconds:6.0f}")
        posteriors.append(found)
        begin = time.perf_counter()
    last = posteriors[-1]
    print(f"true {float(z[source]):11.3f}           {last.diagnostics.verdict}")

    live(posteriors, float(z[source]), source).savefig(options.out / "series.png", dpi=120)
    conductivity(problem, posteriors, z).savefig(options.out / "conductivity.png", dpi=120)
    u = last.solution(20).mean
    strip = plot.filmstrip(problem, u, times=[0.1, 0.5, 1.0, 2.0], label="temperature")
    strip.savefig(options.out / "states.png", dpi=120)
    plt.close("all")
    return last, model.infer(y.flatten(), sensors)


if __name__ == "__main__":
    main()
