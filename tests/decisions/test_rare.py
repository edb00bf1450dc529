"""Rare events: closed forms, in one place and in two, whatever the surrogate says."""

import math

import pytest
import torch

import pddlvm
from pddlvm.decisions.answers import Answers
from pddlvm.decisions.cross_entropy import Mixture, most_likely

FAR = 3.719
P = 0.5 * math.erfc(FAR / math.sqrt(2))
"""About 1e-4."""


@pytest.fixture
def average(linear_model):
    """A quantity of the linear problem, its mean and its standard deviation."""
    problem = linear_model.problem
    quantity = pddlvm.Quantity(problem, pddlvm.average_matrix(problem, [lambda x: x[:, 0] > 0.5]))
    at = problem.prior.unstandardise(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    values = quantity(problem.solve(at))[:, 0]
    return quantity, float(values[0]), float((values[1:] - values[0]).norm())


def covers(found, p, level=0.999):
    low, high = found.interval(level)
    return low <= p <= high


def test_probability_of_a_linear_problem(linear_model, average):
    quantity, mean, std = average
    found = pddlvm.rare_event(linear_model, quantity, mean + FAR * std, n=4000)
    assert covers(found, P) and found.std_error < 0.05 * P
    assert len(found.solved) == 50
    # Given the event, the most likely parameters come first: at the distance of the surface.
    eta = linear_model.problem.prior.standardise(found.z)
    assert float(eta[0].norm()) == pytest.approx(FAR, rel=0.05)
    values = quantity(linear_model.problem.solve(found.z))[:, 0]
    assert float((values > mean + FAR * std).double().mean()) > 0.9


@pytest.mark.parametrize("n_repeats", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_intervals_hold_where_the_surrogate_is_wrong(linear_model, average, monkeypatch, n_repeats):
    quantity, mean, std = average
    right = Answers.__call__
    monkeypatch.setattr(
        Answers,
        "__call__",
        lambda self, xi: 0.97 * right(self, xi) + 0.05 * std * xi.sum(-1, keepdim=True).sin(),
    )
    found = [
        pddlvm.rare_event(linear_model, quantity, mean + FAR * std, n=4000, seed=seed)
        for seed in range(n_repeats)
    ]
    assert sum(covers(one, P, 0.95) for one in found) >= 0.9 * n_repeats - 1
    assert abs(sum(one.probability for one in found) / n_repeats / P - 1) < 0.15


def test_an_event_in_two_places(linear_model, average):
    quantity, mean, std = average
    row = torch.from_numpy(quantity.matrix.toarray())
    far = pddlvm.Quantity(linear_model.problem, lambda u: (u @ row.to(u).T - mean).square())
    found = pddlvm.rare_event(linear_model, far, (FAR * std) ** 2, n=8000)
    assert covers(found, 2 * P) and found.std_error < 0.1 * P
    xi = linear_model.problem.prior.standardise(found.z).sum(-1)
    assert 0.2 < float((xi > 0).double().mean()) < 0.8


def test_the_wider_part_sees_places_that_were_missed():
    """A density that was fitted to one of two places alone."""
    one = Mixture(torch.ones(1).double(), torch.tensor([[FAR, 0.0]]).double(), torch.eye(2)[None])
    one = Mixture(one.weights, one.means, one.factors.double()).with_wider()
    generator = torch.Generator().manual_seed(0)
    eta = one.sample(100_000, generator)
    w = one.log_weight(eta).exp() * (eta[:, 0].abs() > FAR)
    error = float(w.std()) / math.sqrt(len(w))
    assert abs(float(w.mean()) - 2 * P) < 4 * error and error < 0.2 * P


@pytest.mark.slow
def test_many_parameters():
    d, generator = 40, torch.Generator().manual_seed(0)
    along = torch.ones(d, dtype=torch.float64) / math.sqrt(d)

    def margin(eta):
        return eta @ along - FAR

    mixture = most_likely(margin, 1e-6, Mixture.standard(d), generator).with_wider()
    eta = mixture.sample(20_000, generator)
    w = mixture.log_weight(eta).exp() * (margin(eta) > 0)
    error = float(w.std()) / math.sqrt(len(w))
    assert abs(float(w.mean()) - P) < 4 * error and error < 0.05 * P


def test_what_never_happens_is_said(linear_model):
    bounded = pddlvm.Quantity(
        linear_model.problem, lambda u: torch.tanh(u.mean(-1, keepdim=True)), "bounded"
    )
    with pytest.raises(pddlvm.ConvergenceError, match="does the quantity reach this value"):
        pddlvm.rare_event(linear_model, bounded, 1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_solves": 2}, "at least 12"),
        ({"value": math.nan}, "value"),
        ({"n": 5}, "n must"),
    ],
)
def test_what_is_wrong_is_said(linear_model, average, changes, message):
    with pytest.raises(pddlvm.InputError, match=message):
        pddlvm.rare_event(linear_model, **{"quantity": average[0], "value": 1.0} | changes)


def test_an_event_is_about_one_number_of_this_problem(linear_model, poisson_1d):
    two = pddlvm.Quantity(linear_model.problem, torch.eye(2, linear_model.problem.n_dofs))
    with pytest.raises(pddlvm.InputError, match="one number"):
        pddlvm.rare_event(linear_model, two, 1.0)
    other = pddlvm.Quantity(poisson_1d, torch.ones(poisson_1d.n_dofs))
    with pytest.raises(pddlvm.InputError, match="poisson-1d"):
        pddlvm.rare_event(linear_model, other, 1.0)
