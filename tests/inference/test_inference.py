"""Every method against closed forms, and what posteriors offer."""

import math
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray
from linear import closed_form

import pddlvm
from pddlvm import plot
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.sampling.coordinates import Coordinates
from pddlvm.sampling.explore import cautious, explore
from pddlvm.sampling.hmc import StepSize, start_at, transition
from pddlvm.sampling.statistics import bulk_size, khat, rhat
from pddlvm.sampling.target import Target
from problems import poisson

METHODS = ("laplace", "variational", "nuts", "exact", "amortized")
SLOW = ("nuts", "exact", "amortized")
EACH = [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in METHODS]
POINTS = [0.2, 0.4, 0.6, 0.9]
STEPS = torch.tensor([0.3], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


@pytest.fixture(scope="module")
def linear(linear_model):
    return linear_model


@pytest.fixture(scope="module")
def sensors(linear):
    return pddlvm.PointObservation(linear.problem, POINTS, 0.01)


@pytest.fixture(scope="module")
def data(linear, sensors):
    u = linear.problem.solve(linear.problem.prior.sample((2,), seed=3))
    return sensors.simulate(u, seed=4)


@pytest.fixture(scope="module")
def posteriors(linear, sensors, data):
    class Posteriors(dict):
        """Each when it is asked for."""

        def __missing__(self, method):
            if method == "amortized":
                linear.amortize(sensors, pddlvm.Full, max_steps=900)
            self[method] = linear.infer(data, sensors, method, n_samples=600, n_chains=4, seed=1)
            return self[method]

    return Posteriors()


@pytest.mark.parametrize("method", EACH)
def test_a_linear_gaussian_problem_has_its_closed_form(posteriors, linear, sensors, data, method):
    posterior = posteriors[method]
    for i in range(len(data)):
        mean, covariance = closed_form(linear.problem, sensors, data[i])
        std = covariance.diagonal().sqrt()
        # Some hundred draws leave 0.05 std in the mean, a short training of a network some more.
        tolerance = {"laplace": 0.01, "variational": 0.05, "amortized": 0.3}.get(method, 0.2)
        assert ((posterior.mean[i] - mean).abs() < tolerance * std).all()
        torch.testing.assert_close(posterior.std[i], std, rtol=tolerance, atol=0)
        z = posterior.sample((20_000,), seed=0)[:, i]
        correlation = float(torch.corrcoef(z.T)[0, 1])
        expected = float(covariance[0, 1] / (std[0] * std[1]))
        assert correlation == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
def test_data_that_no_training_has_seen(posteriors, linear, sensors):
    assert posteriors["amortized"].method == "amortized"
    prior = linear.problem.prior
    z = prior.unstandardise(torch.tensor([9.0, -9.0], dtype=torch.float64))
    y = sensors.simulate(linear.problem.solve(z), seed=5)
    posterior = linear.infer(y, sensors, "amortized")
    mean, covariance = closed_form(linear.problem, sensors, y)
    std = covariance.diagonal().sqrt()
    assert ((posterior.mean - mean).abs() < 0.2 * std).all()
    torch.testing.assert_close(posterior.std, std, rtol=0.1, atol=0)


@pytest.mark.parametrize("method", EACH)
def test_shapes(posteriors, linear, method):
    posterior = posteriors[method]
    assert posterior.mean.shape == posterior.std.shape == (2, 2)
    assert posterior.sample((5, 3), seed=0).shape == (5, 3, 2, 2)
    assert posterior.quantiles([0.1, 0.5, 0.9]).shape == (3, 2, 2)
    solution = posterior.solution(10)
    assert solution.mean.shape == (2, linear.problem.n_dofs)
    assert len(posterior.diagnostics.verdict) == 2
    assert "p_value: " in str(posterior.diagnostics)
    assert "2 parameters" in repr(posterior)


def by_quadrature(problem, obs, y) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of two parameters, in which u is linear, from the density on a fine grid."""
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    z = problem.prior.unstandardise(torch.cartesian_prod(axis, axis))
    u = z @ problem.solve(EYE)
    log_density = obs.log_prob(y, u) + problem.prior.log_prob(z)
    weights = log_density.softmax(0)
    mean = weights @ z
    return mean, (weights @ (z - mean).square()).sqrt()


@pytest.mark.parametrize(
    "noise", [pddlvm.StudentT(0.01, 4), pddlvm.UnknownStd(0.01, 0.5, 4)], ids=repr
)
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[pytest.mark.slow] * (m != "laplace")) for m in METHODS]
)
def test_every_method_takes_noise_that_is_not_gaussian(linear, noise, method):
    obs = pddlvm.PointObservation(linear.problem, POINTS, noise)
    y = obs.simulate(linear.problem.solve(torch.tensor([1.3, 0.4]).double()), seed=4)
    mean, std = by_quadrature(linear.problem, obs, y)
    if method == "amortized":
        linear.amortize(obs, pddlvm.Full, max_steps=900)
    posterior = linear.infer(y, obs, method, n_samples=600, n_chains=8, seed=1)
    draws = posterior.sample((600,), seed=2)
    # Gaussians do not have these tails.
    wide = method in ("laplace", "variational")
    assert (((draws.mean(0) - mean) / std).abs() < 0.3).all()
    assert ((draws.std(0) / std - 1).abs() < (0.4 if wide else 0.2)).all()


@pytest.mark.slow
def test_exact_says_of_u_what_the_solver_gives():
    problem = poisson.make(6, n_terms=2)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(2))
    obs = pddlvm.PointObservation(problem, [[0.3, 0.4], [0.6, 0.7]], 0.05)
    y = obs.simulate(problem.solve(torch.zeros(2).double()), seed=0)
    posterior = model.infer(y, obs, "exact", n_samples=40)
    z = posterior.sample((5,), seed=2)
    expected = problem.solve(z)
    # Two modes are far from a solution.
    assert (model.forward(z, corrections=1).mean - expected).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(posterior.solution(5, seed=2).samples, expected)
    torch.testing.assert_close(posterior.predictive(z, seed=3), obs.simulate(expected, seed=3))


@pytest.mark.parametrize("method", [EACH[0], EACH[1], EACH[4]])
def test_the_density_is_that_of_the_draws(posteriors, method):
    posterior = posteriors[method]
    # Of an amortised posterior: of the draws before they are resampled.
    z = posterior._density.propose((20_000,), seed=0)
    # E[log q] of a Gaussian is -d/2 (1 + log 2 pi) - log |L|.
    covariance = torch.stack([torch.cov(z[:, i].T) for i in range(2)])
    entropy = 0.5 * torch.logdet(covariance) + 1 + math.log(2 * math.pi)
    torch.testing.assert_close(posterior.log_prob(z).mean(0), -entropy, rtol=0, atol=0.03)


@pytest.mark.parametrize("method", [EACH[2], EACH[3]])
def test_draws_have_no_density(posteriors, method):
    with pytest.raises(pddlvm.InputError, match="no density"):
        posteriors[method].log_prob(torch.zeros(2, 2).double())


@pytest.mark.parametrize("method", [EACH[2], EACH[3]])
def test_chains_come_with_evidence(posteriors, method):
    diagnostics = posteriors[method].diagnostics
    assert diagnostics.rhat.shape == diagnostics.bulk_size.shape == (2, 2)
    assert (diagnostics.rhat < 1.03).all()
    assert (diagnostics.bulk_size > 150).all()
    assert (diagnostics.tail_size > 100).all()


@pytest.mark.parametrize("method", EACH[:3])
def test_k_hat_accepts_a_good_posterior(posteriors, method):
    checked = posteriors[method].check(64)
    assert (checked.diagnostics.khat < 0.7).all()


@pytest.mark.slow
def test_draws_of_the_finite_element_posterior_need_no_check(posteriors):
    exact = posteriors["exact"]
    assert exact.check() is exact
    assert (exact.diagnostics.acceptance > 0.5).all()


def test_k_hat_rejects_a_wrong_one(linear, sensors, data, posteriors):
    good = posteriors["laplace"]
    density = PushedGaussian(good._density.coordinates.moved(torch.full((2,), 6.0).double(), EYE))
    prior = linear.problem.prior

    def log_density(xi):
        z = prior.unstandardise(xi)
        return density.log_prob(z) + prior.standard_log_prob(xi) - prior.log_prob(z)

    wrong = replace(good, _density=density, _log_density=log_density).check(200)
    assert (wrong.diagnostics.khat > 0.7).all()
    assert all("k-hat" in verdict for verdict in wrong.diagnostics.verdict)
    assert str(wrong.diagnostics).startswith("verdict: 2 reject\n")
    assert wrong.diagnostics.counts == {"reject": 2}
    assert good.diagnostics.counts == {"accept": 2}


@pytest.mark.slow
def test_missing_values_are_left_out(linear, sensors, data):
    y = data[0].clone()
    y[[1, 2]] = torch.nan
    fewer = pddlvm.PointObservation(linear.problem, [0.2, 0.9], 0.01)
    mean, covariance = closed_form(linear.problem, fewer, y[[0, 3]])
    std = covariance.diagonal().sqrt()
    for method in ("variational", "exact"):
        posterior = linear.infer(y, sensors, method, n_samples=800)
        assert ((posterior.mean - mean).abs() < 0.15 * std).all()
        torch.testing.assert_close(posterior.std, std, rtol=0.15, atol=0)
    with pytest.raises(pddlvm.InputError, match="missing"):
        linear.infer(y, sensors, "amortized")


@pytest.mark.parametrize(
    ("method", "n"), [("laplace", 400), pytest.param("nuts", 80, marks=pytest.mark.slow)]
)
def test_what_arviz_reads(posteriors, linear, sensors, data, method, n):
    with pytest.raises(pddlvm.InputError, match=r"batch \(2,\); ask for each alone: model.infer"):
        posteriors["laplace"].to_arviz()
    posterior = linear.infer(data[0], sensors, method, n_samples=n)
    assert "a: " in repr(posterior)
    tree = posterior.to_arviz(n)
    assert set(tree.children) == {
        "posterior", "prior", "posterior_predictive", "prior_predictive", "observed_data",
    }  # fmt: skip
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        np.testing.assert_array_equal(tree[group]["sensor_x"], POINTS)
    assert set(tree["posterior"].data_vars) == {"a", "b"}
    chains, draws = tree["posterior"]["a"].shape
    assert chains * draws == n
    assert tree["posterior_predictive"]["y"].shape == (chains, draws, 4)
    assert float(tree["posterior"]["a"].mean()) == pytest.approx(
        float(posterior.mean[0]), abs=3 * float(posterior.std[0]) / 15
    )


def test_data_in_the_plane_keep_their_name_and_places():
    problem = poisson.make(4, n_terms=2)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(4))
    points = np.array([[0.3, 0.4], [0.6, 0.7], [0.5, 0.2]])
    obs = pddlvm.PointObservation(problem, points, 0.1)
    y = torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64)
    tree = model.infer(y, obs).to_arviz(40)
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)
    assert tree["prior_predictive"]["y"].shape == (1, 40, 3)
    np.testing.assert_array_equal(tree["observed_data"]["sensor_y"], points[:, 1])


def test_a_netcdf_file_is_what_arviz_reads(linear, sensors, data, tmp_path):
    posterior = linear.infer(data[0], sensors)
    posterior.to_netcdf(tmp_path / "post.nc", 80)
    with xarray.open_datatree(tmp_path / "post.nc", engine="h5netcdf") as tree:
        expected = posterior.to_arviz(80)
        xarray.testing.assert_equal(
            tree["posterior"].to_dataset(), expected["posterior"].to_dataset()
        )
        xarray.testing.assert_equal(tree["prior"].to_dataset(), expected["prior"].to_dataset())
    with pytest.raises(pddlvm.RunFileError, match="cannot write"):
        posterior.to_netcdf(tmp_path / "nowhere" / "post.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["post.nc"]


@pytest.mark.slow
def test_there_may_be_more_chains_than_explorers(linear, sensors, data):
    posterior = linear.infer(data[0], sensors, "nuts", n_samples=400, n_chains=100)
    assert posterior.chains(1, 0).shape == (100, 4, 2)
    # Chains that begin at the same place do not stay together.
    assert len(posterior.chains(1, 0)[:, 0, 0].unique()) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method"),
        ({"method": "nuts", "n_chains": 0}, "n_samples"),
        ({"method": "nuts", "n_samples": 3}, "n_samples"),
    ],
)
def test_bad_options_are_refused(linear, sensors, data, options, message):
    with pytest.raises(pddlvm.InputError, match=message):
        linear.infer(data, sensors, **options)


# --- the missing middle: bounded parameters ------------------------------------------------------


@pytest.fixture(scope="module")
def middle():
    model = pddlvm.LatentVariableModel(poisson.make_missing_middle(40))
    pddlvm.train(model, max_steps=300)
    return model


def test_the_missing_middle_has_its_closed_form():
    """Constant conductivity: the nodal values of a parabola, to round-off."""
    problem = poisson.make_missing_middle(20)
    f, left, right = 2.0, -0.3, 0.4
    z = torch.tensor([0.0, 0.0, 0.0, 0.0, f, left, right]).double()
    x = torch.from_numpy(problem.space.mesh.p[0])
    kappa = 1 + math.log(2)
    exact = f * (1 - x**2) / (2 * kappa) + left * (1 - x) / 2 + right * (1 + x) / 2
    torch.testing.assert_close(problem.solve(z), exact)
    seen = poisson.both_ends(problem).apply(problem.solve(z))
    assert len(seen) == 16
    assert (x.sort().values[8:13].abs() < 0.25).all()


@pytest.mark.slow
def test_bounded_parameters_stay_in_their_support(middle):
    problem = middle.problem
    obs = poisson.both_ends(problem, 0.2)
    z = problem.prior.sample(seed=2)
    y = obs.simulate(problem.solve(z), seed=5)
    reference = middle.infer(y, obs, "exact", n_samples=1200, n_chains=16)
    assert (reference.diagnostics.rhat < 1.05).all()
    for method in ("laplace", "variational", "nuts"):
        posterior = middle.infer(y, obs, method, n_samples=300, n_chains=1)
        draws = posterior.sample((500,), seed=0)
        assert problem.prior.contains(draws).all()
        # Means and spreads against chains on the finite element density.
        score = (posterior.mean - reference.mean).abs() / reference.std
        assert score.max() < (0.9 if method == "laplace" else 0.4)
        ratio = posterior.std / reference.std
        assert ((ratio > 0.7) & (ratio < 1.4)).all()


@pytest.mark.slow
def test_a_flow_learns_a_bounded_posterior(middle):
    problem = middle.problem
    obs = poisson.both_ends(problem)
    amortized = middle.amortize(obs, max_steps=500)
    assert middle.amortize(obs) is amortized
    z = problem.prior.sample((50,), seed=2)
    y = obs.simulate(problem.solve(z), seed=5)
    posterior = middle.infer(y, obs, "amortized")
    few = middle.infer(y[:3], obs, "amortized")
    assert problem.prior.contains(few.sample((20,), seed=0)).all()
    # Seconds of training tell more than the prior, and nothing wrong.
    assert ((posterior.mean - z) / posterior.std).square().mean() < 2
    assert posterior.std.mean() < 0.8 * problem.prior.sample((4000,), seed=0).std(0).mean()
    assert torch.isfinite(few.log_prob(few.sample(seed=1))).all()
    assert (posterior.log_prob(z + 100) == -torch.inf).all()


# --- parts ---------------------------------------------------------------------------------------


class Correlated(Target):
    """A Gaussian with a known mean and covariance."""

    def __init__(self, mean, covariance):
        prior = pddlvm.ParameterSpace(
            {"z": pddlvm.parameters.space.Block(len(mean), pddlvm.Normal())}
        )
        eye = torch.eye(len(mean)).double()
        super().__init__(Coordinates(prior, torch.zeros(len(mean)).double(), eye))
        self.mean, self.precision = mean, torch.linalg.inv(covariance)

    def value(self, w):
        d = w - self.mean
        return -0.5 * ((d @ self.precision) * d).sum(-1)

    def value_and_gradient(self, w):
        return self.value(w), -(w - self.mean) @ self.precision


class Funnel(Target):
    """x ~ N(0, 1), y | x ~ N(0, exp(6 x)): a density that narrows (Neal, 2003)."""

    def __init__(self):
        prior = pddlvm.ParameterSpace({"z": pddlvm.parameters.space.Block(2, pddlvm.Normal())})
        super().__init__(Coordinates.plain(prior))

    def value(self, w):
        x, y = w.unbind(-1)
        return -0.5 * x.square() - 0.5 * y.square() * (-6 * x).exp() - 3 * x

    def value_and_gradient(self, w):
        x, y = w.unbind(-1)
        scaled = y * (-6 * x).exp()
        return self.value(w), torch.stack([-x + 3 * y * scaled - 3, -scaled], dim=-1)


def test_hamiltonian_chains_have_the_moments_of_their_target(generator):
    mean = torch.tensor([0.5, -1.0, 2.0]).double()
    covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 0.5]]).double()
    target = Correlated(mean, covariance)
    visited, step = explore(target, torch.zeros(64, 3).double(), 100, generator, STEPS)
    state, found = start_at(target, visited[-1]), []
    for _ in range(300):
        state, _ = transition(target, state, step, generator)
        found.append(state.w)
    draws = torch.stack(found, dim=1)
    assert (rhat(draws) < 1.01).all()
    flat = draws.flatten(0, 1)
    size = bulk_size(draws).min()
    assert size > 2000
    torch.testing.assert_close(flat.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(flat.T), covariance, rtol=0.05, atol=0.05)


def test_the_step_size_settles_at_its_acceptance():
    size = StepSize(torch.tensor([1.0, 0.1]).double())
    for _ in range(500):
        size.update((-size.current).exp())
    assert (-size.final).exp().tolist() == pytest.approx([0.8, 0.8], abs=0.02)


@pytest.mark.slow
def test_few_chains_wait_where_a_density_is_narrow(generator):
    target = Funnel()
    start = torch.zeros(64, 2).double()
    visited, step = explore(target, start, 200, generator, STEPS, cautious)
    state, waiting = start_at(target, visited[-1]), []
    for _ in range(100):
        state, probability = transition(target, state, step, generator)
        waiting.append((probability < 0.05).double().mean())
    # With the step that the mean acceptance likes best it is a sixth of them.
    assert float(torch.stack(waiting).mean()) < 0.1


def test_coordinates_go_forth_and_back(generator):
    prior = poisson.make_missing_middle(10).prior
    xi = prior.sample_standard((20,), generator=generator)
    factor = torch.randn(7, 7, generator=generator).double().tril() + 3 * torch.eye(7).double()
    coordinates = Coordinates(prior, torch.randn(7, generator=generator).double(), factor)
    torch.testing.assert_close(coordinates.xi_of(coordinates.w_of(xi)), xi, rtol=1e-6, atol=1e-3)
    w = torch.randn(1, 7, generator=generator).double() * 0.1
    jacobian = torch.autograd.functional.jacobian(lambda v: coordinates.xi_of(v[None])[0], w[0])
    expected = torch.linalg.slogdet(jacobian @ torch.linalg.inv(factor))[1]
    torch.testing.assert_close(coordinates.log_jacobian(w)[0], expected)


def test_a_pushed_gaussian_integrates_to_one(generator):
    prior = pddlvm.ParameterSpace({"a": pddlvm.parameters.space.Block(1, pddlvm.Uniform(0.0, 2.0))})
    density = PushedGaussian(
        Coordinates(prior, torch.tensor([0.4]).double(), torch.tensor([[0.8]]).double())
    )
    z = torch.linspace(1e-4, 2 - 1e-4, 20_001).double()[:, None]
    p = density.log_prob(z).exp()
    assert float(torch.trapezoid(p, z[:, 0])) == pytest.approx(1, abs=1e-3)
    mean = torch.trapezoid(p * z[:, 0], z[:, 0])
    torch.testing.assert_close(density.mean[0], mean, rtol=1e-3, atol=0)


def test_k_hat_of_a_single_draw_that_outweighs_all_is_infinite():
    ratios = torch.linspace(0, 1, 64).double()
    ratios[5] = 1000.0
    assert khat(ratios) == math.inf


def test_k_hat_tells_tails_apart():
    rng = np.random.default_rng(0)
    light = torch.from_numpy(0.3 * rng.standard_normal(1000))
    assert 0 != khat(light) < 0.3
    # Whatever the tail of ratios that hardly differ is, they need no weights.
    assert khat(1e-3 * torch.from_numpy(rng.standard_t(2, 64))) == 0
    # Ratios with a Pareto tail of shape 1.
    heavy = torch.from_numpy(rng.pareto(1.0, 1000) + 1).log()
    assert khat(heavy) > 0.7


# --- calibration of the inference -----------------------------------------------------------------


def test_the_inference_is_calibrated(linear, sensors):
    report = pddlvm.validate_inference(linear, sensors, "laplace", n_data=200)
    assert report.p_value > 0.01
    assert report.tarp_p_value > 0.01
    assert report.coverage[0.95] == pytest.approx(0.95, abs=0.04)
    assert report.error == pytest.approx(1, abs=0.12)
    assert "TARP" in str(report)


def test_an_overconfident_inference_is_found_out(linear):
    told = pddlvm.PointObservation(linear.problem, POINTS, 0.01)
    true = pddlvm.PointObservation(linear.problem, POINTS, 0.03)
    told.noise.sample = true.noise.sample
    report = pddlvm.validate_inference(linear, told, "laplace", n_data=200)
    assert report.p_value < 1e-3
    assert report.coverage[0.95] < 0.85


def test_figures_of_the_inference(posteriors, linear, sensors, data):
    one = {"laplace": linear.infer(data[0], sensors), "both": posteriors["laplace"]}
    with pytest.raises(pddlvm.InputError, match="one data set"):
        plot.marginals(one)
    del one["both"]
    figure = plot.marginals(one, truth=torch.tensor([1.0, -0.5]))
    assert [ax.get_xlabel() for ax in figure.axes] == ["a", "b"]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"prior", "laplace"}
    report = pddlvm.validate_inference(linear, sensors, n_data=40)
    ranks, coverage = plot.inference_figure(report).axes
    assert sum(patch.get_data().values.sum() for patch in ranks.patches[:1]) == 80
    assert len(coverage.lines) == 3
    plt.close("all")


def test_a_corner_plot_has_a_panel_for_each_pair(linear, sensors, data):
    posterior = linear.infer(data[0], sensors)
    figure = plot.corner(posterior, truth=torch.tensor([1.0, -0.5]))
    drawn = [ax for ax in figure.axes if ax.axison]
    assert len(drawn) == 3
    assert (drawn[1].get_xlabel(), drawn[1].get_ylabel()) == ("a", "b")
    assert drawn[2].get_xlabel() == "b"
    plt.close("all")
    for options in ({"parameters": [2]}, {"parameters": []}, {"parameters": list(range(13))}):
        with pytest.raises(pddlvm.InputError, match="parameters"):
            plot.corner(posterior, **options)
    with pytest.raises(pddlvm.InputError, match="one data set"):
        plot.corner(linear.infer(data, sensors))


# --- populations ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_population_is_learnt_from_data_alone(linear, sensors):
    rng = torch.Generator().manual_seed(0)
    side = torch.where(torch.rand(300, generator=rng) < 0.5, -1.0, 1.0).double()
    a = 1.0 + 0.7 * side + 0.05 * torch.randn(300, generator=rng).double()
    b = -0.5 + 0.2 * torch.randn(300, generator=rng).double()
    u = linear.problem.solve(torch.stack([a, b], dim=1))
    y = sensors.simulate(u, seed=1)
    population = pddlvm.learn_population(linear, sensors, y, max_steps=1500)
    new = population.sample(1000, seed=2)
    assert new.u.shape == (1000, linear.problem.n_dofs)
    assert new.y.shape == (1000, 4)
    left = new.z[:, 0] < 1.0
    assert 0.35 < float(left.double().mean()) < 0.65
    assert float(new.z[left, 0].mean()) == pytest.approx(0.3, abs=0.15)
    assert float(new.z[~left, 0].mean()) == pytest.approx(1.7, abs=0.15)
    assert new.residual_norm.median() < 0.1
    # Data of the population are likelier than data of the prior.
    other = sensors.simulate(linear.problem.solve(linear.problem.prior.sample((100,), seed=5)))
    assert population.log_likelihood(y[:100]).mean() > population.log_likelihood(other).mean()
    with pytest.warns(UserWarning, match="1 of 2 data sets are unlike"):
        population.infer(torch.stack([y[0], y[0] + 5]), 10)
    # Given its data, a member is close to where it was, and closer than under the prior alone.
    members = population.infer(y[:40].reshape(2, 20, 4), 200, seed=3)
    assert members.shape == (200, 2, 20, 2)
    truth = torch.stack([a, b], dim=1)[:40]
    found = members.reshape(200, 40, 2)
    score = (found.mean(0) - truth) / found.std(0)
    assert score.square().mean().sqrt() < 1.5
    under_prior = linear.infer(y[:40], sensors).std
    assert (found.std(0)[:, 0] < under_prior[:, 0]).double().mean() > 0.9


@pytest.mark.parametrize(
    "y", [torch.zeros(3, 4), torch.zeros(20, 3), torch.full((20, 4), torch.nan)]
)
def test_a_population_needs_data(linear, sensors, y):
    with pytest.raises(pddlvm.InputError):
        pddlvm.learn_population(linear, sensors, y.double(), max_seconds=1)
