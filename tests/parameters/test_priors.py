"""Priors: standard coordinates, densities against torch.distributions, and draws."""

import math

import pytest
import scipy.stats
import torch

import pddlvm
from pddlvm.basics.errors import InputError

PRIORS = {
    "standard normal": pddlvm.Normal(),
    "normal": pddlvm.Normal(-2.0, 0.3),
    "uniform": pddlvm.Uniform(-1.0, 4.0),
    "narrow uniform": pddlvm.Uniform(10.0, 10.5),
    "log-normal": pddlvm.LogNormal(0.5, 0.7),
    "log-uniform": pddlvm.LogUniform(0.1, 0.7),
}
ZERO = torch.tensor(0.0, dtype=torch.float64)  # a tensor, for references in double precision
REFERENCES = {
    "standard normal": torch.distributions.Normal(ZERO, 1.0),
    "normal": torch.distributions.Normal(ZERO - 2.0, 0.3),
    "uniform": torch.distributions.Uniform(ZERO - 1.0, 4.0),
    "narrow uniform": torch.distributions.Uniform(ZERO + 10.0, 10.5),
    "log-normal": torch.distributions.LogNormal(ZERO + 0.5, 0.7),
    "log-uniform": torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(ZERO + math.log(0.1), ZERO + math.log(0.7)),
        [torch.distributions.ExpTransform()],
    ),
}
priors = pytest.mark.parametrize("name", PRIORS)
N_DRAWS = 100_000


def draws(name, n=N_DRAWS):
    return PRIORS[name].sample_standard((n,), torch.Generator().manual_seed(5))


def assert_round_off(a, b):
    # A handful of elementary operations on numbers of size one to ten.
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


# Standard coordinates


@priors
def test_unstandardise_inverts_standardise(name):
    z = REFERENCES[name].icdf(torch.linspace(0.01, 0.99, 50, dtype=torch.float64))
    assert_round_off(PRIORS[name].unstandardise(PRIORS[name].standardise(z)), z)


@priors
def test_standardise_inverts_unstandardise(name):
    xi = draws(name, 50)
    assert_round_off(PRIORS[name].standardise(PRIORS[name].unstandardise(xi)), xi)


@priors
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_keep_their_dtype(name, dtype):
    z = PRIORS[name].unstandardise(torch.zeros(3, dtype=dtype))
    assert z.dtype == PRIORS[name].standardise(z).dtype == dtype


@pytest.mark.parametrize(
    ("prior", "z"),
    [
        (pddlvm.Normal(-2.0, 0.3), -1.7),
        (pddlvm.Uniform(-1.0, 4.0), 1.5 + 2.5 / math.sqrt(3)),
        (pddlvm.LogNormal(0.5, 0.7), math.exp(1.2)),
    ],
)
def test_standard_coordinate_one_is_one_deviation_from_the_centre(prior, z):
    # Three operations on numbers of size one.
    assert prior.unstandardise(torch.tensor(1.0).double()).item() == pytest.approx(z, rel=1e-14)


@pytest.mark.parametrize(("xi", "z"), [(-math.sqrt(3), -1.0), (0.0, 1.5), (math.sqrt(3), 4.0)])
def test_uniform_coordinate_spans_two_square_roots_of_three(xi, z):
    prior = pddlvm.Uniform(-1.0, 4.0)
    xi = torch.tensor(xi, dtype=torch.float64)
    # Three operations on numbers of size one.
    assert prior.unstandardise(xi).item() == pytest.approx(z, rel=1e-14)


@priors
def test_clamped_coordinates_are_in_the_support(name):
    xi = torch.linspace(-9, 9, 37, dtype=torch.float64)
    prior = PRIORS[name]
    assert prior.contains(prior.unstandardise(xi.clamp(*prior.standard_bounds))).all()


@priors
def test_clamping_leaves_draws_alone(name):
    xi = draws(name, 1000)
    assert torch.equal(xi.clamp(*PRIORS[name].standard_bounds), xi)


# Draws


@priors
def test_standard_draws_have_mean_zero(name):
    # A z-test at four standard deviations.
    assert abs(draws(name).mean().item()) < 4 / math.sqrt(N_DRAWS)


@priors
def test_standard_draws_have_variance_one(name):
    kurtosis = 1.8 if isinstance(PRIORS[name], pddlvm.Uniform | pddlvm.LogUniform) else 3.0
    # A z-test at four standard deviations of the mean square.
    deviation = math.sqrt((kurtosis - 1) / N_DRAWS)
    assert abs((draws(name) ** 2).mean().item() - 1) < 4 * deviation


@priors
def test_draws_follow_the_reference_distribution(name):
    z = PRIORS[name].unstandardise(draws(name, 5000))
    quantiles = REFERENCES[name].cdf(z).numpy()
    # Kolmogorov-Smirnov; one seed in a thousand would fail.
    assert scipy.stats.kstest(quantiles, "uniform").pvalue > 1e-3


@priors
def test_draws_lie_in_the_support(name):
    assert PRIORS[name].contains(PRIORS[name].unstandardise(draws(name))).all()


@priors
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)])
def test_draws_have_the_shape_asked_for(name, shape):
    xi = PRIORS[name].sample_standard(shape, None)
    assert xi.shape == shape
    assert xi.dtype == torch.float64


@priors
def test_equal_seeds_give_equal_draws(name):
    assert torch.equal(draws(name, 10), draws(name, 10))


@priors
def test_draws_of_one_generator_differ(name, generator):
    first = PRIORS[name].sample_standard((10,), generator)
    assert not torch.equal(first, PRIORS[name].sample_standard((10,), generator))


