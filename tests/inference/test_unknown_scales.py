"""Rank calibration of what is unknown beside a field: its length, and the level of the noise."""

import numpy as np
import pytest
import scipy.stats
import torch

import pddlvm
from pddlvm import fem

pytestmark = pytest.mark.slow

LINE = fem.Space(fem.interval(40))
NOISE = pddlvm.UnknownStd(scale=0.002, spread=0.5, n=9)
N_DATA, N_DRAWS = 300, 99


def strain(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


def problem():
    field = pddlvm.KarhunenLoeve.on(LINE, 4, length=pddlvm.LogUniform(0.15, 0.6), std=0.7)
    terms = [pddlvm.Energy(LINE.interior(), strain)]
    return pddlvm.Problem("line", LINE, terms, {"k": field}, [pddlvm.Dirichlet(None)])


def p_values(method):
    """Of the ranks of all parameters and of the level, over data that reference solutions gave."""
    model = pddlvm.LatentVariableModel(problem(), seed=0)
    pddlvm.train(model, max_steps=400)
    sensors = pddlvm.PointObservation(model.problem, np.linspace(0.1, 0.9, 9), NOISE)
    if method == "amortized":
        model.amortize(sensors, max_steps=1500)
    generator = torch.Generator().manual_seed(1)
    z = model.problem.prior.sample((N_DATA,), generator=generator)
    s = (NOISE.spread * torch.randn(N_DATA, generator=generator).double()).exp() * NOISE.scale
    noise = torch.randn(N_DATA, 9, generator=generator).double() * s[:, None]
    posterior = model.infer(sensors.apply(model.problem.solve(z)) + noise, sensors, method)
    drawn = torch.cat(
        [posterior.sample((N_DRAWS,), seed=2), posterior.noise_std.samples[:N_DRAWS, :, None]], -1
    )
    ranks = (drawn < torch.cat([z, s[:, None]], dim=-1)).sum(0).numpy()
    shares = (ranks + np.random.default_rng(0).random(ranks.shape)) / (N_DRAWS + 1)
    return np.array([scipy.stats.kstest(x, "uniform").pvalue for x in shares.T])


def test_ranks_of_length_and_noise_level_are_uniform():
    found = p_values("amortized")
    # The smallest of six, shared among them.
    assert found.min() * len(found) > 0.01, found
