"""Priors by `torch.distributions`: quantiles, tails, correlated numbers, what is refused."""

import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from torch import distributions as td

import pddlvm
from pddlvm import fem
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.latent.inverse import Inverse
from pddlvm.parameters.distributions import prior_of
from pddlvm.parameters.identity import is_like
from pddlvm.parameters.space import Block, ParameterSpace
from pddlvm.sampling.coordinates import Coordinates

COVARIANCE = torch.tensor([[1.0, -0.6, 0.2], [-0.6, 0.5, 0.0], [0.2, 0.0, 2.0]]).double()
MEAN = torch.tensor([1.0, -1.0, 3.0]).double()
CORRELATED = td.MultivariateNormal(MEAN, COVARIANCE)

SINGLE = {
    "Beta": (td.Beta(2.0, 5.0), scipy.stats.beta(2, 5)),
    "Beta with poles": (td.Beta(0.7, 0.8), scipy.stats.beta(0.7, 0.8)),
    "Chi2": (td.Chi2(3.0), scipy.stats.chi2(3)),
    "Exponential": (td.Exponential(2.0), scipy.stats.expon(scale=0.5)),
    "Gamma": (td.Gamma(2.5, 3.0), scipy.stats.gamma(2.5, scale=1 / 3)),
    "Gumbel": (td.Gumbel(0.5, 2.0), scipy.stats.gumbel_r(0.5, 2)),
    "HalfNormal": (td.HalfNormal(2.0), scipy.stats.halfnorm(scale=2)),
    "InverseGamma": (td.InverseGamma(4.0, 2.0), scipy.stats.invgamma(4, scale=2)),
    "Laplace": (td.Laplace(1.0, 2.0), scipy.stats.laplace(1, 2)),
    "LogNormal": (td.LogNormal(0.1, 0.5), scipy.stats.lognorm(0.5, scale=math.exp(0.1))),
    "Normal": (td.Normal(1.0, 2.0), scipy.stats.norm(1, 2)),
    "Pareto": (td.Pareto(2.0, 3.5), scipy.stats.pareto(3.5, scale=2)),
    "StudentT": (td.StudentT(5.0, 1.0, 2.0), scipy.stats.t(5, 1, 2)),
    "Uniform": (td.Uniform(1.0, 3.0), scipy.stats.uniform(1, 2)),
    "Weibull": (td.Weibull(2.0, 1.5), scipy.stats.weibull_min(1.5, scale=2)),
    "moved Beta": (
        td.TransformedDistribution(td.Beta(2.0, 5.0), [td.AffineTransform(1.0, 3.0)]),
        scipy.stats.beta(2, 5, 1, 3),
    ),
    "decreasing": (
        td.TransformedDistribution(td.Gamma(2.0, 1.0), [td.AffineTransform(0.0, -1.0)]),
        None,
    ),
}
single = pytest.mark.parametrize("name", SINGLE)


def of(name):
    return pddlvm.Distribution(SINGLE[name][0])


def scores(reach, n=41):
    return torch.linspace(-reach, reach, n, dtype=torch.float64)


# One number


@single
def test_coordinates_and_back(name):
    prior, xi = of(name), scores(5.0)
    # A bound other than zero takes digits of what lies beside it: of 3e-7 there are nine left.
    found = prior.standardise(prior.unstandardise(xi))
    torch.testing.assert_close(found, xi, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["Beta", "Chi2", "Exponential", "Gamma", "HalfNormal", "InverseGamma", "Weibull"]
)
def test_both_tails_have_all_digits(name):
    prior, xi = of(name), scores(12.0)
    # One of Beta's ends is 1, from which its quantiles there differ by 1e-7 and more.
    torch.testing.assert_close(prior.standardise(prior.unstandardise(xi)), xi, rtol=0, atol=1e-10)


@single
def test_draws_follow_the_distribution(name):
    reference = SINGLE[name][1]
    z = of(name).unstandardise(scores(3.0))
    if reference is None:
        z, reference = -z.flip(0), scipy.stats.gamma(2)
    expected = reference.ppf(scipy.stats.norm.cdf(scores(3.0).numpy()))
    # SciPy's own inverse; some take lower tails from 1 - q.
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-9)


@single
def test_density_is_that_of_torch(name):
    z = of(name).unstandardise(scores(3.0))
    # The numbers of `given` are float32.
    expected = of(name).given.log_prob(z)
    torch.testing.assert_close(of(name).log_prob(z), expected, rtol=1e-12, atol=1e-12)