@priors
def test_draws_from_a_generator_leave_the_global_one_alone(name, generator):
    before = torch.get_rng_state()
    PRIORS[name].sample_standard((10,), generator)
    assert torch.equal(torch.get_rng_state(), before)


# Densities


@priors
def test_log_density_is_that_of_the_reference(name):
    z = REFERENCES[name].icdf(torch.linspace(0.001, 0.999, 50, dtype=torch.float64))
    assert_round_off(PRIORS[name].log_prob(z), REFERENCES[name].log_prob(z))


@priors
def test_log_density_of_single_precision_is_in_single_precision(name):
    z = PRIORS[name].unstandardise(torch.zeros(3))
    expected = REFERENCES[name].log_prob(z.double())
    assert PRIORS[name].log_prob(z).dtype == torch.float32
    # Some units of round-off of numbers of size one.
    torch.testing.assert_close(PRIORS[name].log_prob(z).double(), expected, rtol=0, atol=1e-6)


@priors
def test_standard_log_density_follows_by_change_of_variables(name):
    prior = PRIORS[name]
    xi = draws(name, 50).requires_grad_()
    z = prior.unstandardise(xi)
    (slope,) = torch.autograd.grad(z.sum(), xi)
    assert_round_off(prior.standard_log_prob(xi), prior.log_prob(z) + slope.log())


@priors
def test_standard_density_integrates_to_one(name):
    edge = math.sqrt(3) if isinstance(PRIORS[name], pddlvm.Uniform | pddlvm.LogUniform) else 10.0
    xi = torch.linspace(-edge, edge, 2001, dtype=torch.float64)
    # The trapezoidal rule is exact for a constant, and to round-off for a whole Gaussian.
    integral = torch.trapezoid(PRIORS[name].standard_log_prob(xi).exp(), xi).item()
    assert integral == pytest.approx(1.0, rel=1e-12)


@priors
def test_log_density_is_differentiable(name):
    z = PRIORS[name].unstandardise(draws(name, 5)).requires_grad_()
    # The defaults of gradcheck are made for central differences in float64.
    assert torch.autograd.gradcheck(PRIORS[name].log_prob, (z,))


@pytest.mark.parametrize(
    ("prior", "z"),
    [
        (pddlvm.Uniform(-1.0, 4.0), -1.1),
        (pddlvm.Uniform(-1.0, 4.0), 4.1),
        (pddlvm.LogNormal(), 0.0),
        (pddlvm.LogNormal(), -1.0),
        (pddlvm.LogUniform(0.1, 0.5), -0.2),
        (pddlvm.LogUniform(0.1, 0.5), 0.09),
        (pddlvm.LogUniform(0.1, 0.5), 0.51),
    ],
)
def test_outside_of_the_support(prior, z):
    z = torch.tensor([z], dtype=torch.float64)
    assert not prior.contains(z).any()
    assert prior.log_prob(z).item() == -math.inf


@pytest.mark.parametrize("low", [-1.0, 1e-3, 123.4])
def test_edges_of_a_uniform_support_survive_single_precision(low):
    prior = pddlvm.Uniform(low, low + 0.7)
    edges = torch.tensor([low, low + 0.7], dtype=torch.float64).float()
    assert prior.contains(edges).all()


# Wrong arguments


@pytest.mark.parametrize("kind", [pddlvm.Normal, pddlvm.LogNormal])
@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.0, 0.0), (0.0, -1.0), (0.0, math.nan), (0.0, math.inf), (math.inf, 1.0), (math.nan, 1.0)],
)
def test_moments_out_of_range_are_refused(kind, mean, std):
    with pytest.raises(InputError, match=kind.__name__):
        kind(mean, std)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 1.0), (2.0, 1.0), (-math.inf, 0.0), (0.0, math.inf), (math.nan, 1.0), (0.0, math.nan)],
)
@pytest.mark.parametrize("kind", [pddlvm.Uniform, pddlvm.LogUniform])
def test_bounds_out_of_order_are_refused(kind, low, high):
    with pytest.raises(InputError, match=f" of {kind.__name__}"):
        kind(low, high)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_log_uniform_number_is_positive(low):
    with pytest.raises(InputError, match="low of LogUniform must be positive"):
        pddlvm.LogUniform(low, 1.0)


@pytest.mark.parametrize(
    ("prior", "arguments"),
    [
        (pddlvm.LogNormal, (800.0, 1.0)),
        (pddlvm.LogNormal, (-800.0, 1.0)),
        (pddlvm.LogNormal, (0.0, 100.0)),
        (pddlvm.Normal, (0.0, 1e308)),
        (pddlvm.Uniform, (-1e308, 1e308)),
    ],
)
def test_a_prior_whose_draws_overflow_is_refused(prior, arguments):
    with pytest.raises(pddlvm.InputError, match="overflow"):
        prior(*arguments)


# Standard normal numbers


@priors
def test_normal_numbers_become_draws(name):
    """z = F^-1(Phi(eta)), far out as well."""
    eta = torch.tensor([-6.0, -2.0, -0.5, 0.0, 0.5, 2.0, 6.0], dtype=torch.float64)
    prior, reference = PRIORS[name], REFERENCES[name]
    z = prior.unstandardise(prior.from_normal(eta))
    # From the nearer end: 1 - Phi(6) has few digits.
    expected = torch.special.ndtr(-eta.abs())
    below = reference.cdf(z)
    found = torch.where(eta > 0, 1 - below, below)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-15)
