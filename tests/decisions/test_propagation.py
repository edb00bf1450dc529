"""Means and distributions of quantities: closed forms, and intervals that hold whatever g is."""

import math

import pytest
import torch
from small import in_time, strong

import pddlvm
from pddlvm.decisions.answers import Answers
from pddlvm.decisions.draws import even_draws
from pddlvm.parameters.space import Block
from problems import poisson


def average(problem):
    return pddlvm.Quantity(problem, pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.5]))


def moments(problem, quantity):
    """Mean and standard deviation of a linear quantity of the linear problem."""
    at = problem.prior.unstandardise(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    values = quantity(problem.solve(at))[:, 0]
    return float(values[0]), float((values[1:] - values[0]).norm())


@pytest.fixture
def bent(monkeypatch):
    """A surrogate that is wrong: of another size, shifted, and bent."""
    right = Answers.__call__

    def wrong(self, xi):
        return 0.5 * right(self, xi) + 0.3 + 0.02 * torch.sin(2 * xi.sum(-1, keepdim=True))

    monkeypatch.setattr(Answers, "__call__", wrong)


def test_draws_fill_the_prior_evenly():
    kinds = {"a": pddlvm.Normal(1.0, 2.0), "b": pddlvm.Uniform(0.0, 1.0), "c": pddlvm.LogNormal()}
    prior = pddlvm.ParameterSpace({name: Block(1, kind) for name, kind in kinds.items()})
    xi = even_draws(prior, 1000, 0)
    assert xi.shape == (8, 128, 3)
    flat = xi.flatten(0, 1)
    # Much closer than the 0.03 of independent draws.
    assert (flat.mean(0).abs() < 0.005).all() and ((flat.var(0) - 1).abs() < 0.02).all()
    assert not torch.equal(xi[0], xi[1])
    assert not torch.equal(xi, even_draws(prior, 1000, 1))


def test_mean_spread_and_interval_of_a_linear_problem(linear_model):
    problem = linear_model.problem
    quantity = average(problem)
    mean, std = moments(problem, quantity)
    found = pddlvm.propagate(linear_model, quantity, 2000, reference_solves=5)
    assert found.values.shape == (len(found.z), 1) and len(found.z) >= 2000
    assert float(found.mean) == pytest.approx(mean, abs=0.01 * std)
    assert float(found.std) == pytest.approx(std, rel=0.02)
    low, high = found.corrected_interval()
    # g is f but for rounding: what is left is the error of the mean of g.
    assert float(found.corrected_mean) == pytest.approx(float(found.mean), abs=1e-6 * std)
    assert float(high - low) < 20 * float(found.mean_error)
    assert "reference solves" in repr(found)


@pytest.mark.slow
def test_intervals_hold_the_mean_of_the_finite_element_model(linear_model, bent):
    problem = linear_model.problem
    quantity = average(problem)
    mean, std = moments(problem, quantity)
    n, hits, means, widths = 120, 0, [], []
    for seed in range(n):
        found = pddlvm.propagate(linear_model, quantity, 256, reference_solves=8, seed=seed)
        low, high = found.corrected_interval(0.9)
        hits += bool(low <= mean <= high)
        means.append(float(found.corrected_mean))
        widths.append(float(high - low))
    # Two standard deviations of 120 trials are 0.055.
    assert abs(hits / n - 0.9) < 0.06
    means = torch.tensor(means)
    assert abs(float(means.mean()) - mean) < 3 * float(means.std()) / math.sqrt(n)
    # Eight solves alone leave an interval of 1.34 std; the surrogate, as wrong as it is, a half.
    assert torch.tensor(widths).median() < 0.7 * std
    assert abs(float(found.mean) - mean) > std


def test_a_surrogate_that_says_nothing_leaves_plain_monte_carlo(linear_model, monkeypatch):
    quantity = average(linear_model.problem)
    monkeypatch.setattr(Answers, "__call__", lambda self, xi: torch.ones_like(xi[..., :1]))
    found = pddlvm.propagate(linear_model, quantity, 100, reference_solves=6)
    torch.testing.assert_close(found.corrected_mean, found.solved.mean(0))


def test_quantities_of_several_numbers_and_functions(linear_model):
    problem = linear_model.problem
    both = pddlvm.Quantity(problem, lambda u: torch.stack([u.amax(-1), u.amin(-1)], -1), "ends")
    found = pddlvm.propagate(linear_model, both, 500, reference_solves=4)
    assert found.values.shape[1] == 2 and found.corrected_mean.shape == (2,)
    exact = both(problem.solve(found.z[:50]))
    torch.testing.assert_close(found.values[:50], exact, rtol=1e-2, atol=1e-4)


def test_the_mean_of_a_finer_mesh():
    coarse, fine = poisson.make_1d(10), poisson.make_1d(40)
    model = pddlvm.LatentVariableModel(coarse)
    q, reference = average(coarse), average(fine)
    found = pddlvm.propagate(model, q, 1000, reference=reference, reference_solves=20)
    exact = float(reference(fine.solve(found.z[:: len(found.z) // 1000])).mean())
    low, high = found.corrected_interval(0.999)
    # The draws of the mean that it is compared with are among those of the surrogate.
    assert float(low) - 2e-3 < exact < float(high) + 2e-3
    assert torch.equal(found.solved, reference(fine.solve(found.solved_z)))


def test_a_posterior_in_the_place_of_the_prior(linear_model):
    problem = linear_model.problem
    quantity = average(problem)
    sensors = pddlvm.PointObservation(problem, [0.25, 0.5, 0.75], 0.01)
    truth = problem.prior.sample(seed=3)
    posterior = linear_model.infer(sensors.simulate(problem.solve(truth), seed=4), sensors)
    found = pddlvm.propagate(linear_model, quantity, 4000, posterior=posterior, reference_solves=10)
    draws = posterior.sample((4000,), seed=9)
    exact = quantity(problem.solve(draws))
    assert float(found.std) == pytest.approx(float(exact.std()), rel=0.1)
    reach = 5 * float(exact.std()) / math.sqrt(4000)
    assert abs(float(found.corrected_mean - exact.mean())) < reach
    batch = linear_model.infer(torch.zeros(2, 3).double(), sensors)
    with pytest.raises(pddlvm.InputError, match="batch"):
        pddlvm.propagate(linear_model, quantity, posterior=batch)


@pytest.mark.parametrize("n_solves", [1, 2])
def test_too_few_reference_solves_are_refused(linear_model, n_solves):
    with pytest.raises(pddlvm.InputError, match="0, or at least 3"):
        pddlvm.propagate(linear_model, average(linear_model.problem), reference_solves=n_solves)


def test_what_is_of_another_problem_is_refused(linear_model, poisson_1d):
    with pytest.raises(pddlvm.InputError, match="poisson-1d"):
        pddlvm.propagate(linear_model, average(poisson_1d))
    own = average(linear_model.problem)
    with pytest.raises(pddlvm.InputError, match="must be the same"):
        pddlvm.propagate(linear_model, own, reference=average(poisson_1d))
    two = pddlvm.Quantity(linear_model.problem, torch.eye(2, linear_model.problem.n_dofs))
    with pytest.raises(pddlvm.InputError, match="2 numbers"):
        pddlvm.propagate(linear_model, own, reference=two)


def test_without_solves_there_is_no_corrected_mean(linear_model):
    found = pddlvm.propagate(linear_model, average(linear_model.problem), 100)
    with pytest.raises(pddlvm.InputError, match="reference_solves=50"):
        _ = found.corrected_mean


@pytest.mark.parametrize("n_solves", [0, 12])
def test_distribution_of_a_linear_problem(linear_model, n_solves):
    problem = linear_model.problem
    quantity = average(problem)
    mean, std = moments(problem, quantity)
    found = pddlvm.propagate(linear_model, quantity, reference_solves=n_solves)
    p = torch.tensor([0.01, 0.3, 0.5, 0.975]).double()
    expected = mean + std * torch.special.ndtri(p)
    torch.testing.assert_close(found.quantiles(p)[:, 0], expected, rtol=0, atol=0.01 * std)
    assert float(found.exceedance(mean + 2 * std)) == pytest.approx(0.02275, rel=0.02)
    assert found.quantiles(0.5).shape == (1,)
    assert float(found.exceedance(found.quantiles(0.3))) == pytest.approx(0.7, abs=1e-4)


def test_distributions_have_the_error_of_the_surrogate_in_them(linear_model, bent):
    problem = linear_model.problem
    quantity = average(problem)
    mean, std = moments(problem, quantity)
    found = pddlvm.propagate(linear_model, quantity, reference_solves=60)
    g, f = found.predicted[:, 0], found.solved[:, 0]
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(g), g], 1), f[:, None]).solution
    left = f - line[0] - line[1] * g
    expected = float((left.square().sum() / 58).sqrt())
    assert float(found.surrogate_error) == pytest.approx(expected, rel=1e-9)
    low, high = found.quantiles([0.05, 0.95])[:, 0].tolist()
    # The law of f is normal; that of the line is narrower by what it leaves.
    assert high - low == pytest.approx(2 * 1.645 * std, rel=0.1)
    assert 0.5 * (high + low) == pytest.approx(mean, abs=0.2 * std)


@pytest.mark.parametrize("p", [0.0, 1.5, [0.5, math.nan]])
def test_levels_that_are_no_probabilities_are_refused(linear_model, p):
    found = pddlvm.propagate(linear_model, average(linear_model.problem), 100, reference_solves=3)
    with pytest.raises(pddlvm.InputError, match="between 0 and 1"):
        found.quantiles(p)
    with pytest.raises(pddlvm.InputError, match="a number or 1"):
        found.exceedance(torch.zeros(2))


@pytest.mark.parametrize("n_solves", [0, 5])
@pytest.mark.parametrize("make", [strong, pytest.param(in_time, marks=pytest.mark.slow)])
def test_problems_in_strong_form_and_in_time(make, n_solves):
    model = make()
    row = torch.ones(model.problem.solution_shape).flatten()
    quantity = pddlvm.Quantity(model.problem, row)
    found = pddlvm.propagate(model, quantity, 50, reference_solves=n_solves)
    middle = found.quantiles(0.5)
    assert float(found.exceedance(middle)) == pytest.approx(0.5, abs=1e-4)
