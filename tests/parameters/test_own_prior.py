"""A prior of the user's own serves like those of the package."""

from dataclasses import dataclass

import torch
from torch.special import ndtr, ndtri

import pddlvm
from pddlvm import fem


@dataclass(frozen=True)
class Exponential(pddlvm.Prior):
    """z ~ Gamma(1, rate), in standard coordinates of a normal distribution."""

    rate: float = 1.0

    def standardise(self, z):
        return ndtri(-torch.expm1(-self.rate * z))

    def unstandardise(self, xi):
        return -ndtr(-xi).log() / self.rate

    def contains(self, z):
        return (z > 0) & torch.isfinite(z)

    def log_prob(self, z):
        inside = torch.tensor(self.rate).log() - self.rate * z
        return torch.where(z > 0, inside, -torch.inf)

    def standard_log_prob(self, xi):
        return torch.distributions.Normal(0.0, 1.0).log_prob(xi)

    def sample_standard(self, shape, generator):
        return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_an_own_prior_goes_all_the_way(tmp_path):
    space = fem.Space(fem.interval(8))
    energy = pddlvm.Energy(
        space.interior(), lambda u, du, x, f: 0.5 * (du * du).sum() - (1.0 + f) * u
    )
    field = pddlvm.Constant(Exponential(2.0))
    problem = pddlvm.Problem("own", space, [energy], {"f": field}, [pddlvm.Dirichlet(None)])
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())
    pddlvm.train(model, max_steps=50, calibrate=False)
    model.calibrate(128)
    z = problem.prior.sample((4,), seed=0)
    u = problem.solve(z)
    # float32 maps: the median is the parameter itself to some digits.
    torch.testing.assert_close(model.inverse(u).median, z, rtol=1e-2, atol=1e-3)
    observation = pddlvm.PointObservation(problem, [0.25, 0.5], noise_std=1e-3)
    posterior = model.infer(observation.apply(u), observation, method="laplace")
    # u is (1 + f) / 8 at most: noise of 0.001 leaves about 0.01 of f.
    assert ((posterior.mean - z).abs() < 0.05).all()
    assert (posterior.sample((50,), seed=0) > 0).all()
    model.save(tmp_path / "own.pt")
    loaded = pddlvm.load(tmp_path / "own.pt", problem)
    assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


def test_normal_numbers_become_draws_by_a_table():
    prior = Exponential()
    eta = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
    z = prior.unstandardise(prior.from_normal(eta))
    # The closed form, with the tail that has the digits.
    expected = -torch.special.log_ndtr(-eta)
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-3)
