"""Models that are made in no time, whose functions can be pickled."""

import parabolic
import torch

import pddlvm
from problems import poisson


def half_wave(x):
    return torch.sin(torch.pi * x)


def slow_heat(u_t, u_xx, k):
    return u_t - k * u_xx


def galerkin():
    return pddlvm.LatentVariableModel(poisson.make(4, 2), basis=pddlvm.EnergyModes(4))


def strong():
    problem = pddlvm.CollocationProblem(
        "heat",
        (box := pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))),
        slow_heat,
        {"k": pddlvm.Constant(pddlvm.Uniform(0.1, 0.2))},
        lift=half_wave,
        hard=[box.start("t"), box.start("x"), box.end("x")],
        grid=(6, 6),
        nodes=(8, 6),
    )
    return pddlvm.LatentVariableModel(problem, n_functions=8, points=pddlvm.AdaptivePoints(16))


def in_time():
    return pddlvm.LatentVariableModel(parabolic.make("heat", 4, 6), n_shapes=4, n_modes=6)
