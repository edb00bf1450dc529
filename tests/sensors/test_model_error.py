"""Model errors beside the noise: densities, draws, posteriors, what is refused."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist

import pddlvm
from pddlvm.linalg.low_rank import LowRank

X = np.array([[0.1, 0.2], [0.3, 0.1], [0.35, 0.2], [0.8, 0.7], [0.9, 0.9]])
K = np.exp(-0.5 * (cdist(X, X) / 0.4) ** 2)
A, S = pddlvm.LogNormal(math.log(0.3), 0.5), pddlvm.UnknownStd(0.1, 0.4, 5)
NAN = math.nan
MISFITS = torch.tensor(
    [[0.2, 0.3, 0.1, -0.5, 0.4], [0.01, 0.0, 0.02, 0.0, 0.01], [0.9, -0.6, 0.3, 0.0, 1.5]]
).double()
WITH_GAPS = torch.tensor([[0.2, NAN, 0.1, -0.5, NAN], [NAN, NAN, NAN, 0.3, NAN]]).double()
KINDS = {
    "all known": (0.3, 0.1),
    "std": (A, 0.1),
    "noise": (0.3, S),
    "both": (A, S),
    "bounded": (pddlvm.LogUniform(0.1, 1.0), 0.1),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def noise_of(kind):
    return pddlvm.ModelError(kind[0], 0.4).at(X, kind[1])


def spread(level, n=181):
    """Values of a level and their weights under the prior."""
    if isinstance(level, float):
        return np.array([level]), np.ones(1)
    if isinstance(level, pddlvm.LogUniform):
        nodes, weights = np.polynomial.legendre.leggauss(80)
        middle = np.log([level.low, level.high]).mean()
        return np.exp(middle + nodes * np.log(level.high / level.low) / 2), weights / 2
    t = np.linspace(-9, 9, n)
    mean, std = (
        (math.log(level.scale), level.spread)
        if isinstance(level, pddlvm.UnknownStd)
        else (level.mean, level.std)
    )
    return np.exp(mean + std * t), scipy.stats.norm.pdf(t) * (t[1] - t[0])


def density(kind, misfit, error=0.0):
    """By integration over both levels, one covariance at a time."""
    seen = ~np.isnan(misfit)
    (a, p), (s, q) = spread(kind[0]), spread(kind[1])
    c = a[:, None, None, None] ** 2 * K + s[:, None, None] ** 2 * np.eye(5) + error
    c = torch.from_numpy(c)[..., seen, :][..., seen]
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(c[0, 0])).double(), c)
    found = normal.log_prob(torch.from_numpy(misfit[seen])).exp().numpy()
    return math.log((p[:, None] * q * found).sum())


@kinds
def test_density_is_the_integral_over_levels(kind):
    noise = noise_of(kind)
    for misfits in (MISFITS, WITH_GAPS):
        expected = [density(kind, m) for m in misfits.numpy()]
        # Of trapezoidal rules in both, whose points differ.
        np.testing.assert_allclose(noise.log_prob(misfits), expected, rtol=1e-6, atol=5e-3)


@kinds
def test_density_does_not_depend_on_the_batch(kind):
    noise = noise_of(kind)
    one = torch.stack([noise.log_prob(m) for m in MISFITS])
    torch.testing.assert_close(noise.log_prob(MISFITS), one)
    torch.testing.assert_close(noise.log_prob(MISFITS[:, None]).squeeze(-1), one)
    assert noise.log_prob(MISFITS[:0]).shape == (0,)


@kinds
def test_gradient_of_the_density_is_that_of_the_precision(kind):
    noise = noise_of(kind)
    for misfits in (MISFITS, WITH_GAPS):
        at = misfits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(noise.log_prob(at).sum(), at)
        white = noise.precision(misfits).white(misfits.nan_to_num())
        expected = (noise.precision(misfits).dense() @ misfits.nan_to_num()[..., None])[..., 0]
        torch.testing.assert_close(gradient.nan_to_num(), -expected)
        torch.testing.assert_close(
            white.square().sum(-1), (expected * misfits.nan_to_num()).sum(-1)
        )


def test_known_levels_are_a_gaussian_with_both():
    noise = noise_of(KINDS["all known"])
    gaussian = pddlvm.Gaussian(torch.from_numpy(0.09 * K + 0.01 * np.eye(5)), 5)
    for misfits in (MISFITS, WITH_GAPS):
        torch.testing.assert_close(noise.log_prob(misfits), gaussian.log_prob(misfits))
        torch.testing.assert_close(noise.square(misfits), gaussian.square(misfits))
        ours, theirs = noise.precision(misfits), gaussian.precision(misfits)
        torch.testing.assert_close(ours.dense(), theirs.dense())
        torch.testing.assert_close(ours.log_det, theirs.log_det)
    torch.testing.assert_close(noise.covariance(), gaussian.covariance())


@pytest.mark.parametrize("kind", [KINDS["all known"], KINDS["std"]])
def test_errors_of_predictions_widen_it(kind):
    factor = torch.tensor([[0.1, 0.2, 0.3, 0.0, -0.1]]).double().mT[None]
    seen = torch.tensor([[True, True, False, True, True]])
    widened = noise_of(kind).widened(seen, LowRank.of_factor(factor))
    misfits = torch.where(seen, MISFITS, NAN)
    error = (factor @ factor.mT)[0].numpy()
    expected = [density(kind, m, error) for m in misfits.numpy()]
    np.testing.assert_allclose(widened.log_prob(misfits), expected, rtol=1e-6, atol=5e-3)


@kinds
def test_draws_have_their_covariance(kind):
    e = noise_of(kind).sample((100_000,), torch.Generator().manual_seed(0))
    (a, p), (s, q) = spread(kind[0]), spread(kind[1])
    expected = (p * a**2).sum() * K + (q * s**2).sum() * np.eye(5)
    # Squares of log-normal levels have tails: 2 % of the largest.
    np.testing.assert_allclose(np.cov(e.numpy().T), expected, atol=0.03 * expected.max())


@kinds
def test_sizes_of_draws_are_about_chi_squares(kind):
    noise = noise_of(kind)
    misfits = noise.sample((2000,), torch.Generator().manual_seed(1))
    p = scipy.stats.chi2.sf(noise.square(misfits).numpy(), 5)
    # Sums of weighted chi-squares are taken for one: a p-value is right to a few percent.
    for level in (0.05, 0.5):
        assert abs((p < level).mean() - level) < 0.05


@kinds
@pytest.mark.slow
def test_drawn_levels_and_errors_are_those_of_the_prior(kind):
    """Draws given data that were drawn are draws of the prior (Geweke's test)."""
    noise, generator = noise_of(kind), torch.Generator().manual_seed(2)
    n = 2000
    misfits = noise.sample((n,), generator)
    misfits[:, 1] = NAN
    errors, std = noise.draw_error(misfits, generator)
    a, p = spread(kind[0])
    expected = (p * a**2).sum() * K
    np.testing.assert_allclose(np.cov(errors.numpy().T), expected, atol=0.25 * expected.max())
    levels = noise.draw_levels(misfits, generator)
    assert set(levels) == {
        name
        for name, level in (("model_error_std", kind[0]), ("noise_std", kind[1]))
        if not isinstance(level, float)
    }
    if "noise_std" in levels:
        scores = (levels["noise_std"].log() - math.log(S.scale)) / S.spread
        assert scipy.stats.kstest(scores.numpy(), "norm").pvalue > 1e-3
    if "model_error_std" in levels:
        for drawn in (levels["model_error_std"], std):
            u = scipy.stats.norm.cdf(kind[0].standardise(drawn).numpy())
            if isinstance(kind[0], pddlvm.LogUniform):
                u = kind[0].standardise(drawn).numpy() / (2 * math.sqrt(3)) + 0.5
            assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3


def test_drawn_levels_of_unknown_noise_are_those_of_the_prior():
    generator = torch.Generator().manual_seed(3)
    drawn = S.draw_levels(S.sample((4000,), generator), generator)["noise_std"]
    scores = (drawn.log() - math.log(S.scale)) / S.spread
    assert scipy.stats.kstest(scores.numpy(), "norm").pvalue > 1e-3


def test_components_have_errors_of_their_own():
    noise = pddlvm.ModelError(0.3, 0.4).at(X, 0.1, n_components=2)
    expected = 0.09 * np.kron(K, np.eye(2)) + 0.01 * np.eye(10)
    np.testing.assert_allclose(noise.covariance(), expected, atol=1e-12)


# In a posterior


LINE = pddlvm.fem.Space(pddlvm.fem.interval(16))
POINTS = np.linspace(0.1, 0.9, 9)


def bent(u, du, x, a, b):
    return 0.5 * du[0] ** 2 - (a + b * x[0]) * u


@pytest.fixture(scope="module")
def model():
    fields = {k: pddlvm.Constant(pddlvm.Normal(1.0, 1.0)) for k in ("a", "b")}
    terms = [pddlvm.Energy(LINE.interior(), bent)]
    problem = pddlvm.Problem("line", LINE, terms, fields, [pddlvm.Dirichlet(None)])
    found = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal(), seed=0)
    pddlvm.train(found, max_steps=200, calibrate=False)
    found.calibrate(128)
    return found


