"""Resampled draws have the distribution of the target, not that of the proposal."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from checks import Known
from torch import Tensor
from torch.distributions import MultivariateNormal

from pddlvm.amortized.resampled import Resampled
from pddlvm.inference.density import Density
from pddlvm.sampling.statistics import khat, smoothed_weights

N = 4000
CENTRES = torch.tensor([[0.0, 0.0], [3.0, -1.0]], dtype=torch.float64)
RIDGE = torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Wide(Density):
    """Independent normals of twice the width, one for each data set."""

    centres: Tensor

    @property
    def mean(self) -> Tensor:
        return self.centres

    @property
    def std(self) -> Tensor:
        return torch.full_like(self.centres, 2.0)

    def sample(self, shape=(), *, seed=None):
        generator = torch.Generator().manual_seed(seed)
        size = (*shape, *self.centres.shape)
        return self.centres + 2 * torch.randn(size, generator=generator, dtype=torch.float64)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.distributions.Normal(self.centres, 2.0).log_prob(z).sum(-1)


def log_target(i: int, z: Tensor) -> Tensor:
    # Unnormalised: a constant must not matter.
    return MultivariateNormal(CENTRES[i], RIDGE).log_prob(z) + 100.0


def make(is_foreign: list[bool]) -> Resampled:
    proposals = [
        Known(Wide(CENTRES[i : i + 1]), partial(log_target, i), is_foreign[i]) for i in range(2)
    ]
    return Resampled(Wide(CENTRES), proposals)


@pytest.fixture(scope="module")
def density() -> Resampled:
    return make([False, False])


def test_moments_are_those_of_the_target(density):
    z = density.sample((N,), seed=0)
    assert z.shape == (N, 2, 2)
    for i in range(2):
        # 4000 draws, of some 3000 effective ones: three standard errors are 0.05.
        torch.testing.assert_close(z[:, i].mean(0), CENTRES[i], atol=0.06, rtol=0)
        torch.testing.assert_close(torch.cov(z[:, i].T), RIDGE, atol=0.09, rtol=0)


def test_foreign_data_have_the_moments_of_draws():
    density = make([False, True])
    torch.testing.assert_close(density.std[0], Wide(CENTRES).std[0])
    torch.testing.assert_close(density.std[1], torch.ones(2).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(density.mean[1], CENTRES[1], atol=0.15, rtol=0)


def test_the_order_of_the_draws_means_nothing(density):
    z = density.sample((N,), seed=0)[:, 0, 0]
    lagged = torch.corrcoef(torch.stack([z[:-1], z[1:]]))[0, 1]
    # Three standard errors of 4000 draws.
    assert abs(float(lagged)) < 0.05


def test_a_seed_repeats_the_draws(density):
    assert torch.equal(density.sample((5,), seed=3), density.sample((5,), seed=3))
    assert not torch.equal(density.sample((5,), seed=3), density.sample((5,), seed=4))


def test_shapes(density):
    assert density.sample(seed=0).shape == (2, 2)
    assert density.sample((3, 4), seed=0).shape == (3, 4, 2, 2)


def test_proposals_and_their_density_belong_together(density):
    z = density.propose((N,), seed=0)
    torch.testing.assert_close(z.std(0), density.std, atol=0.1, rtol=0)
    assert torch.equal(density.log_prob(z), Wide(CENTRES).log_prob(z))


@pytest.mark.parametrize(
    "log_ratios",
    [
        torch.tensor([0.0, -torch.inf, -torch.inf, torch.nan]),
        torch.cat([torch.zeros(5), torch.full((995,), -2000.0)]),
        torch.cat([torch.zeros(1), torch.full((511,), -300.0)]),
        torch.zeros(100),
        torch.full((10,), -torch.inf),
        torch.linspace(0, -800, 600),
    ],
)
def test_weights_are_a_distribution_whatever_the_ratios(log_ratios):
    weights = smoothed_weights(log_ratios)
    assert weights.shape == log_ratios.shape and (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1)
    assert not torch.isnan(torch.tensor(khat(log_ratios)))


def test_ratios_that_differ_by_round_off_have_no_tail():
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert khat(1e-12 * noise) == 0
