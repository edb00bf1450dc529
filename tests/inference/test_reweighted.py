"""Posteriors of few parameters that are not Gaussian, by quadrature; verdicts on the others."""

from types import SimpleNamespace

import pytest
import torch

import pddlvm
from pddlvm.inference.diagnostics import Diagnostics
from pddlvm.inference.laplace import laplace
from pddlvm.inference.reweighted import FEW, Gaussians, Reweighted, reweighted, tails
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.linalg.low_rank import LowRank
from pddlvm.parameters.space import Block
from problems import poisson

NOISE = 0.1
DATA = torch.tensor([[0.02, 0.05], [0.25, 0.2], [3.0, 2.9]], dtype=torch.float64)
"""At the lower bound, skewed towards it, and as good as Gaussian."""


class Growing(Surrogate):
    """h = exp(2 xi_1) (1, 1): it says little of small parameters."""

    def mean(self, xi):
        return (2 * xi[:, :1]).exp().expand(-1, 2)

    predict = mean

    def linearise(self, xi):
        slope = torch.zeros(len(xi), 2, xi.shape[1], dtype=xi.dtype)
        slope[..., 0] = 2 * self.mean(xi)
        return self.mean(xi), slope

    def error(self, xi):
        return LowRank.of_factor(xi.new_zeros(len(xi), 2, 0))


class Product(Growing):
    """h = z_1 z_2 (1, 1) / 3, for z from 1 to 5 a bent ridge."""

    def mean(self, xi):
        z = self.prior.unstandardise(xi)
        return (z.prod(-1, keepdim=True) / 3).expand(-1, 2)

    predict = mean

    def linearise(self, xi):
        return linearise(self.mean, xi)


def surrogate(kind=Growing, std=NOISE, **blocks):
    noise = pddlvm.PointObservation(poisson.make_1d(), [0.3, 0.6], std).noise
    return kind(pddlvm.ParameterSpace(blocks), SimpleNamespace(noise=noise))


def found(h, y=DATA):
    approximations = laplace(h, y)
    gaussians = Gaussians(approximations.modes, approximations.masses)
    return reweighted(h, y, gaussians, approximations.density)


@pytest.fixture(scope="module")
def one():
    return surrogate(z=Block(1, pddlvm.Uniform(-3.0, 1.0)))


@pytest.fixture(scope="module")
def by_quadrature():
    """z (n, 1, 1), and their probabilities (n, batch)."""
    z = torch.linspace(-3, 1, 8001, dtype=torch.float64)[:, None]
    h = surrogate(z=Block(1, pddlvm.Uniform(-3.0, 1.0)))
    misfit = DATA[None] - h.mean(h.prior.standardise(z))[:, None]
    return z[:, :, None], (-0.5 * (misfit / NOISE).square().sum(-1)).softmax(0)


def test_a_skewed_posterior_is_that_of_the_grid(one, by_quadrature):
    density, shapes = found(one)
    assert isinstance(density, Reweighted) and set(density.parts) == {0, 1}
    assert shapes.tolist() == [0, 0, 0]
    z, weights = by_quadrature
    mean = (weights[..., None] * z).sum(0)
    std = (weights[..., None] * (z - mean).square()).sum(0).sqrt()
    # Some 900 draws are worth 0.03 standard deviations; the Gaussians are off by more than 0.3.
    assert ((density.mean - mean).abs() < 0.1 * std)[:2].all()
    torch.testing.assert_close(density.std[:2], std[:2], rtol=0.08, atol=0)
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    limits = density.quantiles(levels, seed=0)
    below = (weights[:, None] * (z <= limits[..., 0])).sum(0)
    torch.testing.assert_close(below, levels[:, None].expand(3, 3), rtol=0, atol=0.04)
    draws = density.sample((4000,), seed=0)
    torch.testing.assert_close(draws[:, :2].mean(0), density.mean[:2], rtol=0, atol=0.06)