@pytest.mark.slow
def test_posterior_of_the_error_is_that_of_a_linear_problem(model):
    """z and d are Gaussian together: u is linear in z."""
    problem = model.problem
    obs = pddlvm.PointObservation(problem, POINTS, 0.003, model_error=pddlvm.ModelError(0.01, 0.3))
    y = obs.simulate(problem.solve(problem.prior.sample(seed=0)), seed=1)
    y[3] = NAN
    zero = problem.solve(torch.zeros(1, 2).double())
    h = (obs.apply(problem.solve(torch.eye(2).double())) - obs.apply(zero)).T
    k = torch.from_numpy(1e-4 * np.exp(-0.5 * (cdist(POINTS[:, None], POINTS[:, None]) / 0.3) ** 2))
    joint = h @ h.T + k + 9e-6 * torch.eye(9)
    seen = ~torch.isnan(y)
    gain = torch.linalg.solve(joint[seen][:, seen], torch.cat([h.T, k])[:, seen].mT).mT
    mean = gain @ (y - h.sum(1))[seen]
    covariance = torch.cat(
        [torch.cat([torch.eye(2), torch.zeros(9, 2)]), torch.cat([torch.zeros(2, 9), k])], 1
    )
    covariance = covariance - gain @ torch.cat([h.T, k])[:, seen].mT
    std = covariance.diagonal().sqrt()
    posterior = model.infer(y, obs)
    torch.testing.assert_close(
        posterior.mean, 1 + mean[:2], rtol=0, atol=0.03 * float(std[:2].min())
    )
    torch.testing.assert_close(posterior.std, std[:2], rtol=0.02, atol=0)
    error = posterior.model_error
    # Four hundred draws.
    assert ((error.mean - mean[2:]).abs() < 0.2 * std[2:]).all()
    torch.testing.assert_close(error.std, std[2:], rtol=0.15, atol=0)
    assert error.level is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["laplace", "nuts", "exact"])
