"""A tracer that drifts through a random medium, in strong form, seen by few sensors.

u_t + a u_x - D(x) u_xx = 0 on (0, 1) x (0, 0.3),   a ~ U(0.5, 1.5),   log D Gaussian
"""

import torch

import pddlvm
from pddlvm import fem

NOISE = 0.01


def make(**options):
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 0.3))

    def tracer(u_t, u_x, u_xx, a, D):
        return u_t + a * u_x - D * u_xx

    def start(x):
        return torch.exp(-(((x - 0.4) / 0.15) ** 2)) * torch.sin(torch.pi * x)

    line = fem.Space(fem.interval(40))
    medium = pddlvm.KarhunenLoeve.on(line, 3, length=0.4, std=0.3, shift=-2.5)
    return pddlvm.CollocationProblem(
        "tracer",
        box,
        tracer,
        fields={"a": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)), "D": medium},
        along={"D": "x"},
        lift=start,
        hard=[box.start("t"), box.start("x"), box.end("x")],
        **options,
    )


def sensors(problem):
    """Values at five places and three times."""
    places = torch.linspace(0.15, 0.9, 5, dtype=torch.float64)
    times = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    return pddlvm.PointObservation(problem, torch.cartesian_prod(places, times), NOISE)
