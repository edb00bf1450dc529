"""Laws of quantities find what errors were drawn from."""

import pytest
import torch

from pddlvm.latent.quantity_law import QuantityLaw

N_DRAWS = 1000


def drawn(n_draws: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two numbers whose errors go together, the second ten times as large and heavy-tailed."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n_draws, 3, generator=generator, dtype=torch.float64)
    size = torch.randn(n_draws, 2, generator=generator, dtype=torch.float64)
    g = torch.randn(n_draws, 2, generator=generator, dtype=torch.float64)
    g[:, 1] = 0.8 * g[:, 0] + 0.6 * g[:, 1]
    scores = torch.stack([g[:, 0], 10 * g[:, 1] ** 3 / 15**0.5], dim=1)
    return features, size, (size + 0.5 * features[:, :1]).exp() * scores


@pytest.fixture(scope="module")
def law() -> QuantityLaw:
    return QuantityLaw.of_errors(*drawn(N_DRAWS, 0))


def test_spreads_follow_what_is_known(law):
    features, size, _ = drawn(2000, 1)
    true = (size + 0.5 * features[:, :1]).exp() * torch.tensor([1.0, 10.0])
    ratio = law.std(features, size) / true
    # The second is of a cube: its mean square is known to a fifth from so few draws.
    assert ((ratio.log().mean(0)).abs() < 0.2).all() and (ratio.log().std(0) < 0.25).all()
    assert law.n_draws == N_DRAWS


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
def test_intervals_hold_as_often_as_they_say(law, level):
    features, size, errors = drawn(4000, 2)
    inside = errors.abs() <= law.half_width(level) * law.std(features, size)
    # Four standard deviations of a quantile of a thousand draws.
    assert (inside.double().mean(0) - level).abs().max() < 4 * (level * (1 - level) / 1e3) ** 0.5


def test_draws_have_the_law_and_are_joint(law):
    white = torch.randn(3, 5000, 2, generator=torch.Generator().manual_seed(0)).double()
    scores = law.scores(white)
    assert scores.shape == white.shape
    flat = scores.flatten(0, 1)
    assert torch.allclose(flat.square().mean(0), torch.ones(2).double(), atol=0.15)
    inside = (flat.abs() <= law.half_width(0.9)).double().mean(0)
    assert torch.allclose(inside, torch.full((2,), 0.9).double(), atol=0.01)
    signs = flat.sign()
    # Of normal numbers of correlation 0.8: 2 arcsin(0.8) / pi.
    assert abs(float((signs[:, 0] * signs[:, 1]).mean()) - 0.590) < 0.06


def test_what_has_no_error_has_no_spread():
    features, size, errors = drawn(200, 3)
    errors[:, 0] = 0.0
    law = QuantityLaw.of_errors(features, size, errors)
    std = law.std(features, size)
    assert (std[:, 0] == 0).all() and (std[:, 1] > 0).all()
    assert torch.isfinite(law.scores(torch.randn(10, 2).double())).all()


@pytest.mark.slow
def test_more_numbers_than_draws():
    features, size, errors = drawn(16, 4)
    law = QuantityLaw.of_errors(features, size.repeat(1, 10), errors.repeat(1, 10))
    scores = law.scores(torch.randn(2000, 20, generator=torch.Generator().manual_seed(1)).double())
    assert torch.allclose(scores[:, 0], scores[:, 2], atol=1e-5)
