"""The shape of standardised errors: a distribution that agrees with itself and with its scores."""

import pytest
import scipy.stats
import torch

from pddlvm.latent.error_shape import ErrorShape

LEVELS = (0.5, 0.8, 0.95, 0.99)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gaussian() -> torch.Tensor:
    return 3 * torch.randn(20_000, 1, generator=generator(), dtype=torch.float64)


def heavy() -> torch.Tensor:
    # Student's t of 4 degrees of freedom, by its quantiles.
    uniform = torch.rand(20_000, 1, generator=generator(), dtype=torch.float64)
    return torch.from_numpy(scipy.stats.t.ppf(uniform.numpy(), 4))


def two_signs() -> torch.Tensor:
    sign = torch.randn(20_000, 1, generator=generator(), dtype=torch.float64).sign()
    return sign * torch.linspace(1.9, 2.1, 20_000, dtype=torch.float64)[:, None]


KINDS = pytest.mark.parametrize("scores", [gaussian, heavy, two_signs])


@KINDS
def test_central_intervals_hold_what_they_say(scores):
    s = scores()
    shape, size = ErrorShape.of_scores(s)
    for level in LEVELS:
        held = float((s.abs() <= size * shape.half_width(level)).double().mean())
        # The quantiles of the scores themselves, interpolated between knots.
        assert held == pytest.approx(level, abs=0.005)


@KINDS
def test_the_size_is_the_root_mean_square_of_the_scores(scores):
    shape, size = ErrorShape.of_scores(scores())
    # A middle that is empty is met up to the first knot.
    assert size == pytest.approx(float(scores().square().mean().sqrt()), rel=0.02)
    assert float(shape.second_moment()) == pytest.approx(1, abs=1e-9)


@KINDS
def test_the_inverse_undoes_the_map(scores):
    shape, _ = ErrorShape.of_scores(scores())
    g = torch.linspace(-5.93, 6.07, 97, dtype=torch.float64)  # off the knots
    found, log_slope = shape.inverse(shape(g))
    # Slopes down to 1e-4 magnify the rounding of float64.
    torch.testing.assert_close(found, g, rtol=0, atol=1e-9)
    step = 1e-7
    slope = (shape(g + step) - shape(g - step)) / (2 * step)
    torch.testing.assert_close(-slope.log(), log_slope, rtol=0, atol=1e-3)


@KINDS
def test_draws_have_the_density(scores):
    shape, _ = ErrorShape.of_scores(scores())
    edges = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    middle = 0.5 * (edges[1:] + edges[:-1])
    mass = shape.log_prob(middle).exp() * edges.diff()
    # A midpoint rule over densities with jumps.
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    assert float((mass * middle.square()).sum()) == pytest.approx(1, abs=0.02)
    draws = shape(torch.randn(50_000, generator=generator(), dtype=torch.float64))
    # Five standard errors: the fourth moment of the heavy tails is about 30.
    assert float(draws.square().mean()) == pytest.approx(1, abs=5 * (30 / 50_000) ** 0.5)


def test_gaussian_errors_keep_their_shape():
    shape, size = ErrorShape.of_scores(gaussian())
    g = torch.linspace(-3, 3, 61, dtype=torch.float64)
    # Quantiles of 20,000 draws: a standard error of 0.02 at three deviations.
    torch.testing.assert_close(shape(g), g, rtol=0, atol=0.06)
    assert size == pytest.approx(3, rel=0.02)


def test_few_samples_say_nothing_of_their_tails():
    s = torch.randn(64, 100, generator=generator(), dtype=torch.float64)
    shape, _ = ErrorShape.of_scores(s)
    # Eight of 64 samples lie beyond 1.53 deviations: further out one straight line goes on.
    slopes = shape.values.diff() / ErrorShape.gaussian(s).values.diff()
    torch.testing.assert_close(slopes[7:], slopes[-1].expand(7 + 1)[: len(slopes[7:])])


def test_scores_that_do_not_count_are_ignored():
    s = gaussian().expand(-1, 2).clone()
    s[:, 1] = 1e6
    counts = torch.tensor([True, False]).expand(len(s), 2)
    assert ErrorShape.of_scores(s, counts)[1] == ErrorShape.of_scores(gaussian())[1]


def test_errors_of_zero_have_no_size():
    shape, size = ErrorShape.of_scores(torch.zeros(50, 3))
    assert size == 0 and torch.isfinite(shape.values).all()
