"""A training ends with a verdict on the forward map."""

import pytest
import torch

import pddlvm
from pddlvm.training.certificates import Certificates, certificates
from problems import pinn, poisson


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((0.01, 0.05, 0.001, 0.002), "accept"),
        ((0.01, 0.5, 0.001, 0.002), "refine"),
        ((0.9, 0.99, 0.3, 0.5), "reject"),
        ((0.9, torch.inf, 0.3, torch.inf), "reject"),
        ((0.01, 0.05, 0.001, 0.002, 0.05), "accept"),
        (
            (0.01, 0.05, 0.001, 0.002, 0.3),
            "refine: 5 % of the predictions have error bars above 30 %",
        ),
    ],
)
def test_the_verdict_follows_the_largest_residuals(values, word):
    assert Certificates(*values).verdict.startswith(word)


@pytest.fixture(scope="module")
def problem() -> pddlvm.Problem:
    return poisson.make(6, n_terms=2)


def test_in_strong_form_error_bars_are_looked_at_too():
    """A condition that nothing holds: the residual in the box is small, and u is wrong."""
    box = pddlvm.Box(x=(0.0, 1.0))
    line = pddlvm.CollocationProblem(
        "line",
        box,
        lambda u_xx, f: u_xx + f,
        fields={"f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))},
        hard=[box.start("x")],
        conditions=[pddlvm.Condition(box.end("x"), lambda u_x: u_x, tolerance=1e3)],
        grid=(21,),
        nodes=(12,),
    )
    model = pddlvm.LatentVariableModel(line, n_functions=8, seed=0)
    result = pddlvm.train(model, max_steps=60)
    z = line.prior.sample((50,), seed=1)
    u = line.solve(z)
    error = (model.forward(z).mean - u).norm(dim=1) / u.norm(dim=1)
    assert result.certificates.high < 0.1 < float(error.median())
    assert "error bars above" in result.verdict


def test_a_map_that_is_hardly_trained_needs_its_corrections(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())
    result = pddlvm.train(model, max_steps=1, calibrate=False)
    # The basis holds every solution: a correction is exact.
    assert result.verdict.startswith("refine") and "corrections=1" in result.verdict
    assert result.certificates.high_corrected < 1e-5


def test_a_basis_that_is_too_small_is_rejected(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(1))
    result = pddlvm.train(model, max_steps=1, calibrate=False)
    assert result.verdict.startswith("reject") and "more modes" in result.verdict


def test_a_training_that_was_cut_short_says_so(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(1))
    # No machine takes a hundred steps in a millisecond.
    result = pddlvm.train(model, max_seconds=1e-3, calibrate=False)
    assert result.verdict.startswith("reject") and "steps fitted into max_s" in result.verdict
    result = pddlvm.train(model, max_steps=2, max_seconds=100.0, calibrate=False)
    assert "max_seconds" not in result.verdict


def test_a_trained_map_is_accepted(problem):
    model = pddlvm.LatentVariableModel(problem)
    result = pddlvm.train(model, max_steps=150, calibrate=False)
    assert result.verdict == "accept"
    z = problem.prior.sample((200,), seed=0)
    # The median of 128 draws, of a quantity that varies by some tens of percent.
    median = float(model.forward(z).residual_norm.median())
    assert result.certificates.median == pytest.approx(median, rel=0.5)


def test_corrections_that_fail_are_rejected(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.EnergyModes(4))
    with torch.no_grad():
        model.forward_map.network.head.bias += torch.nan
    assert certificates(model).verdict.startswith("reject")


def test_problems_in_strong_form_get_a_verdict_too(monkeypatch):
    monkeypatch.setattr("pddlvm.training.certificates._N_CORRECTED", 4)
    model = pddlvm.LatentVariableModel(pinn.make_heat(grid=(9, 9)), n_functions=8)
    found = certificates(model)
    # From a map that was never trained Newton's method goes anywhere.
    assert found.high > 0.1 and not found.verdict.startswith("accept")
