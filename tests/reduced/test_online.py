"""What is solved and certified without the mesh agrees with what the mesh says."""

import pytest
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.reduced.online import online_of
from problems import nonlinear_poisson, poisson, thermal_block


def diffusion(u, du, x, k):
    return 0.5 * k * (du * du).sum()


def load(u, du, x, f):
    return -f * x[0] * u


def robin(u, du, x, h):
    return 0.5 * h * (u - 2.0) ** 2


def level_of(x, level):
    return 300.0 + level * x[1]


def of_all_kinds():
    """Links, loads, boundary values far from zero, a Robin condition and degree 2."""
    space = fem.Space(fem.unit_square(4), degree=2)
    uniform = pddlvm.Uniform(0.5, 2.0)
    return pddlvm.Problem(
        "all kinds",
        space,
        [
            pddlvm.Energy(space.interior(), diffusion),
            pddlvm.Energy(space.interior(), load),
            pddlvm.Energy(space.boundary("right"), robin),
        ],
        {
            "k": pddlvm.Piecewise.on_blocks(space, (2, 1), prior=pddlvm.Normal(), link=links.exp),
            "f": pddlvm.Chebyshev(n_terms=2, low=0.0, high=1.0, prior=uniform),
            "h": pddlvm.Constant(uniform),
            "level": pddlvm.Constant(pddlvm.Normal()),
        },
        [pddlvm.Dirichlet("left", level_of)],
    )


PROBLEMS = {"block": lambda: thermal_block.make(3, 2, 6), "all kinds": of_all_kinds}


@pytest.fixture(scope="module", params=PROBLEMS)
def model(request):
    return pddlvm.LatentVariableModel(
        PROBLEMS[request.param](), basis=pddlvm.ResidualEnriched(n_modes=6)
    )


def test_certificates_are_those_of_the_mesh(model):
    problem, reference = model.problem, model.reduction.reference
    z = problem.prior.sample((10,), seed=1)
    a, w = model.online.solve(z)
    found = model.online.certify(a, w, torch.float64)
    u = model.exact.representation.solution(a, torch.float64)
    r = problem.residual(u, z)
    assert (model.exact.representation.test(r).abs().max(1).values < 1e-9 * r.norm(dim=1)).all()
    norm = (r * reference.solve(r)).sum(-1).sqrt()
    assert torch.allclose(found.residual, norm, rtol=1e-6)
    assert (found.rounding < 1e-3 * norm).all()
    assert torch.allclose(found.size, problem.energy_norm(u), rtol=1e-9)
    lower, upper = problem.coercivity(z)
    assert torch.allclose(found.lower, lower, rtol=1e-7)
    assert torch.allclose(found.upper, upper, rtol=1e-7)
    free = torch.from_numpy(problem.fixed_dofs)
    assert torch.allclose(u[:, free], problem.solve(z)[:, free], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_those_with_the_mesh(model, dtype, monkeypatch):
    z = model.problem.prior.sample((2, 3), seed=2).to(dtype)
    found = model.forward(z, corrections=2)
    monkeypatch.setitem(model.__dict__, "online", None)
    expected = model.forward(z, corrections=2)
    size = expected.c.norm(dim=-1).max()
    assert (found.c - expected.c).abs().max() < 1e-6 * size
    assert torch.allclose(found.residual_norm, expected.residual_norm, rtol=1e-2)
    assert torch.allclose(found.stability, expected.stability, rtol=1e-7)
    assert found.error_bound.shape == (2, 3) and found.mean.dtype == dtype
    error = model.problem.energy_norm(found.mean.double() - model.problem.solve(z))
    lower, upper = found.error_interval
    assert (lower <= error).all() and (error <= upper).all()


def test_nothing_has_the_size_of_the_mesh_until_the_mean(monkeypatch):
    model = pddlvm.LatentVariableModel(thermal_block.make(2, 1, 8))
    z = model.problem.prior.sample((2,), seed=0)
    model.forward(z, corrections=1)

    def fail(*_):
        raise AssertionError("looked at the mesh")

    monkeypatch.setattr(model.exact.representation, "solution", fail)
    operators = model.problem.discretisation(torch.float64, torch.device("cpu"))
    monkeypatch.setattr(operators, "residual", fail)
    monkeypatch.setattr(type(model.reduction.reference), "solve", fail)
    forward = model.forward(z, corrections=1)
    assert (forward.error_bound > 0).all() and (forward.residual_norm > 0).all()
    assert (forward.stability > 0).all() and forward.error_interval is not None
    with pytest.raises(AssertionError, match="mesh"):
        _ = forward.mean


def test_small_residuals_keep_their_digits():
    """A Gram matrix would see nothing below 1e-8 of a load."""
    model = pddlvm.LatentVariableModel(
        thermal_block.make(2, 2, 12), basis=pddlvm.ResidualEnriched(n_modes=18, tolerance=1e-11)
    )
    z = model.problem.prior.sample((20,), seed=3)
    a, w = model.online.solve(z)
    found = model.online.certify(a, w, torch.float64)
    u = model.exact.representation.solution(a, torch.float64)
    r = model.problem.residual(u, z)
    norm = (r * model.reduction.reference.solve(r)).sum(-1).sqrt()
    assert (norm < 1e-7 * found.size).all() and norm.max() > 1e-12
    assert torch.allclose(found.residual, norm, rtol=0.01, atol=1e-14)


def test_std_of_solved_predictions_is_calibrated():
    model = pddlvm.LatentVariableModel(
        thermal_block.make(2, 2, 8), basis=pddlvm.ResidualEnriched(n_modes=5)
    )
    pddlvm.train(model, max_steps=20)
    z = model.problem.prior.sample((100,), seed=4)
    forward = model.forward(z, corrections=1)
    error = (forward.mean - model.problem.solve(z))[:, model.problem.free_dofs]
    std = forward.std[:, model.problem.free_dofs]
    assert 0.85 < float((error.abs() < 2 * std).double().mean()) < 1


@pytest.mark.parametrize(
    "make",
    [lambda: poisson.make(8, n_terms=4), lambda: nonlinear_poisson.make_1d(8)],
    ids=["many values", "nonlinear"],
)
def test_other_problems_need_the_mesh(make):
    problem = make()
    model = pddlvm.LatentVariableModel(problem)
    representation, reference = model.exact.representation, model.reduction.reference
    assert online_of(problem, representation, reference) is None
    assert model.online is None