def test_a_bent_ridge_is_covered_by_further_rounds():
    h = surrogate(Product, z=Block(2, pddlvm.Uniform(1.0, 5.0)))
    y = torch.tensor([[2.0, 2.03]], dtype=torch.float64)
    density, shapes = found(h, y)
    assert isinstance(density, Reweighted) and shapes.tolist() == [0]
    axis = torch.linspace(1, 5, 1202, dtype=torch.float64)[1:-1]
    z = torch.cartesian_prod(axis, axis)
    misfit = y - h.mean(h.prior.standardise(z))
    weights = (-0.5 * (misfit / NOISE).square().sum(-1)).softmax(0)
    mean = weights @ z
    std = (weights @ (z - mean).square()).sqrt()
    # Two hundred draws, the least that is accepted, are right to 0.07.
    assert ((density.mean[0] - mean).abs() < 0.1 * std).all()
    torch.testing.assert_close(density.std[0], std, rtol=0.1, atol=0)


def test_its_density_integrates_to_one(one, by_quadrature):
    z, weights = by_quadrature
    inside = z[1:-1].expand(-1, len(DATA), 1)
    log_prob = found(one)[0].log_prob(inside)
    step = float(z[1, 0, 0] - z[0, 0, 0])
    # The evidence is that of some 900 draws. Beyond four deviations nothing is left to compare.
    expected, is_there = (weights[1:-1, :2] / step).log(), weights[1:-1, :2] > 1e-7
    torch.testing.assert_close(log_prob[:, :2][is_there], expected[is_there], rtol=0, atol=0.1)
    torch.testing.assert_close(
        log_prob.exp().sum(0) * step, torch.ones(3).double(), rtol=0, atol=0.1
    )
    assert torch.isinf(found(one)[0].log_prob(torch.full((3, 1), 1.5).double())).all()


def test_data_sets_do_not_see_their_neighbours(one):
    together = found(one)[0].mean
    alone = torch.cat([found(one, y[None])[0].mean for y in DATA])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_data_that_no_parameter_explains_have_an_answer_in_the_support(one):
    density, _ = found(one, torch.tensor([[500.0, -300.0]], dtype=torch.float64))
    assert one.prior.contains(density.sample((50,), seed=0)).all()
    assert torch.isfinite(density.std).all()


@pytest.mark.parametrize("n_parameters", [1, FEW + 1])
def test_a_verdict_knows_of_another_shape(n_parameters):
    """Skewed alike; of few parameters the answer is mended, of many it is not accepted."""
    blocks = {"z": Block(1, pddlvm.Uniform(-3.0, 1.0))}
    if n_parameters > 1:
        blocks["rest"] = Block(n_parameters - 1, pddlvm.Normal())
    h = surrogate(**blocks)
    approximations = laplace(h, DATA)
    gaussians = Gaussians(approximations.modes, approximations.masses)
    if n_parameters <= FEW:
        shapes = reweighted(h, DATA, gaussians, approximations.density)[1]
    else:
        shapes = tails(h, DATA, gaussians)
    evidence = Diagnostics(torch.Size([3]), lambda: approximations, 0.0, tails=lambda: shapes)
    said = evidence.verdict
    assert said[2] == "accept"
    # The first one is at the bound; k-hat of the second one is close to the threshold.
    assert said[0].startswith("refine: k-hat" if n_parameters > FEW else "accept"), said
    assert "gaussian_khat: " in str(evidence)


def test_a_ridge_that_no_draws_cover_is_not_accepted():
    h = surrogate(Product, 3e-3, z=Block(2, pddlvm.Uniform(1.0, 5.0)))
    density, shapes = found(h, torch.tensor([[3.0, 3.0]]).double())
    assert not isinstance(density, Reweighted)
    assert 0.7 <= float(shapes) < torch.inf


@pytest.mark.parametrize("method", ["laplace", "variational"])
def test_what_answers_is_held_against_the_surrogate(linear_model, method):
    obs = pddlvm.PointObservation(linear_model.problem, [0.2, 0.4, 0.6, 0.9], 0.01)
    y = obs.simulate(linear_model.problem.solve(linear_model.problem.prior.sample(seed=3)), seed=4)
    diagnostics = linear_model.infer(y, obs, method).diagnostics
    assert diagnostics.gaussian_khat.shape == () and diagnostics.gaussian_khat == 0