@single
def test_slopes_are_those_of_differences(name):
    xi = scores(1.5, 6).requires_grad_()
    assert torch.autograd.gradcheck(of(name).unstandardise, (xi,))
    assert torch.autograd.gradgradcheck(of(name).unstandardise, (xi,))
    z = of(name).unstandardise(xi).detach().requires_grad_()
    assert torch.autograd.gradcheck(of(name).standardise, (z,))
    if name != "Laplace":  # Whose density has a corner.
        assert torch.autograd.gradcheck(of(name).log_prob, (z,))


@single
def test_slopes_are_finite_where_searches_end(name):
    xi = scores(12.0).requires_grad_()
    (slope,) = torch.autograd.grad(of(name).unstandardise(xi).sum(), xi)
    assert torch.isfinite(slope).all() and (slope >= 0).all()
    assert torch.isfinite(of(name).log_prob(of(name).unstandardise(xi).detach())).all()


# PyTorch warns of itself where forward derivatives are first asked for.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_slopes_go_through_transforms_of_functions():
    prior, xi = of("Gamma"), scores(2.0, 5)
    backward = torch.func.vmap(torch.func.grad(prior.unstandardise))(xi)
    forward = torch.func.vmap(torch.func.jacfwd(prior.unstandardise))(xi)
    (expected,) = torch.autograd.grad(prior.unstandardise(at := xi.requires_grad_()).sum(), at)
    torch.testing.assert_close(backward, expected.detach())
    torch.testing.assert_close(forward, expected.detach())


@single
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coordinates_keep_their_dtype(name, dtype):
    z = of(name).unstandardise(scores(1.0).to(dtype))
    assert z.dtype == of(name).standardise(z).dtype == of(name).log_prob(z).dtype == dtype


@single
def test_draws_in_single_precision_lie_in_the_support(name):
    z = of(name).unstandardise(scores(8.0).float())
    assert of(name).contains(z).all()
    assert torch.isfinite(of(name).standardise(z)).all()


@pytest.mark.parametrize(
    ("name", "z"),
    [("Beta", -0.1), ("Beta", 1.1), ("Gamma", -1.0), ("moved Beta", 0.9), ("decreasing", 1.0)],
)
def test_outside_of_the_support(name, z):
    z = torch.tensor([z, math.nan]).double()
    assert not of(name).contains(z).any()
    assert (of(name).log_prob(z) == -math.inf).all()


def test_numbers_are_those_that_were_written():
    assert repr(pddlvm.Distribution(td.Gamma(0.3, 1.7))) == (
        "Distribution(Gamma(concentration=0.3, rate=1.7))"
    )


def test_numbers_are_copied():
    rate = torch.tensor(2.0, dtype=torch.float64)
    prior = pddlvm.Distribution(td.Exponential(rate))
    before = prior.unstandardise(scores(1.0))
    rate.fill_(3.0)
    assert torch.equal(prior.unstandardise(scores(1.0)), before)


# Several numbers


def test_each_number_may_have_parameters_of_its_own():
    rate = torch.tensor([1.0, 2.0, 4.0])
    prior = pddlvm.Distribution(td.Independent(td.Exponential(rate), 1))
    z = prior.unstandardise(torch.zeros(5, 3).double())
    assert prior.size == 3
    torch.testing.assert_close(z, (math.log(2) / rate.double()).expand(5, 3))


def space(given, size=3):
    blocks = {"k": Block(size, prior_of(given)), "f": Block(1, pddlvm.Uniform(0.0, 1.0))}
    return ParameterSpace(blocks)


def test_draws_of_a_correlated_normal_have_its_moments():
    z = space(CORRELATED).sample((100_000,), seed=0)[:, :3]
    # z-tests at about four standard deviations.
    torch.testing.assert_close(z.mean(0), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(z.T), COVARIANCE, rtol=0, atol=0.04)


def test_density_of_a_correlated_normal_is_that_of_torch():
    z = space(CORRELATED).sample((20,), seed=0)
    torch.testing.assert_close(space(CORRELATED).log_prob(z), CORRELATED.log_prob(z[:, :3]))


LOG_NORMAL = td.TransformedDistribution(CORRELATED, [td.ExpTransform()])
FALLING = td.TransformedDistribution(CORRELATED, [td.ExpTransform(), td.AffineTransform(1.0, -2.0)])
correlated = pytest.mark.parametrize("given", [CORRELATED, LOG_NORMAL, FALLING])


@correlated
def test_correlated_coordinates_and_back(given):
    prior, xi = space(given), space(given).sample_standard((20,))
    torch.testing.assert_close(prior.standardise(prior.unstandardise(xi)), xi)


@correlated
def test_density_of_correlated_numbers_follows_by_change_of_variables(given):
    prior, xi = space(given), space(given).sample_standard((5,))
    slope = torch.func.vmap(torch.func.jacrev(prior.unstandardise))(xi)
    expected = prior.standard_log_prob(xi) - torch.linalg.slogdet(slope)[1]
    torch.testing.assert_close(prior.log_prob(prior.unstandardise(xi)), expected)


