"""Gaussians around means, against quadrature."""

import copy
from types import SimpleNamespace

import joblib
import pytest
import torch

import pddlvm
from pddlvm.inference import centred as centred_module
from pddlvm.inference import methods as methods_module
from pddlvm.inference.centred import centred
from pddlvm.inference.laplace import laplace
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.inference.reweighted import Gaussians, tails
from pddlvm.inference.search import search
from pddlvm.latent.surrogate import Surrogate
from pddlvm.linalg.derivatives import linearise
from pddlvm.linalg.low_rank import LowRank
from pddlvm.parameters.space import Block
from pddlvm.sampling.coordinates import Coordinates
from problems import poisson

NOISE, D = 0.3, 4
DATA = torch.tensor([[1.0, 0.7, 1.5, 0.5], [2.0, 1.0, 1.0, 1.2]], dtype=torch.float64)
GRID = torch.linspace(-8, 8, 801, dtype=torch.float64)


class Each(Surrogate):
    """y_j = f(xi_j) + e_j: each posterior is one integral."""

    def mean(self, xi):
        return (0.5 * xi).exp()

    predict = mean

    def linearise(self, xi):
        return linearise(self.mean, xi)

    def error(self, xi):
        return LowRank.of_factor(xi.new_zeros(len(xi), D, 0))


class Ridge(Each):
    """y = (xi_1 + xi_2^2, xi_2, ...) of pairs, the second known by a part of its noise alone."""

    def mean(self, xi):
        a, b = xi.unflatten(-1, (2, 2)).unbind(-1)
        return torch.stack([a + 0.3 * b.square(), 0.003 * b], dim=-1).flatten(-2)


class Straight(Each):
    def mean(self, xi):
        return 1 + 0.5 * xi


class Bent(Each):
    """y = (xi_1 + xi_2^2, xi_2, ...), of pairs."""

    def mean(self, xi):
        a, b = xi.unflatten(-1, (2, 2)).unbind(-1)
        return torch.stack([a + 0.1 * b.square(), 0.3 * b], dim=-1).flatten(-2)


@pytest.fixture(scope="module")
def bent_model():
    basis = pddlvm.ResidualEnriched(n_modes=16)
    model = pddlvm.LatentVariableModel(poisson.make(8, n_terms=4), basis=basis)
    pddlvm.train(model, max_steps=40)
    return model


def surrogate(kind, prior=None, noise=NOISE):
    noise = pddlvm.PointObservation(poisson.make_1d(), [0.2, 0.4, 0.6, 0.8], noise).noise
    blocks = {"z": Block(D, prior or pddlvm.Normal())}
    return kind(pddlvm.ParameterSpace(blocks), SimpleNamespace(noise=noise))


def exact_mean(h, y):
    """By quadrature, of pairs of parameters, (batch, D)."""
    pairs = torch.cartesian_prod(GRID[::4], GRID[::4])
    data = h.mean(pairs.repeat(1, 2))[:, :2]
    found = []
    for own in y.unflatten(-1, (2, 2)).flatten(0, 1):
        log = -0.5 * ((own - data) / NOISE).square().sum(-1) - 0.5 * pairs.square().sum(-1)
        found.append(log.softmax(0) @ pairs)
    return torch.stack(found).reshape(y.shape)


@pytest.mark.parametrize("kind", [Each, Bent])
def test_the_mean_is_the_exact_one_to_second_order(kind):
    h = surrogate(kind)
    at = laplace(h, DATA).modes
    better, exact = centred(h, DATA, at), exact_mean(h, DATA)
    std = at.factor[0].square().sum(-1).sqrt()
    before, after = (((x.centre[0] - exact) / std).abs() for x in (at, better))
    assert before.amax() > 0.08
    # What is left is of higher order.
    assert after.amax() < 0.5 * before.amax()
    assert after.mean() < 0.35 * before.mean()
    torch.testing.assert_close(better.factor, at.factor)