def test_unknown_levels_are_found_from_many_sensors(model, method):
    points = np.linspace(0.02, 0.98, 40)
    error = pddlvm.ModelError(pddlvm.LogNormal(math.log(0.02), 0.7), 0.1)
    obs = pddlvm.PointObservation(
        model.problem, points, pddlvm.UnknownStd(0.01, 0.7, 40), model_error=error
    )
    truth = pddlvm.PointObservation(
        model.problem, points, 0.004, model_error=pddlvm.ModelError(0.03, 0.1)
    )
    y = truth.simulate(model.problem.solve(model.problem.prior.sample(seed=4)), seed=5)
    posterior = model.infer(y, obs, method, n_samples=400)
    for level, value in ((posterior.noise_std, 0.004), (posterior.model_error.level, 0.03)):
        low, high = level.interval(0.99)
        assert low < value < high
        assert level.std < 0.5 * level.mean
    if method == "exact":
        # Chains of 100 draws each may be told to go on.
        assert posterior.diagnostics.verdict.startswith(("accept", "refine: R-hat"))
        assert (posterior.diagnostics.rhat < 1.05).all()
    else:
        assert posterior.diagnostics.verdict == "accept"


def test_results_have_the_batch_and_dtype_of_the_data(model):
    obs = pddlvm.PointObservation(
        model.problem,
        POINTS,
        pddlvm.UnknownStd(0.01, 0.5, 9),
        model_error=pddlvm.ModelError(0.1, 0.3),
    )
    z = model.problem.prior.sample((2, 3), seed=0)
    posterior = model.infer(obs.simulate(model.problem.solve(z), seed=1).float(), obs)
    assert posterior.noise_std.mean.shape == posterior.noise_std.std.shape == (2, 3)
    assert posterior.noise_std.samples.shape == (400, 2, 3)
    assert posterior.model_error.mean.shape == posterior.model_error.std.shape == (2, 3, 9)
    assert posterior.noise_std.mean.dtype == posterior.model_error.mean.dtype == torch.float32


# What is refused


def test_levels_that_are_known_are_not_asked_for(model):
    obs = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    posterior = model.infer(torch.zeros(9).double(), obs)
    with pytest.raises(pddlvm.InputError, match=r"level of the noise is known.*UnknownStd"):
        _ = posterior.noise_std
    with pytest.raises(pddlvm.InputError, match=r"no model error; give one"):
        _ = posterior.model_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0), "std of ModelError must be positive"),
        ((pddlvm.Normal(), 1.0), "prior of std of ModelError must be one of a positive number"),
        ((1.0, -1.0), "length of ModelError must be positive"),
        ((1.0, 1.0, 3.0), "covariance of ModelError must be a function"),
    ],
)
def test_errors_that_are_none_are_refused(arguments, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.ModelError(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, pddlvm.StudentT(0.1, 5)), "goes with Gaussian noise"),
        ((X, pddlvm.UnknownStd(0.1, 0.4, 4)), "of 4 sensors, and there are 5"),
        ((X, -0.1), "noise_std must be positive"),
        ((X[None], 0.1), r"points must be finite, \(n_points, dim\)"),
        (([0.1, NAN], 0.1), r"points must be finite"),
        ((X, 0.1, 0), "n_components"),
    ],
)
def test_sensors_that_are_none_are_refused(arguments, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.ModelError(1.0, 1.0).at(*arguments)


def test_a_model_error_of_points_is_one(model):
    with pytest.raises(pddlvm.InputError, match="model_error must be"):
        pddlvm.PointObservation(model.problem, POINTS, 0.01, model_error=0.1)