@correlated
def test_derivatives_by_correlated_coordinates(given):
    prior, xi = space(given), space(given).sample_standard((4,))
    z, by_xi = prior.with_slope(xi)
    identity = torch.eye(4).double().expand(4, 4, 4)
    expected = torch.func.vmap(torch.func.jacrev(prior.unstandardise))(xi)
    torch.testing.assert_close(by_xi(identity), expected)
    torch.testing.assert_close(z, prior.unstandardise(xi))


def test_units_of_correlated_numbers_are_their_standard_deviations():
    centre, unit = space(CORRELATED).units
    torch.testing.assert_close(centre[:3], MEAN)
    torch.testing.assert_close(unit[:3], COVARIANCE.diagonal().sqrt())


def test_ends_of_correlated_numbers_are_in_order():
    # The first two numbers fall with each other.
    low, high = space(FALLING).at_score(-3.0), space(FALLING).at_score(3.0)
    assert (low < high).all()
    std = COVARIANCE.diagonal().sqrt()
    torch.testing.assert_close(high[:3], 1 - 2 * (MEAN - 3 * std).exp())
    assert low[3] == 0 and high[3] == 1  # The bounds of a uniform number.


@correlated
def test_gaussians_in_correlated_coordinates_have_the_moments_of_their_draws(given):
    prior = space(given)
    factor = torch.tensor([0.3, 0.2, 0.1, 0.5]).double().diag()
    factor[1:, 0] = 0.1
    centre = torch.tensor([[0.2, -0.3, 0.1, 0.4]]).double()
    density = PushedGaussian(Coordinates(prior, centre, factor[None]))
    draws = density.sample((100_000,), seed=0)
    # A hundred thousand draws know a mean to 0.003 deviations; log-normal ones a spread to 2 %.
    assert ((density.mean - draws.mean(0)).abs() < 0.015 * draws.std(0)).all()
    torch.testing.assert_close(density.std, draws.std(0), rtol=0.03, atol=0)
    levels = torch.tensor([0.05, 0.5, 0.9]).double()
    quantiles = density.quantiles(levels)
    found = (draws < quantiles[:, None]).double().mean(1)
    torch.testing.assert_close(found, levels[:, None, None].expand_as(found), rtol=0, atol=0.01)
    torch.testing.assert_close(density.cdf(quantiles[1]), torch.full_like(centre, 0.5))


# A problem


LINE = fem.Space(fem.interval(8))


def strain(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


def problem(prior):
    field = pddlvm.Piecewise.on_blocks(LINE, (2,), prior=prior)
    terms = [pddlvm.Energy(LINE.interior(), strain)]
    return pddlvm.Problem("line", LINE, terms, {"k": field}, [pddlvm.Dirichlet(None)])


PAIRS = {
    "rate": (td.Gamma(2.0, 5.0), td.Gamma(2.0, 5.001)),
    "distribution": (td.Gamma(1.0, 2.0), td.Exponential(2.0)),
    "correlation": [
        td.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, r], [r, 1.0]]) / 100)
        for r in (0.5, 0.501)
    ],
    "transform": [
        td.TransformedDistribution(td.Beta(2.0, 2.0), [td.AffineTransform(1.0, s)])
        for s in (1.0, 1.001)
    ],
    "order": [
        td.TransformedDistribution(td.Beta(2.0, 2.0), [td.AffineTransform(1.0, 1.0), *t])
        for t in ([], [td.PowerTransform(torch.tensor(1.0))])
    ],
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_problem_with_another_prior_is_another_one(pair):
    one, other = map(problem, pair)
    assert not is_like(one, other)
    assert is_like(one, problem(pair[0]))


@pytest.mark.parametrize("given", [td.Gamma(2.0, 5.0), CORRELATED, LOG_NORMAL])
def test_a_prior_survives_pickling(given):
    prior = pddlvm.Distribution(given)
    copy = pickle.loads(pickle.dumps(prior))
    assert copy == prior and hash(copy) == hash(prior) and repr(copy) == repr(prior)
    xi = torch.randn(4, 3).double()
    assert torch.equal(copy.unstandardise(xi), prior.unstandardise(xi))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (td.Normal(0.1, 2.0), pddlvm.Normal(0.1, 2.0)),
        (td.LogNormal(0.1, 0.2), pddlvm.LogNormal(0.1, 0.2)),
        (td.Uniform(0.1, 0.3), pddlvm.Uniform(0.1, 0.3)),
        (td.Beta(2.0, 0.3), pddlvm.Distribution(td.Beta(2.0, 0.3))),
    ],
)
def test_fields_take_distributions_as_they_are(given, expected):
    assert pddlvm.Constant(given).prior == expected


