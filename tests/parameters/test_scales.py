"""Unknown scales of a field: covariances at given scales, slopes, what is lost, what is refused."""

import functools
import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import pddlvm
from pddlvm import fem, links
from pddlvm.parameters.identity import adopt, is_like, mark_of

LINE = fem.Space(fem.interval(60))
LENGTH, STD = pddlvm.LogUniform(0.1, 0.5), pddlvm.LogNormal(-0.5, 0.3)
ROUGHNESS = pddlvm.Matern(pddlvm.Uniform(1.0, 2.5))


@functools.cache
def on(n_terms=20, **options):
    options = {"length": LENGTH, "link": links.identity, **options}
    return pddlvm.KarhunenLoeve.on(LINE, n_terms, **options)


def covariance(field, scales):
    """That of the field at given scales, by its linear dependence on the terms."""
    z = torch.zeros(field.size, dtype=torch.float64)
    z[: len(scales)] = torch.tensor(scales).double()
    slope = torch.func.jacrev(field.coefficients)(z)[:, len(scales) :]
    psi = field.shapes(LINE.centroids) @ slope
    return (psi @ psi.T).numpy()


def distances():
    return cdist(LINE.centroids.x, LINE.centroids.x)


@pytest.mark.parametrize("length", [0.1, 0.17, 0.3, 0.5])
def test_covariance_at_a_length_is_that_asked_for(length):
    # Twenty terms lose 1e-6 of the variance, and roots are interpolated to 1e-4.
    expected = pddlvm.gaussian(distances() / length)
    np.testing.assert_allclose(covariance(on(), [length]), expected, atol=1e-4)


@pytest.mark.parametrize("nu", [1.0, 1.4, 2.5])
def test_covariance_at_a_smoothness_is_that_asked_for(nu):
    field = on(60, covariance=ROUGHNESS, length=0.3)
    expected = pddlvm.Matern(nu)(distances() / 0.3)
    # All terms that the mesh carries.
    np.testing.assert_allclose(covariance(field, [nu]), expected, atol=1e-3)


def test_all_scales_together():
    field = on(60, covariance=ROUGHNESS, std=STD)
    assert field.names[:4] == (".length", ".nu", ".std", "[0]")
    expected = 0.7**2 * pddlvm.Matern(1.2)(distances() / 0.2)
    np.testing.assert_allclose(covariance(field, [0.2, 1.2, 0.7]), expected, atol=1e-3)


@pytest.mark.slow
def test_draws_at_a_length_have_its_covariance():
    field, n = on(), 20_000
    z = field.prior.sample_standard((n, field.size), torch.Generator().manual_seed(0))
    z[:, 0] = 0.2
    values = field.at(LINE.centroids)(z)[:, ::10]
    # z-tests of 36 numbers.
    expected = pddlvm.gaussian(distances()[::10, ::10] / 0.2)
    np.testing.assert_allclose(torch.cov(values.T), expected, atol=4 * (2 / n) ** 0.5)


def test_what_the_terms_lose_is_what_is_missing():
    field = on(6)
    for length in (0.1, 0.2, 0.5):
        z = torch.tensor([length, *6 * [0.0]]).double()
        lost = 1 - np.trace(covariance(field, [length])) / len(LINE.centroids.x)
        assert float(field.lost_variance(z)) == pytest.approx(lost, abs=1e-10)
    # Six terms are too few for the shortest.
    short, long = field.lost_variance(torch.tensor([[0.1, *6 * [0]], [0.4, *6 * [0]]]).double())
    assert 0.05 < short < 0.15
    assert long < 1e-3


def test_an_unknown_std_alone_leaves_the_modes_as_they_are():
    field, known = on(8, std=STD, length=0.3), on(8, length=0.3)
    assert field.roots is None and field.size == 9
    expected = 0.25 * known.shapes(LINE.centroids) @ known.shapes(LINE.centroids).T
    np.testing.assert_allclose(covariance(field, [0.5]), expected, atol=1e-12)


def test_beyond_four_deviations_the_length_is_that_there():
    field = on(8, length=pddlvm.LogNormal(-1.2, 0.1))
    end = np.exp(-1.2 + 4 * 0.1)
    at_end, beyond = (covariance(field, [x]) for x in (end, 1.5 * end))
    np.testing.assert_allclose(at_end, beyond, atol=1e-12)


def test_coefficients_are_smooth_in_all_scales():
    field = on(5, covariance=ROUGHNESS, std=STD)
    z = torch.tensor([[0.2, 1.4, 0.7, 0.3, -0.5, 1.0, 0.2, 0.1]]).double().requires_grad_()
    assert torch.autograd.gradcheck(field.coefficients, (z,))
    assert torch.autograd.gradgradcheck(field.coefficients, (z,))


@pytest.mark.parametrize("options", [{}, {"std": STD}, {"length": 0.3, "std": STD}])
def test_slopes_at_points_are_those_of_the_field(options):
    at = on(5, **options).at(LINE.centroids)
    z = pddlvm.Problem("p", LINE, [PHYSICS], {"k": on(5, **options)}, ENDS).prior.sample((3,))
    expected = torch.func.vmap(torch.func.jacrev(at.latent))(z)
    torch.testing.assert_close(at.latent_slopes(z), expected)


# In a problem


def strain(u, du, x, k):
    return 0.5 * k * (du * du).sum() - u


