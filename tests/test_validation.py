"""The validation report agrees with its definitions."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import pddlvm
from problems import poisson


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    trained = pddlvm.LatentVariableModel(poisson.make_1d())
    pddlvm.train(trained, max_steps=100, calibrate=False)
    trained.calibrate(128)
    return trained


@pytest.fixture(scope="module")
def report(model: pddlvm.LatentVariableModel) -> pddlvm.ValidationReport:
    return pddlvm.validate(model, n_samples=50, seed=3)


def test_errors_are_those_against_the_reference_solver(model, report):
    z = model.problem.prior.sample((50,), seed=3)
    u = model.problem.solve(z)
    relative = (model.forward(z).mean - u).norm(dim=1) / u.norm(dim=1)
    assert report.relative_l2 == pytest.approx(float(relative.mean()))
    assert report.mnse_u == pytest.approx(float(relative.square().mean()))
    kappa = model.problem.parameter_field(z)
    found = model.problem.parameter_field(model.inverse(u).median)
    mnse = ((kappa - found).norm(dim=1) / kappa.norm(dim=1)).square().mean()
    assert report.mnse_z == pytest.approx(float(mnse))


def test_coverage_is_the_fraction_inside_two_std(model, report):
    z = model.problem.prior.sample((50,), seed=3)
    u = model.problem.solve(z)
    forward = model.forward(z)
    free = torch.from_numpy(model.problem.free_dofs)
    inside = ((forward.mean - u).abs() <= 2 * forward.std)[:, free]
    assert report.coverage_u == pytest.approx(float(inside.double().mean()))
    # The curve rises with the nominal coverage.
    assert (np.diff(report.observed) >= 0).all()


def test_every_figure_is_finite_and_shown(report):
    for value in dataclasses.asdict(report).values():
        if isinstance(value, float):
            assert math.isfinite(value)
    assert f"{report.mnse_u:.2e}" in str(report) and "coverage of z" in str(report)
    assert report.speedup["batch 1000"] == pytest.approx(
        report.seconds["reference"] / report.seconds["batch 1000"]
    )


def test_too_few_samples_are_refused(model):
    with pytest.raises(pddlvm.InputError, match="at least 2"):
        pddlvm.validate(model, n_samples=1)


def test_mean_squares_are_not_below_squared_means(report):
    # Jensen's inequality; the two differ unless all samples have the same error.
    assert report.relative_l2**2 < report.mnse_u


def test_fractions_lie_between_zero_and_one(report):
    fractions = np.array([report.coverage_u, report.coverage_z, *report.observed])
    assert ((fractions >= 0) & (fractions <= 1)).all()


def test_the_same_seed_gives_the_same_errors(model, report):
    again = pddlvm.validate(model, n_samples=50, seed=3)
    assert (again.mnse_u, again.mnse_z) == (report.mnse_u, report.mnse_z)


def test_unknown_names_are_refused(poisson_1d):
    model = pddlvm.LatentVariableModel(poisson_1d)
    with pytest.raises(pddlvm.InputError, match="'g'"):
        pddlvm.validate(model, 2, known=["g"])
