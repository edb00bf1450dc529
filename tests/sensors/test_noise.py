"""Noise of unknown level against a fine quadrature, and draws that leave global streams alone."""

import math
import random

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, kstest, t

import pddlvm


def log_density(n, spread, size):
    """Of n misfits size * scale, s integrated out by adaptive quadrature around its mode."""

    def log_integrand(x):
        square = n * size**2 * math.exp(-2 * spread * x)
        return -0.5 * (x * x + square) - n * (spread * x + 0.5 * math.log(2 * math.pi))

    grid = np.linspace(-30, 30, 60001)
    values = [log_integrand(x) for x in grid]
    mode, most = grid[int(np.argmax(values))], max(values)
    inside = grid[np.array(values) > most - 60]
    total = quad(
        lambda x: math.exp(log_integrand(x) - most),
        inside.min(),
        inside.max(),
        points=[mode],
        limit=500,
        epsabs=0,
        epsrel=1e-10,
    )[0]
    return most + math.log(total / math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("n", "spread", "size"),
    [(1, 0.1, 3.0), (15, 2.0, 1e-3), (1000, 2.0, 1.3), (5000, 1.0, 0.4), (10**6, 0.5, 7.0)],
)
def test_an_unknown_level_is_integrated_out(n, spread, size):
    noise = pddlvm.UnknownStd(1.0, spread, n)
    misfit = torch.full((n,), size, dtype=torch.float64)
    # Both rules converge geometrically; what is left is rounding of a sum of some 1e7.
    assert float(noise.log_prob(misfit)) == pytest.approx(log_density(n, spread, size), abs=1e-6)


def test_the_density_of_an_unknown_level_falls_smoothly():
    n = 5000
    size = torch.linspace(0.5, 2.0, 400, dtype=torch.float64)
    value = pddlvm.UnknownStd(0.01, 1.0, n).log_prob(0.01 * size[:, None].expand(-1, n))
    # Where s = size: log p = -n log size + a smooth prior of log s; ripples would be modes.
    assert (value.diff() < 0).all() and (value.diff().diff() > 0).all()


@pytest.mark.parametrize("n", [1, 5000])
def test_its_precision_is_that_of_its_gradient(n):
    noise = pddlvm.UnknownStd(0.01, 1.0, n)
    misfit = 0.02 * torch.randn(n, generator=torch.Generator().manual_seed(0)).double()
    misfit.requires_grad_()
    (gradient,) = torch.autograd.grad(noise.log_prob(misfit), misfit)
    weights = noise.precision(misfit.detach()).root.square()
    torch.testing.assert_close(gradient, -weights * misfit.detach())


@pytest.mark.parametrize("n", [2, 300])
def test_the_square_of_an_unknown_level_is_a_chi_square(n):
    noise = pddlvm.UnknownStd(0.01, 1.0, n)
    draws = noise.sample((500,), torch.Generator().manual_seed(0))
    assert kstest(noise.square(draws).numpy(), chi2(n).cdf).pvalue > 1e-3


def test_student_draws_follow_their_density():
    draws = pddlvm.StudentT(0.5, 1, 3.0).sample((4000,), torch.Generator().manual_seed(0))
    assert kstest(draws[:, 0].numpy() / 0.5, t(3.0).cdf).pvalue > 1e-3


NOISES = [pddlvm.StudentT(0.1, 3), pddlvm.UnknownStd(0.1, 0.5, 3), pddlvm.Gaussian(0.1, 3)]


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_draws_from_a_generator_do_not_touch_the_global_streams(noise):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    noise.sample((10,), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]  # noqa: NPY002


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_draws_without_a_generator_differ(noise):
    assert not torch.equal(noise.sample((10,), None), noise.sample((10,), None))