def test_another_search_for_the_same_maximum_ends_at_the_same_mean():
    """Of a narrow, bent ridge a factor that is off by little lies beside the ridge."""
    h = surrogate(Ridge, noise=0.01)
    at = laplace(h, DATA).modes
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(at.factor.shape, generator=generator, dtype=torch.float64)
    std = at.factor.square().sum(-1).sqrt()
    other = Coordinates(at.prior, at.centre, at.factor + 1e-3 * std[..., None] * noise)
    turned = Coordinates(at.prior, at.centre, at.factor.flip(-1))
    mean = centred(h, DATA, at).centre
    assert ((mean - at.centre).abs() / std).amax() > 0.1
    for same in (other, turned):
        assert ((centred(h, DATA, same).centre - mean).abs() / std).amax() < 1e-3


def test_of_a_linear_model_it_is_the_maximum():
    h = surrogate(Straight)
    at = laplace(h, DATA).modes
    torch.testing.assert_close(centred(h, DATA, at).centre, at.centre, rtol=0, atol=1e-8)


def test_missing_values_and_bounds_are_respected():
    h = surrogate(Each, pddlvm.Uniform(-1.0, 1.0))
    y = DATA.clone()
    y[0, 1] = torch.nan
    at = laplace(h, y).modes
    better = centred(h, y, at)
    # Without data the density of the unbounded parameter is symmetric.
    torch.testing.assert_close(better.centre[0, 0, 1], at.centre[0, 0, 1], rtol=0, atol=1e-8)
    std = at.factor.square().sum(-1).sqrt()
    assert ((better.centre - at.centre).abs() <= (0.5 + 1e-12) * std).all()
    alone = centred(h, y[1:], laplace(h, y[1:]).modes).centre
    torch.testing.assert_close(better.centre[:, 1:], alone)


def test_infer_answers_with_means(bent_model):
    problem = bent_model.problem
    obs = pddlvm.PointObservation(problem, [[0.3, 0.4], [0.7, 0.6]], 0.01)
    y = obs.simulate(problem.solve(problem.prior.sample((2,), seed=3)), seed=4)
    posterior = bent_model.infer(y, obs)
    surrogate = bent_model.surrogate(obs, corrections=1)
    found = search(surrogate, y)
    better = PushedGaussian(centred(surrogate, y, found.modes).of(0))
    torch.testing.assert_close(posterior.mean, better.mean)
    assert not torch.allclose(posterior.mean, found.density.mean, atol=1e-3)
    # The diagnostics are those of the search and of these Gaussians.
    expected = tails(surrogate, y, Gaussians(centred(surrogate, y, found.modes), found.masses))
    torch.testing.assert_close(posterior.diagnostics.gaussian_khat, expected)


def test_means_are_made_when_they_are_asked_for_and_once(bent_model, monkeypatch):
    made = []
    monkeypatch.setattr(
        methods_module, "centred", lambda *a: made.append(0) or centred(*a), raising=True
    )
    problem = bent_model.problem
    obs = pddlvm.PointObservation(problem, [[0.3, 0.4], [0.7, 0.6]], 0.01)
    y = obs.simulate(problem.solve(problem.prior.sample((2,), seed=3)), seed=4)
    posterior = bent_model.infer(y, obs)
    assert posterior.diagnostics.masses.shape == (2, 1) and not made
    assert posterior.mean.shape == posterior.std.shape == posterior.sample(seed=0).shape
    assert posterior.diagnostics.gaussian_khat.shape == (2,)
    assert len(made) == 1
    model = copy.deepcopy(bent_model)
    late = model.infer(y, obs)
    read = model.infer(y, obs)
    expected = read.mean
    model.calibrate(64)
    with pytest.raises(pddlvm.StaleError, match="ask the model again"):
        _ = late.mean
    assert torch.equal(read.mean, expected)


def test_means_on_workers_are_those_in_turn(monkeypatch):
    h = surrogate(Bent)
    y = DATA.repeat(3, 1)
    at = laplace(h, y).modes
    expected = centred(h, y, at).centre
    monkeypatch.setattr(centred_module, "_PER_WORKER", 2)
    monkeypatch.setattr(centred_module, "_CHUNK", 1)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        torch.testing.assert_close(centred(h, y, at).centre, expected, rtol=0, atol=1e-12)
