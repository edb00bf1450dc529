"""Bad models and absurd data: every method answers, says no in words, or names what is wrong."""

import pytest
import torch

import pddlvm
from pddlvm.amortized.proposals import Proposals
from pddlvm.amortized.resampled import Resampled
from pddlvm.inference.finite_element_density import FiniteElementPosterior
from pddlvm.inference.finite_element_surrogate import FiniteElements
from pddlvm.inference.laplace import laplace
from pddlvm.inference.pushed_gaussian import PushedGaussian
from pddlvm.inference.surrogate_density import SurrogateTarget, _plausible
from pddlvm.sampling.coordinates import FAR, Coordinates
from pddlvm.sampling.statistics import khat, rhat
from problems import poisson

METHODS = [
    "laplace",
    "amortized",
    "variational",
    pytest.param("nuts", marks=pytest.mark.slow),
    pytest.param("exact", marks=pytest.mark.slow),
]
POINTS = [-0.5, 0.0, 0.5]


@pytest.fixture(scope="module")
def untrained():
    return pddlvm.LatentVariableModel(poisson.make_1d(8))


@pytest.fixture(scope="module")
def trained():
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    pddlvm.train(model, max_steps=100)
    return model


@pytest.fixture(scope="module")
def sensors(trained):
    return pddlvm.PointObservation(trained.problem, POINTS, 0.01)


