"""Gaussians of the moments of a density, from its draws."""

import pytest
import torch

import pddlvm
from pddlvm.parameters.space import Block
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.local import LocalDensity
from pddlvm.sampling.moments import matched
from pddlvm.sampling.variational import variational

BEND, THIN = 0.5, 0.3


class Bent(LocalDensity):
    """w_1 ~ N(0, 1), w_2 ~ N(b (w_1^2 - 1), THIN^2): mean zero; b of each mode."""

    def __init__(self, bends):
        prior = pddlvm.ParameterSpace({"z": Block(2, pddlvm.Normal())})
        n = len(bends)
        super().__init__(
            Coordinates(prior, torch.zeros(n, 2).double(), torch.eye(2).expand(n, 2, 2).double())
        )
        self.bends = torch.tensor(bends).double()

    def value(self, w, mode):
        change = (w[:, 1] - self.bends[mode] * (w[:, 0].square() - 1)) / THIN
        return -0.5 * (w[:, 0].square() + change.square())

    value_and_gradient = left_out = None

    @property
    def covariances(self):
        return torch.stack([torch.tensor([1.0, 2 * b**2 + THIN**2]).diag() for b in self.bends])


class Normal(LocalDensity):
    def __init__(self, mean, factor):
        prior = pddlvm.ParameterSpace({"z": Block(len(mean), pddlvm.Normal())})
        self.mean, self.factor = mean, factor
        super().__init__(
            Coordinates(prior, torch.zeros_like(mean)[None], torch.eye(len(mean)).double()[None])
        )

    def value(self, w, mode):
        change = torch.linalg.solve_triangular(self.factor, (w - self.mean).T, upper=False)
        return -0.5 * change.square().sum(0)

    value_and_gradient = left_out = None


def test_a_bent_ridge_has_its_own_moments(generator):
    density = Bent([BEND, 0.0, -0.3])
    mean, factor, _ = variational(density, generator)
    std = (factor @ factor.mT).diagonal(dim1=1, dim2=2).sqrt()
    of_density = density.covariances.diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.12)
    torch.testing.assert_close(std, of_density, rtol=0.12, atol=0)


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("scale", [0.05, 0.7, 2.0])
def test_a_normal_density_is_found_from_another(size, scale, generator):
    factor = (
        scale
        * (
            torch.eye(size) + 0.3 * torch.randn(size, size, generator=generator).tril(-1) / size
        ).double()
    )
    mean = scale * torch.randn(size, generator=generator).double() / size**0.5
    start = torch.zeros(1, size).double(), torch.eye(size).double()[None]
    found, found_factor = matched(Normal(mean, factor), *start, generator)
    assert float((found[0] - mean).abs().max()) < 0.06 * scale
    error = torch.linalg.solve(
        factor, torch.linalg.solve(factor, found_factor[0] @ found_factor[0].T).T
    )
    assert float((error - torch.eye(size)).abs().max()) < 0.15


def test_gaussians_do_not_depend_on_their_neighbours():
    def found(bends):
        start = torch.zeros(len(bends), 2).double(), torch.eye(2).double().expand(len(bends), 2, 2)
        return matched(Bent(bends), *start, torch.Generator().manual_seed(0))

    for both, first in zip(found([BEND, 0.1]), found([BEND]), strict=True):
        torch.testing.assert_close(both[:1], first, rtol=1e-12, atol=1e-12)


def test_where_the_density_is_zero_is_no_draw(generator):
    class Half(Normal):
        def value(self, w, mode):
            value = super().value(w, mode)
            return torch.where(w[:, 0] > 0, value, torch.nan)

    start = torch.zeros(1, 1).double(), torch.eye(1).double()[None]
    mean, factor = matched(Half(torch.zeros(1).double(), torch.eye(1).double()), *start, generator)
    assert float(mean) == pytest.approx((2 / torch.pi) ** 0.5, abs=0.03)
    assert float(factor) == pytest.approx((1 - 2 / torch.pi) ** 0.5, abs=0.03)


def test_what_is_right_is_left_as_it_is(generator):
    mean, factor = torch.randn(6, generator=generator).double(), 0.1 * torch.eye(6).double()
    found = matched(Normal(mean, factor), mean[None], factor[None], generator)
    assert torch.equal(found[0][0], mean)
    assert torch.equal(found[1][0], factor)


def test_a_density_that_is_not_reached_changes_nothing(generator):
    # Two hundred standard deviations away, and a thousandth as wide.
    density = Normal(torch.full((2,), 200.0).double(), 1e-3 * torch.eye(2).double())
    start = torch.zeros(1, 2).double(), torch.eye(2).double()[None]
    density.value = lambda w, mode: Normal.value(density, w, mode).clamp(min=-1e4)
    for found, own in zip(matched(density, *start, generator), start, strict=True):
        assert torch.equal(found, own)