STEEP = td.TransformedDistribution(
    td.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]) / 25),
    [td.ExpTransform()],
)


@pytest.fixture(scope="module")
def seen():
    model = pddlvm.LatentVariableModel(problem(STEEP), seed=0)
    pddlvm.train(model, max_steps=300)
    return model


@pytest.mark.slow
def test_posteriors_of_correlated_numbers_agree(seen):
    # One point in the right half says little of the left, but for the prior.
    observation = pddlvm.PointObservation(seen.problem, [0.75], 2e-3)
    y = observation.simulate(seen.problem.solve(seen.problem.prior.sample(seed=3)), seed=4)
    found = {m: seen.infer(y, observation, m, n_samples=4000) for m in ("laplace", "nuts", "exact")}
    draws = found["exact"].sample((4000,), seed=0)
    for method in ("laplace", "nuts"):
        # Four chains of a thousand dependent draws; a tenth of a standard deviation.
        assert ((found[method].mean - draws.mean(0)).abs() < 0.15 * draws.std(0)).all(), method
        torch.testing.assert_close(found[method].std, draws.std(0), rtol=0.1, atol=0)
    lower, upper = found["laplace"].interval(0.9)
    inside = ((draws > lower) & (draws < upper)).double().mean(0)
    assert ((inside - 0.9).abs() < 0.03).all()


@pytest.mark.slow
def test_inverse_of_correlated_numbers_has_the_moments_of_its_draws(seen):
    z = seen.problem.prior.sample((3,), seed=5)
    inverse = seen.inverse(seen.problem.solve(z))
    draws = inverse.sample((20_000,), seed=0)
    error = (inverse.mean - draws.mean(0)).abs() / draws.std(0)
    # Random draws know a mean to 0.007 standard deviations, and a quantile to 0.02.
    assert (error < 0.03).all()
    torch.testing.assert_close(inverse.std, draws.std(0), rtol=0.03, atol=0)
    lower, upper = inverse.interval(0.9)
    assert (((draws > lower) & (draws < upper)).double().mean(0) - 0.9).abs().max() < 0.015
    assert ((inverse.median - draws.median(0).values).abs() < 0.05 * draws.std(0)).all()


def test_known_correlated_numbers_are_certain():
    prior = space(LOG_NORMAL)
    z = prior.sample((5,), seed=5)
    inverse = Inverse(prior.standardise(z), torch.tensor([0.0, 0.0, 0.0, 0.1]).expand(5, 4), prior)
    for found in (inverse.mean, inverse.median, *inverse.interval()):
        torch.testing.assert_close(found[:, :3], z[:, :3])
    assert (inverse.std[:, :3] < 1e-12 * z[:, :3]).all()
    assert (inverse.std[:, 3] > 0).all()


def test_maps_with_quantiles_of_scipy_are_not_exported(tmp_path):
    model = pddlvm.LatentVariableModel(problem(td.Gamma(20.0, 20.0)), seed=0)
    with pytest.raises(pddlvm.InputError, match=r"prior of 'k', Distribution\(Gamma.*SciPy"):
        pddlvm.export_maps(model, tmp_path, "torch")


# What is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (td.Poisson(3.0), "Poisson is discrete"),
        (td.Bernoulli(0.5), "Bernoulli is discrete"),
        (td.Categorical(torch.ones(3)), "Categorical is discrete"),
        (td.Dirichlet(torch.ones(3)), "Dirichlet is a distribution of vectors"),
        (td.Wishart(torch.tensor(4.0), torch.eye(2)), "Wishart is a distribution of vectors"),
        (td.Cauchy(0.0, 1.0), "Cauchy has no finite standard deviation"),
        (td.HalfCauchy(1.0), "HalfCauchy has no finite standard deviation"),
        (td.StudentT(1.5), "StudentT with these parameters has no finite standard deviation"),
        (td.Pareto(1.0, 2.0), "Pareto with these parameters has no finite"),
        (td.VonMises(0.0, 1.0), "VonMises cannot be a prior; .*Beta"),
        (
            td.TransformedDistribution(td.Normal(0.0, 1.0), [td.AbsTransform()]),
            "transformed by AbsTransform",
        ),
        (
            td.TransformedDistribution(td.Normal(0.0, 100.0), [td.ExpTransform()]),
            "overflow; choose other units",
        ),
        (
            td.MultivariateNormal(torch.zeros(2, 3), torch.eye(3)),
            r"one vector of numbers, and this one is a batch \(2,\)",
        ),
        (td.Beta(torch.ones(2, 2), 1.0), r"parameters of shape \(2, 2\)"),
        (3.0, "given must be"),
    ],
)
def test_what_cannot_be_a_prior_is_refused(given, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.Distribution(given)
