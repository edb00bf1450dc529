"""Linear problems in a basis as sums of few operators, against the mesh; derivatives by z."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm.basics.by_object import ByObject
from pddlvm.linalg.derivatives import linearise
from pddlvm.reduced import interpolated as interpolated_module
from pddlvm.reduced.cubature import CellSelection
from pddlvm.reduced.interpolated import interpolated
from pddlvm.reduced.reduction import reduced_model
from problems import bayesian_poisson, nonlinear_poisson, poisson, stokes


def untrained(problem, n_modes=16):
    return pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=n_modes))


@pytest.fixture(scope="module")
def model():
    """A log-normal field of high rank."""
    return untrained(poisson.make(10, n_terms=6))


def on_the_mesh(model):
    """The same without a cubature: every cell with its own weight."""
    problem, reduction = model.problem, model.reduction
    terms = tuple(
        CellSelection(np.arange(len(t.region.dofs)), np.ones(len(t.region.dofs)))
        if isinstance(how, CellSelection)
        else how
        for t, how in zip(problem.terms, reduction.terms, strict=True)
    )
    bases = reduction.v, reduction.w
    return reduced_model(problem, reduction.reference, bases, terms, torch.float64, reduction.units)


def draws(model, n=8):
    generator = torch.Generator().manual_seed(7)
    xi = model.problem.prior.sample_standard((n,), generator=generator)
    c = model.reduction.c[:n] / model.reduction.units.energy**0.5
    return c, model.problem.prior.unstandardise(xi)


def test_the_operators_are_those_of_the_mesh(model):
    assert not model.exact.is_affine
    assert model.interpolated.is_affine
    c, z = draws(model)
    for name in ("tangent", "residual", "slope"):
        found = getattr(model.interpolated, name)(c, z)
        expected = getattr(on_the_mesh(model), name)(c, z)
        # Four times what the interpolation leaves of slopes; a cubature is off by per cents.
        assert ((found - expected).abs() < 7e-5 * expected.abs().max()).all()


def test_too_many_points_are_those_of_the_cubature(model, monkeypatch):
    monkeypatch.setattr(interpolated_module, "_MOST", 1000)
    monkeypatch.setattr(interpolated_module, "_ON_MESH", ByObject())
    c, z = draws(model)
    few = interpolated(model.exact)
    assert few.is_affine
    expected = model.exact.tangent(c, z)
    assert ((few.tangent(c, z) - expected).abs() < 1e-5 * expected.abs().max()).all()


@pytest.mark.parametrize("name", ["_MAX_RANK", "_LINEAR", "_WRONG"])
def test_what_is_no_such_sum_stays_as_it_is(model, monkeypatch, name):
    monkeypatch.setattr(interpolated_module, name, 0)
    monkeypatch.setattr(interpolated_module, "_ON_MESH", ByObject())
    if name == "_LINEAR":
        nonlinear = untrained(nonlinear_poisson.make_1d(12), 8)
        assert nonlinear.interpolated is nonlinear.exact
    else:
        assert interpolated(model.exact) is model.exact


@pytest.mark.parametrize(
    "make",
    [
        lambda: poisson.make(8, n_terms=3),
        lambda: poisson.make_missing_middle(16),
        lambda: bayesian_poisson.make(8),
        lambda: nonlinear_poisson.make_1d(12),
        lambda: nonlinear_poisson.make_quasilinear(8, 3),
    ],
    ids=["log-normal", "boundary", "blocks", "nonlinear", "flux"],
)
def test_slopes_are_derivatives_of_the_residual(make):
    model = untrained(make(), 8)
    c, z = draws(model, 3)
    for reduced in {model.exact, model.interpolated}:
        a = reduced.augment(c, z)
        _, expected = linearise(lambda at, a=a, r=reduced: r.residual_of(a, at), z)
        torch.testing.assert_close(reduced.slope(c, z), expected, rtol=1e-9, atol=1e-12)


def test_derivatives_of_data_are_those_of_differences(model):
    problem = model.problem
    sensors = pddlvm.PointObservation(problem, [[0.3, 0.4], [0.7, 0.6]], 0.01)
    surrogate = model.surrogate(sensors, corrections=1)
    xi = problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(0))
    for one in (surrogate, surrogate.rough()):
        data, jacobian = one.linearise(xi)
        torch.testing.assert_close(data, one.mean(xi))
        for j in range(xi.shape[1]):
            step = torch.zeros_like(xi)
            step[:, j] = 1e-5
            difference = (one.mean(xi + step) - one.mean(xi - step)) / 2e-5
            # What the interpolation leaves; the untrained map is off by all of u.
            assert ((jacobian[..., j] - difference).abs() < 1e-4 * jacobian.abs().max()).all()


def test_a_pool_and_inference_share_operators_that_are_made_once(monkeypatch):
    made, searched = [], []
    make, find = interpolated_module.AffineTerm, interpolated_module._found
    monkeypatch.setattr(interpolated_module, "AffineTerm", lambda *a: made.append(0) or make(*a))
    monkeypatch.setattr(interpolated_module, "_found", lambda *a: searched.append(0) or find(*a))
    model = untrained(stokes.make_channel(3), 4)
    # Those of the snapshots; a viscosity has one function for twenty entries of the tangent.
    assert (len(made), len(searched)) == (1, 1)
    model.likelihood.draws.sample_standard((2,))
    assert model.interpolated.is_affine
    assert (len(made), len(searched)) == (2, 1)
    c, z = draws(model)
    for name in ("stiffness", "residual"):
        found = getattr(model.interpolated, name)(c, z)
        expected = getattr(on_the_mesh(model), name)(c, z)
        assert ((found - expected).abs() < 1e-4 * expected.abs().max()).all()
