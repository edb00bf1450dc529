"""Error bars of quantities: calibrated for each of them, before and after corrections."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm.latent import quantity_laws
from pddlvm.latent.quantity_law import QuantityLaw
from problems import nonlinear_poisson, poisson


def trained(problem):
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(n_modes=12))
    pddlvm.train(model, max_steps=100)
    return model


@pytest.fixture(scope="module")
def model():
    return trained(poisson.make(8, n_terms=4))


@pytest.fixture(scope="module")
def solved(model):
    z = model.problem.prior.sample((10, 60), seed=8)
    return z, model.problem.solve(z)


def quantities(problem):
    i, j = problem.free_dofs[[10, 20]]
    return {
        "average": pddlvm.Quantity(problem, pddlvm.average_matrix(problem)),
        "flux": pddlvm.Quantity(problem, pddlvm.boundary_flux(problem, "right")),
        "maximum": pddlvm.Quantity(problem, pddlvm.maximum(problem)),
        "two": pddlvm.Quantity(problem, lambda u, z: torch.stack([u[:, i] * z[:, 0], u[:, j]], 1)),
    }


@pytest.mark.parametrize("corrections", [0, 1])
@pytest.mark.parametrize("name", ["average", "flux", "maximum", "two"])
@pytest.mark.slow
def test_error_bars_are_those_of_the_quantity(model, solved, name, corrections):
    z, u = solved
    quantity = quantities(model.problem)[name]
    found = model.forward(z, corrections=corrections).of(quantity)
    assert found.mean.shape == found.std.shape == (10, 60, quantity.n)
    error = (quantity(u, z) - found.mean).abs()
    assert ((error <= 2 * found.std).double().mean((0, 1)) - 0.95).abs().max() < 0.04
    for level in (0.5, 0.8, 0.95, 0.99):
        lower, upper = found.interval(level)
        inside = ((lower <= quantity(u, z)) & (quantity(u, z) <= upper)).double().mean((0, 1))
        # Of 600 draws, and as many that the law was fitted to, three standard deviations.
        assert (inside - level).abs().max() < 3 * (2 * level * (1 - level) / 600) ** 0.5
    ratio = (error / found.std).square().mean((0, 1)).sqrt()
    assert (ratio.log().abs() < 0.3).all()
    # Error bars know which z are hard.
    pair = torch.stack([found.std.flatten().log(), error.flatten().clamp(min=1e-12).log()])
    assert torch.corrcoef(pair)[0, 1] > 0.3


def test_draws_have_the_law_of_the_intervals(model):
    quantity = quantities(model.problem)["two"]
    found = model.forward(model.problem.prior.sample((3,), seed=1)).of(quantity)
    draws = found.sample((20_000,), seed=0)
    assert draws.shape == (20_000, 3, 2)
    assert torch.equal(draws, found.sample((20_000,), seed=0))
    torch.testing.assert_close(draws.mean(0), found.mean, rtol=0, atol=float(found.std.max()) / 20)
    torch.testing.assert_close(draws.std(0), found.std, rtol=0.05, atol=0)
    for level in (0.5, 0.95):
        lower, upper = found.interval(level)
        inside = ((lower <= draws) & (draws <= upper)).double().mean(0)
        assert (inside - level).abs().max() < 0.015
    assert found.sample(seed=0).shape == (3, 2)


def test_dtype_and_device_are_those_of_z_and_rounding_is_in_the_error_bar(model):
    quantity = quantities(model.problem)["average"]
    z = model.problem.prior.sample((4,), seed=0).float()
    found = model.forward(z, corrections=1).of(quantity)
    assert {x.dtype for x in (found.mean, found.std, *found.interval(), found.sample(2))} == {
        torch.float32
    }
    exact = model.forward(z.double(), corrections=1).of(quantity)
    assert (found.std >= 1e-8 * found.mean).all() and (found.std >= exact.std.float()).all()
    assert found.bound is not None and found.bound.dtype == torch.float64


def test_draws_are_solved_once_for_a_problem_and_laws_fitted_once(monkeypatch):
    model = trained(poisson.make(4, n_terms=2))
    problem, solves = model.problem, []
    n = quantity_laws.n_draws_of(problem)
    solve = type(problem).solve
    monkeypatch.setattr(
        type(problem), "solve", lambda self, z: (solves.append(len(z)), solve(self, z))[1]
    )
    quantity, z = quantities_of_maximum(problem), problem.prior.sample(seed=0)
    first = model.forward(z).of(quantity)
    # A mean needs no law.
    _ = first.mean
    assert not solves
    assert first.n_draws == n and solves == [n]
    std = first.std
    _ = model.forward(z, corrections=1).of(quantities_of_maximum(problem)).std
    assert solves == [n]
    monkeypatch.setattr(quantity_laws.QuantityLaw, "of_errors", None)
    assert torch.equal(model.forward(z).of(quantity).std, std)


@pytest.mark.parametrize(("shape", "n"), [((25,), 1024), ((11, 1000), 128), ((5000,), 220)])
def test_of_large_solutions_there_are_fewer_draws(shape, n, monkeypatch):
    monkeypatch.setattr(quantity_laws, "_MOST", 1024)  # That of users, whatever tests take.
    assert quantity_laws.n_draws_of(SimpleNamespace(solution_shape=shape)) == n


def quantities_of_maximum(problem):
    return pddlvm.Quantity(problem, pddlvm.maximum(problem))


def test_a_model_that_changed_has_other_laws_and_answers_of_before_say_so():
    model = trained(poisson.make(4, n_terms=2))
    quantity = quantities_of_maximum(model.problem)
    z = model.problem.prior.sample(seed=0)
    before, unread = model.forward(z).of(quantity), model.forward(z).of(quantity)
    std, law = before.std, model.quantity_law(quantity, 0)
    assert model.quantity_law(quantity, 0) is law
    with torch.no_grad():
        for parameter in model.forward_map.parameters():
            parameter.mul_(0.7)
    assert float(model.forward(z).of(quantity).std / std) > 2
    assert model.quantity_law(quantity, 0) is not law
    with pytest.raises(pddlvm.StaleError):
        _ = unread.std


def test_copies_files_and_pickles_have_no_laws(tmp_path):
    model = trained(poisson.make(4, n_terms=2))
    z, path = model.problem.prior.sample(seed=0), tmp_path / "model.pt"
    model.save(path)
    size = path.stat().st_size
    quantity = pddlvm.Quantity(model.problem, lambda u: u.amax(-1, keepdim=True))
    std = model.forward(z).of(quantity).std
    model.save(path)
    assert path.stat().st_size == size
    assert torch.equal(copy.deepcopy(model).forward(z).of(quantity).std, std)
    other = pickle.loads(pickle.dumps(model))
    assert torch.allclose(other.forward(z).of(quantity).std, std)


@pytest.mark.slow
@pytest.mark.parametrize("corrections", [0, 2])
def test_linear_quantities_of_nonlinear_problems(corrections):
    model = trained(nonlinear_poisson.make_1d(12))
    problem = model.problem
    quantity = pddlvm.Quantity(problem, np.ones((1, problem.n_dofs)), "sum")
    z = problem.prior.sample((400,), seed=2)
    found = model.forward(z, corrections=corrections).of(quantity)
    assert found.bound is None
    lower, upper = found.interval(0.8)
    exact = quantity(problem.solve(z))
    assert abs(float(((lower <= exact) & (exact <= upper)).double().mean()) - 0.8) < 0.08


def test_what_reads_boundary_values_alone_is_exact(model):
    held = pddlvm.mask_matrix(model.problem, model.problem.fixed_dofs[:2])
    found = model.forward(model.problem.prior.sample((3,), seed=0)).of(
        pddlvm.Quantity(model.problem, held)
    )
    assert (found.std == 0).all() and (found.interval(0.99)[1] == found.mean).all()


def test_functions_have_no_bound(model):
    found = model.forward(model.problem.prior.sample(seed=0)).of(
        quantities_of_maximum(model.problem)
    )
    assert found.bound is None and found.mean.shape == (1,)


def test_an_uncalibrated_model_has_error_bars_of_quantities_and_does_not_warn():
    model = pddlvm.LatentVariableModel(poisson.make(4, n_terms=2))
    pddlvm.train(model, max_steps=50, calibrate=False)
    quantity = quantities_of_maximum(model.problem)
    z = model.problem.prior.sample((200,), seed=1)
    found = model.forward(z).of(quantity)
    # Its errors are much alike, and no normal numbers.
    half = found.interval(0.8)[1] - found.mean
    error = (quantity(model.problem.solve(z)) - found.mean).abs()
    assert abs(float((error <= half).double().mean()) - 0.8) < 0.1


def test_where_gradients_are_off_answers_are_the_same(model):
    quantity = quantities_of_maximum(model.problem)
    z = model.problem.prior.sample((2,), seed=1)
    with torch.inference_mode():
        inside = model.forward(z).of(quantity).std
    assert torch.allclose(model.forward(z).of(quantity).std, inside)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95, "0.9", None])
def test_levels_outside_of_0_and_1_are_refused(model, level):
    found = model.forward(model.problem.prior.sample(seed=0)).of(
        quantities_of_maximum(model.problem)
    )
    with pytest.raises(pddlvm.InputError, match="level must lie between 0 and 1"):
        found.interval(level)


@pytest.mark.slow
@pytest.mark.parametrize("corrections", [0, 1])
def test_of_the_default_problem(corrections):
    problem = poisson.make()
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=600)
    z = problem.prior.sample((400,), seed=12)
    u = problem.solve(z)
    local = pddlvm.average_matrix(problem, [lambda x: np.hypot(x[:, 0] - 0.3, x[:, 1] - 0.6) < 0.1])
    asked = quantities(problem) | {"local": pddlvm.Quantity(problem, local)}
    for name in ("average", "flux", "maximum", "local"):
        quantity = asked[name]
        found = model.forward(z, corrections=corrections).of(quantity)
        error = (quantity(u, z) - found.mean).abs()
        # A few far draws make the root mean square: twice that may hold more than 95 %.
        assert 0.92 < float((error <= 2 * found.std).double().mean()) < 0.995
        for level, allowed in ((0.5, 0.08), (0.8, 0.06), (0.95, 0.03), (0.99, 0.015)):
            half = found.interval(level)[1] - found.mean
            assert abs(float((error <= half).double().mean()) - level) < allowed


def test_errors_of_which_first_order_knows_nothing_leave_the_others_alone():
    # The largest value is a prescribed one for half of the draws; of a few it is not, after all.
    generator = torch.Generator().manual_seed(0)
    n = 1024
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    is_held = features[:, :1] > 0
    size = torch.where(is_held, 1e-16, 1e-4).double()
    errors = torch.where(is_held, 0.0, size * torch.randn(n, 1, generator=generator).double())
    errors[is_held[:, 0].nonzero()[:3, 0]] = 1e-4
    law = QuantityLaw.of_errors(features, size.log(), errors)
    std = law.std(features, size.log())
    assert 0.5e-4 < float(std[~is_held].median()) < 2e-4
    assert float(std[is_held].median()) < 0.5e-4
    assert float(std.max()) < 1e-2
    inside = (errors.abs() <= law.half_width(0.95) * std).double().mean()
    assert float(inside) == pytest.approx(0.95, abs=0.03)