PHYSICS, ENDS = pddlvm.Energy(LINE.interior(), strain), [pddlvm.Dirichlet(None)]


def problem(**options):
    options = {"std": STD, "link": links.exp, **options}
    return pddlvm.Problem("line", LINE, [PHYSICS], {"k": on(8, **options)}, ENDS)


def test_parameters_have_names():
    assert problem().parameter_names[:3] == ("k.length", "k.std", "k[0]")
    assert problem(length=0.3).parameter_names[:2] == ("k.std", "k[0]")


def test_adjoint_gradients_are_those_of_differences():
    one = problem()
    z, slope = one.prior.sample((1,), seed=0), torch.ones(1, one.n_dofs).double()
    found = one.sensitivities().adjoint(z)[1](slope)[0]
    steps = 1e-5 * torch.eye(one.n_parameters).double()
    differences = (one.solve(z + steps) - one.solve(z - steps)).sum(-1) / 2e-5
    torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def model():
    found = pddlvm.LatentVariableModel(problem(), basis=pddlvm.EnergyModes(12), seed=0)
    pddlvm.train(found, max_steps=50, calibrate=False)
    found.calibrate(128)
    return found


@pytest.mark.slow
def test_surrogates_have_the_slopes_of_their_means(model):
    observation = pddlvm.PointObservation(model.problem, [0.2, 0.5], 1e-3)
    surrogate = model.surrogate(observation, corrections=1)
    xi = model.problem.prior.sample_standard((2,), generator=torch.Generator().manual_seed(1))
    _, slope = surrogate.linearise(xi)
    steps = 1e-4 * torch.eye(xi.shape[1]).double()[:, None]
    ends = [surrogate.mean((xi + s * steps).flatten(0, 1)).unflatten(0, (-1, 2)) for s in (1, -1)]
    differences = (ends[0] - ends[1]).permute(1, 2, 0) / 2e-4
    # Central differences of smooth functions, of data to 1e-9.
    torch.testing.assert_close(slope, differences, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_lengths_are_inferred_within_their_prior(model):
    observation = pddlvm.PointObservation(model.problem, np.linspace(0.05, 0.95, 19), 1e-4)
    z = model.problem.prior.sample((4,), seed=2)
    posterior = model.infer(observation.simulate(model.problem.solve(z), seed=3), observation)
    draws = posterior.sample((200,), seed=0)
    assert ((draws[..., 0] >= 0.1) & (draws[..., 0] <= 0.5)).all()
    assert (draws[..., 1] > 0).all()
    # Half of the deviation of the prior, for a standard deviation of the field that is seen.
    assert (posterior.std[:, 1] < 0.25).all()


def test_a_model_is_saved_with_its_roots(tmp_path):
    model = pddlvm.LatentVariableModel(problem(), basis=pddlvm.EnergyModes(12), seed=0)
    model.save(tmp_path / "model.pt")
    loaded = pddlvm.load(tmp_path / "model.pt", problem())
    z = model.problem.prior.sample((2,), seed=0)
    assert torch.equal(loaded.forward(z).mean, model.forward(z).mean)


def test_a_problem_survives_pickling():
    one = problem()
    z = one.prior.sample((2,), seed=0)
    assert torch.equal(pickle.loads(pickle.dumps(one)).parameter_field(z), one.parameter_field(z))


OTHERS = {
    "length": {"length": pddlvm.LogUniform(0.1, 0.501)},
    "kind": {"length": pddlvm.Uniform(0.1, 0.5)},
    "known length": {"length": 0.3},
    "std": {"std": pddlvm.LogNormal(-0.5, 0.301)},
    "covariance": {"covariance": pddlvm.Matern(2.5)},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_a_problem_with_other_scales_is_another_one(options):
    one, other = problem(), problem(**options)
    assert not is_like(one, other)
    assert adopt(other, mark_of(one)) is None
    assert is_like(one, problem())


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": pddlvm.Normal(0.3, 0.1)}, "prior of length must be one of a positive number"),
        ({"std": pddlvm.Uniform(0.0, 1.0)}, "prior of std must be one of a positive number"),
        ({"length": pddlvm.LogUniform(1e-6, 1e3)}, "give narrower ones"),
        ({"length": torch.distributions.Poisson(3.0)}, "Poisson is discrete"),
        ({"length": -1.0}, "length must be positive"),
        ({"covariance": lambda r: 1.0}, "covariance must be a function"),
    ],
)
def test_scales_that_are_none_are_refused(options, message):
    with pytest.raises(pddlvm.InputError, match=message):
        on(5, **options)


def test_a_smoothness_that_is_none_is_refused():
    with pytest.raises(pddlvm.InputError, match="prior of nu of Matern must be one of a positive"):
        pddlvm.Matern(pddlvm.Normal(1.5, 1.0))


def test_a_correlation_without_a_number_is_refused():
    with pytest.raises(pddlvm.InputError, match="is for fields with unknown scales"):
        ROUGHNESS(np.ones(2))


def test_what_is_lost_is_asked_of_unknown_scales():
    with pytest.raises(pddlvm.InputError, match="whose length or nu is unknown"):
        on(8, length=0.3).lost_variance(torch.zeros(8))
    with pytest.raises(pddlvm.InputError, match="21 parameters of the field"):
        on().lost_variance(torch.zeros(20))
