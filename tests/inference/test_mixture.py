"""An equal mixture: its moments and density against the closed form of two Gaussians."""

import pytest
import torch
from checks import Known
from torch.distributions import Normal

import pddlvm
from pddlvm.amortized.resampled import Resampled
from pddlvm.inference.mixture import Mixture
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.sampling.coordinates import Coordinates

N = 20_000
CENTRES, STDS = (-1.0, 2.0), (0.5, 1.0)


def gaussian(centre: float, std: float) -> PushedGaussian:
    """Of one parameter, in a batch of one."""
    prior = pddlvm.ParameterSpace({"a": pddlvm.parameters.space.Block(1, pddlvm.Normal())})
    factor = torch.tensor([[[std]]], dtype=torch.float64)
    return PushedGaussian(Coordinates(prior, torch.tensor([[centre]], dtype=torch.float64), factor))


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture([gaussian(*one) for one in zip(CENTRES, STDS, strict=True)])


def test_moments(mixture):
    assert float(mixture.mean) == pytest.approx(0.5)
    # E z^2 = (1 + 1/4 + 4 + 1) / 2.
    assert float(mixture.std) == pytest.approx((3.125 - 0.25) ** 0.5)


def test_draws_have_these_moments(mixture):
    z = mixture.sample((N,), seed=0)
    assert z.shape == (N, 1, 1)
    # Four standard errors of the mean, and about as many of the standard deviation.
    torch.testing.assert_close(z.mean(0), mixture.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(0), mixture.std, atol=0.03, rtol=0)
    lagged = torch.corrcoef(torch.stack([z[:-1, 0, 0], z[1:, 0, 0]]))[0, 1]
    assert abs(float(lagged)) < 0.03


def test_density(mixture):
    z = torch.linspace(-3, 5, 9, dtype=torch.float64).reshape(-1, 1, 1)
    parts = [Normal(c, s).log_prob(z[..., 0]) for c, s in zip(CENTRES, STDS, strict=True)]
    expected = (0.5 * (parts[0].exp() + parts[1].exp())).log()
    torch.testing.assert_close(mixture.log_prob(z), expected)


def test_one_good_proposal_is_enough():
    def log_target(z):
        return Normal(2.0, 0.5).log_prob(z[:, 0])

    for parts in ([gaussian(-6.0, 0.3), gaussian(2.2, 0.6)], [gaussian(2.2, 0.6)] * 2):
        mixture = Mixture(parts)
        found = Resampled(mixture, [Known(mixture, log_target)])
        z = found.sample((4000,), seed=0)
        assert float(z.mean()) == pytest.approx(2.0, abs=0.05)
        assert float(z.std()) == pytest.approx(0.5, abs=0.03)


def test_quantiles_of_gaussians_are_those_of_draws():
    prior = pddlvm.ParameterSpace({"z": pddlvm.parameters.space.Block(2, pddlvm.LogNormal(0, 1))})
    parts = [
        PushedGaussian(
            Coordinates(
                prior,
                torch.tensor([[centre, 0.0]] * 3, dtype=torch.float64),
                0.3 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2),
            )
        )
        for centre in (-1.0, 2.0)
    ]
    masses = torch.tensor([[0.7, 0.2, 1.0], [0.3, 0.8, 0.0]], dtype=torch.float64)
    mixture, levels = Mixture(parts, masses), torch.tensor([0.05, 0.5, 0.9]).double()
    found = mixture.quantiles(levels, seed=0)
    draws = mixture.sample((40_000,), seed=1)
    shares = torch.stack([(draws < one).double().mean(0) for one in found])
    # Five standard errors.
    torch.testing.assert_close(
        shares, levels[:, None, None].expand_as(shares), rtol=0, atol=5 * 0.5 / 200
    )
