"""The validation report agrees with its definitions."""

import dataclasses
import math

import pytest
import torch

import pddlvm
from pddlvm.validation.effectivity import Effectivity
from problems import nonlinear_poisson, poisson


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
    forward, inverse = model.forward(z), model.inverse(u)
    free = torch.from_numpy(model.problem.free_dofs)
    inside = ((forward.mean - u).abs() <= 2 * forward.std)[:, free]
    assert report.coverage_u == pytest.approx(float(inside.double().mean()))
    inside = (inverse.mean - z).abs() <= 2 * inverse.std
    assert report.coverage_z == pytest.approx(float(inside.double().mean()))


@pytest.mark.parametrize("name", ["u", "u corrected", "z"])
def test_bars_compare_intervals_and_std_with_the_truth(model, report, name):
    z = model.problem.prior.sample((50,), seed=3)
    u = model.problem.solve(z)
    free = torch.from_numpy(model.problem.free_dofs)
    corrections = 1 if name == "u corrected" else 0
    found = model.inverse(u) if name == "z" else model.forward(z, corrections=corrections)
    true, those = (z, slice(None)) if name == "z" else (u, free)
    bars = report.bars[name]
    levels = dict(zip(report.nominal, bars.observed, strict=True)) | bars.coverage
    assert {0.05, 0.5, 0.8, 0.95, 0.99} <= {round(level, 2) for level in levels}
    for level, observed in levels.items():
        lower, upper = found.interval(level)
        inside = ((lower <= true) & (true <= upper))[:, those]
        assert observed == pytest.approx(float(inside.double().mean()))
    std, error = (x[:, those].square().sum(1) for x in (found.std, found.mean - true))
    assert bars.std_ratio == pytest.approx(float((std.sum() / error.sum()).sqrt()))
    assert bars.std_ratio_per_sample == pytest.approx(float((std / error).sqrt().median()))


@pytest.mark.parametrize("name, corrections", [("u", 0), ("u corrected", 1)])
def test_effectivity_is_that_of_the_error_bound(model, report, name, corrections):
    problem = model.problem
    z = problem.prior.sample((50,), seed=3)
    forward, u = model.forward(z, corrections=corrections), problem.solve(z)
    # A basis of one conductivity is right to round-off, which the reference solution has as well.
    known = 1e-10 * problem.energy_norm(u)
    error = torch.maximum(problem.energy_norm(forward.mean - u), known)
    ratio, found = forward.error_bound / error, report.effectivity[name]
    assert found.median == pytest.approx(float(ratio.median()))
    assert found.worst == pytest.approx(float(ratio.max()))
    assert found.violations == 0
    assert f"{found.median:.2f}" in report.rows[f"{name}: bound / error, worst"]


def test_bounds_that_are_wrong_are_counted(model, monkeypatch):
    true = type(model.certifier).__call__

    def too_small(certifier, mean, z):
        bounds = true(certifier, mean, z)
        few = torch.arange(len(z)) < 7
        none = torch.zeros_like(bounds.left)
        near = torch.where(few, 0.5, 1.0) * bounds.lower
        return dataclasses.replace(bounds, near=near, left=none, rounding=none)

    monkeypatch.setattr(type(model.certifier), "__call__", too_small)
    z = model.problem.prior.sample((50,), seed=3)
    u = model.problem.solve(z)
    assert Effectivity.of(model, model.forward(z), u).violations >= 7


def test_problems_without_bounds_have_no_effectivity():
    nonlinear = pddlvm.LatentVariableModel(nonlinear_poisson.make_1d(8))
    nonlinear.calibrate(32)
    report = pddlvm.validate(nonlinear, n_samples=2)
    assert report.effectivity == {} and not any("bound" in name for name in report.rows)


def test_every_figure_is_finite_and_shown(report):
    for value in dataclasses.asdict(report).values():
        if isinstance(value, float):
            assert math.isfinite(value)
    assert f"{report.mnse_u:.2e}" in str(report) and "coverage of z" in str(report)
    assert report.speedup["batch 1000"] == pytest.approx(
        report.seconds["reference"] / report.seconds["batch 1000"]
    )


def test_what_is_the_reference_has_no_error_to_compare_with(report):
    same = dataclasses.replace(report, relative_l2_corrected=1e-15).rows
    assert same["... after one correction"] == "0, as the reference"
    other = dataclasses.replace(report, relative_l2_corrected=1e-3).rows
    assert "u corrected: std / error" in other
    assert not any(name.startswith("u corrected") for name in same if "bound" not in name)


def test_too_few_samples_are_refused(model):
    with pytest.raises(pddlvm.InputError, match="at least 2"):
        pddlvm.validate(model, n_samples=1)


def test_the_same_seed_gives_the_same_errors(model, report):
    again = pddlvm.validate(model, n_samples=50, seed=3)
    assert (again.mnse_u, again.mnse_z) == (report.mnse_u, report.mnse_z)


def test_unknown_names_are_refused(poisson_1d):
    model = pddlvm.LatentVariableModel(poisson_1d)
    with pytest.raises(pddlvm.InputError, match="'g'"):
        pddlvm.validate(model, 2, known=["g"])
