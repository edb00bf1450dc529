"""The branch of a collocation model and the Galerkin coefficients that it learns in the end."""

import pytest
import torch

import pddlvm
from pddlvm.collocation.branch import Branch
from pddlvm.collocation.projection import GalerkinProjection, fit_branch
from pddlvm.strong import chebyshev

BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
HARD = (BOX.start("t"), BOX.start("x"), BOX.end("x"))


def heated(u, u_t, u_xx, rate, source):
    """u_t = rate u_xx - u^3 + source."""
    return u_t - rate * u_xx + u**3 - source


def make(**changes):
    arguments = {
        "fields": {
            "rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "source": pddlvm.Constant(pddlvm.Uniform(0.0, 2.0)),
        },
        "hard": HARD,
        "grid": (15, 12),
        "nodes": (14, 10),
    }
    return pddlvm.CollocationProblem("heated", BOX, heated, **(arguments | changes))


def build(problem, seed=0):
    return pddlvm.LatentVariableModel(
        problem, points=pddlvm.UniformPoints(64), n_functions=12, seed=seed
    )


def relative(model, z, u):
    return ((model.forward(z).mean - u).norm(dim=-1) / u.norm(dim=-1)).mean()


@pytest.fixture(scope="module")
def trained():
    model = build(make())
    pddlvm.train(model, max_steps=150, calibrate=False)
    return model


@pytest.mark.parametrize("n", [5, 8, 15])
def test_the_quadrature_is_exact_for_polynomials(n):
    s, w = chebyshev.nodes(n), chebyshev.quadrature_weights(n)
    for degree in range(n):
        exact = 2 / (degree + 1) if degree % 2 == 0 else 0.0
        assert float((w * s**degree).sum()) == pytest.approx(exact, abs=1e-13)


def test_galerkin_coefficients_make_the_residual_orthogonal(trained):
    projection = GalerkinProjection(trained)
    z = trained.problem.prior.sample((70,), seed=1)
    start = torch.zeros(len(z), trained.n_modes, dtype=torch.float64)
    c = projection.solve(trained.forward_map(_xi(trained, z))[0].detach().double(), z)
    # The residual times each function, integrated by the same quadrature.
    jet, values = projection.at.jet(trained.problem, c, z)
    r = trained.problem.residual_function(jet, values)
    scale = heated(0.0, 0.0, 0.0, z[:, :1], z[:, 1:]).abs().expand_as(r) @ projection.tested.abs()
    assert ((r @ projection.tested).abs() / scale).max() < 1e-4
    # Where the steps do not shrink there is no solution to be learnt.
    far = projection.solve(start + 100, z)
    assert torch.isnan(far).all()


def test_the_galerkin_solution_is_near_the_best_one(trained):
    problem = trained.problem
    projection = GalerkinProjection(trained)
    z = problem.prior.sample((20,), seed=2)
    found = projection.solve(trained.forward_map(_xi(trained, z))[0].detach().double(), z)
    n = trained.newton.solve(z)
    u = trained.basis.on_grid(found.float(), z.float())
    phi = trained.basis.on_grid(torch.eye(trained.n_modes), z[:1].float())
    best = torch.linalg.lstsq(phi.double().T, n.T).solution.T @ phi.double()
    galerkin, least = (u - n).norm(dim=1), (best - n).norm(dim=1)
    assert (galerkin / least).median() < 5


def test_the_branch_lowers_the_error(trained):
    z = trained.problem.prior.sample((40,), seed=3)
    u = trained.problem.solve(z)
    fitted = relative(trained, z, u)
    assert bool(trained.forward_map.is_fitted)
    trained.forward_map.reset()
    assert fitted < 0.8 * relative(trained, z, u)
    fit_branch(trained, seed=7)
    assert relative(trained, z, u) == pytest.approx(float(fitted), rel=0.1)


def test_conditions_that_are_not_hard_leave_the_branch_alone():
    condition = pddlvm.Condition(BOX.start("t"), lambda u: u)
    model = build(make(hard=HARD[1:], conditions=[condition]))
    pddlvm.train(model, max_steps=40, calibrate=False)
    assert not bool(model.forward_map.is_fitted)


def test_training_on_starts_from_the_network(trained):
    before = [p.clone() for p in trained.forward_map.network.parameters()]
    stage = trained.stages(calibrate=False)[0]
    trained.forward_map.is_fitted.fill_(True)
    stage.prepare()
    assert not bool(trained.forward_map.is_fitted)
    after = trained.forward_map.network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    fit_branch(trained, seed=1)


class Constant(torch.nn.Module):
    """A network that says the same whatever it reads."""

    def forward(self, xi):
        return xi.new_full((len(xi), 3), 0.1), xi.new_full((len(xi), 3), -8.0)


def test_a_quadratic_map_is_learnt_to_round_off(generator):
    xi = torch.randn(2000, 2, generator=generator).double()
    c = torch.stack([xi[:, 0] * xi[:, 1], 1 - xi[:, 0], xi[:, 1] ** 2], dim=1)
    branch = Branch(Constant(), 2, 3)
    assert torch.equal(branch(xi.float())[0], torch.full((2000, 3), 0.1))
    branch.fit(xi, c, torch.eye(3).double())
    mean, log_variance = branch(xi.float())
    assert (mean - c).abs().max() < 1e-4
    assert (log_variance == -8).all()


def test_a_network_that_is_right_is_kept(generator):
    xi = torch.randn(2000, 2, generator=generator).double()
    branch = Branch(Constant(), 2, 3)
    branch.fit(xi, torch.full((2000, 3), 0.1).float().double(), torch.eye(3).double())
    assert not bool(branch.is_fitted)


def _xi(model, z):
    return model.problem.prior.standardise(z).float()