@pytest.fixture(scope="module")
def data(trained, sensors):
    u = trained.problem.solve(torch.tensor([0.3], dtype=torch.float64))
    return sensors.simulate(u, seed=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("which", "size"),
    [
        ("untrained", 1e6),
        ("trained", -1e3),
        ("trained", 1e13),
        pytest.param("untrained", 1e13, marks=pytest.mark.slow),
        pytest.param("untrained", -1e3, marks=pytest.mark.slow),
        pytest.param("trained", 1e6, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_absurd_data_are_called_so(which, size, method, request):
    model = request.getfixturevalue(which)
    obs = pddlvm.PointObservation(model.problem, POINTS, 0.01)
    if method == "amortized":
        model.amortize(obs, max_steps=3)
    y = size * torch.tensor([1.0, -0.4, 0.7], dtype=torch.float64)
    posterior = model.infer(y, obs, method, n_samples=16, n_chains=2)
    z = posterior.sample((20,), seed=0)
    assert torch.isfinite(z).all() and torch.isfinite(posterior.mean + posterior.std).all()
    assert float(posterior.diagnostics.p_value) < 1e-3
    assert not posterior.check().diagnostics.verdict.startswith("accept")


def cloud(problem, centre, std):
    """N(centre, std^2) of the one parameter, far wider than its prior."""
    shift, factor = torch.tensor([[centre]]).double(), torch.tensor([[[std]]]).double()
    return PushedGaussian(Coordinates(problem.prior, shift, factor))


def test_a_wild_network_is_put_right(trained, sensors, data):
    # Its draws have conductivities that vanish in float64: solutions of 1e30, or none.
    network = cloud(trained.problem, -0.4, 300.0)
    surrogate = trained.surrogate(sensors, corrections=1)
    found = laplace(surrogate, data[None])
    gaussian = found.density
    proposals = Proposals(surrogate, data, network, False, lambda: found)
    z = Resampled(network, [proposals]).sample((400,), seed=0)[:, 0]
    assert float((z.mean() - gaussian.mean) / gaussian.std) == pytest.approx(0, abs=0.1)
    assert float(z.std() / gaussian.std) == pytest.approx(1, abs=0.1)


def test_a_network_out_of_all_numbers_still_gives_numbers(trained, sensors, data):
    network = cloud(trained.problem, 0.0, 1e30)
    surrogate = trained.surrogate(sensors, corrections=1)
    proposals = Proposals(surrogate, data, network, False, lambda: None)
    assert torch.isfinite(Resampled(network, [proposals]).sample((20,), seed=0)).all()
    with torch.no_grad():
        assert float(proposals._around.factor) < 2 * FAR


@pytest.mark.parametrize("size", [-1e3, 1e6, 1e13])
def test_a_search_ends_at_the_edge(trained, sensors, size):
    y = size * torch.tensor([[1.0, -0.4, 0.7]], dtype=torch.float64)
    found = laplace(trained.surrogate(sensors, corrections=1), y)
    assert found.coordinates.centre.abs().max() <= FAR
    assert found.converged.all() and torch.isfinite(found.coordinates.factor).all()


def test_beyond_the_edge_the_prior_decides(trained, sensors, data):
    surrogate = trained.surrogate(sensors, corrections=1)
    coordinates = cloud(trained.problem, 0.3, 0.02).coordinates.of(0)
    target = SurrogateTarget(surrogate, data, coordinates, torch.Generator().manual_seed(0))
    # On the other side u is so large that rounding of the misfit may hide the prior.
    far = torch.tensor([[1e3], [2e3]], dtype=torch.float64)
    value = target.log_prob(far).detach()
    assert float(value[0] - value[1]) == pytest.approx(0.5 * (2e3**2 - 1e3**2), rel=1e-3)


def test_what_the_fit_leaves_out_is_the_density_of_corrected_data(trained, sensors, data):
    surrogate = trained.surrogate(sensors, corrections=1)
    coordinates = cloud(trained.problem, 0.3, 0.5).coordinates.of(0)
    target = SurrogateTarget(surrogate, data, coordinates, torch.Generator().manual_seed(0))
    w = torch.linspace(-2, 2, 5).double()[:, None]
    xi = coordinates.xi_of(w)
    error = surrogate.error(coordinates.xi_of(torch.zeros(1, 1).double()))
    noise = sensors.noise.widened(torch.ones(1, len(data), dtype=torch.bool), error)
    expected = noise.log_prob(data - surrogate.mean(xi))
    expected = expected + surrogate.prior.standard_log_prob(xi)
    with torch.no_grad():
        fitted = target.log_prob(xi)
        assert (fitted - expected).abs().max() > 0.1
        torch.testing.assert_close(fitted + target.left_out(w), expected)


@pytest.mark.parametrize("std", [200.0, 1e6])
def test_corrections_that_fail_are_left_out(trained, sensors, data, std):
    coordinates = cloud(trained.problem, 0.0, std).coordinates.of(0)
    generator = torch.Generator().manual_seed(0)
    surrogate = trained.surrogate(sensors, corrections=1)
    target = SurrogateTarget(surrogate, data, coordinates, generator)
    value, slope = target.value_and_gradient(torch.tensor([[0.3], [1.0]]).double() / std)
    assert torch.isfinite(value).all() and torch.isfinite(slope).all()
    assert value[0] > value[1]


def test_a_value_beyond_the_digits_of_its_noise_is_refused(trained, sensors):
    y = torch.tensor([0.1, 1e16, 0.1], dtype=torch.float64)
    with pytest.raises(pddlvm.InputError, match="standard deviations of the noise"):
        trained.infer(y, sensors)


def test_no_data_at_all_are_no_error(sensors):
    assert sensors.check(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    "method", ["laplace", "amortized", pytest.param("variational", marks=pytest.mark.slow)]
)
def test_absurd_data_of_a_bounded_prior(method):
    model = pddlvm.LatentVariableModel(poisson.make_missing_middle(20))
    noise = pddlvm.StudentT(0.01, 2)
    obs = pddlvm.PointObservation(model.problem, [-0.9, 0.9], noise)
    if method == "amortized":
        model.amortize(obs, max_steps=3)
    posterior = model.infer(torch.tensor([[1e9, -1e12], [0.1, 0.1]]).double(), obs, method)
    assert model.problem.prior.contains(posterior.sample((20,), seed=0)).all()
    assert torch.isfinite(posterior.mean + posterior.std).all()


def test_a_problem_without_solutions_is_no_evidence(trained, sensors, data, monkeypatch):
    posterior = trained.infer(data, sensors)

    def fails(z):
        raise pddlvm.ConvergenceError("no solution")

    assert posterior.check(n_solves=32).diagnostics.khat < 0.7
    monkeypatch.setattr(trained.problem, "solve_with_factors", fails)
    assert torch.isinf(posterior.check(n_solves=32).diagnostics.khat)
    data, slope = FiniteElements(sensors).linearise(torch.zeros(2, 1).double())
    assert torch.isnan(data).all() and torch.isnan(slope).all()


def test_only_the_samples_without_a_solution_have_no_density(trained, sensors, data, monkeypatch):
    solve = trained.problem.solve_with_factors

    def fails_at_one(z):
        if (z > 0.5).any():
            raise pddlvm.ConvergenceError("no solution")
        return solve(z)

    xi = torch.tensor([[0.2], [0.7], [0.3]]).double()
    expected = FiniteElementPosterior(sensors, data).log_prob(xi)
    monkeypatch.setattr(trained.problem, "solve_with_factors", fails_at_one)
    density = FiniteElementPosterior(sensors, data)
    value, slope = density.log_prob_and_gradient(xi)
    assert value[1] == -torch.inf and slope[1] == 0
    torch.testing.assert_close(value[[0, 2]], expected[[0, 2]])
    assert torch.equal(density.log_prob(xi), value)


def test_a_map_that_is_not_finite_is_named(sensors):
    model = pddlvm.LatentVariableModel(poisson.make_1d(8))
    with torch.no_grad():
        for weight in model.forward_map.parameters():
            weight.fill_(torch.nan)
    y = torch.zeros(3).double()
    for ask in (lambda: model.infer(y, sensors), lambda: model.amortize(sensors, max_steps=3)):
        with pytest.raises(pddlvm.ConvergenceError, match=r"finite.*was the model trained"):
            ask()


def test_chains_that_stay_where_they_began_are_called_so():
    places = torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    stuck = places.expand(4, 50, 2)
    assert torch.isinf(rhat(stuck)).all()
    assert torch.isinf(rhat(torch.zeros(4, 50, 2).double())).all()
    assert khat(torch.full((64,), -torch.inf)) == float("inf")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_predictions_that_stand_out_are_not_plausible(bad):
    data = torch.ones(10, 2).double()
    data[:3, 1] = bad
    assert _plausible(data).tolist() == [False] * 3 + [True] * 7
    data[:, 0] = torch.nan
    assert not _plausible(data).any()
