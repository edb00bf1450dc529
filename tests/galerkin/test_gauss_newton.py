"""The inverse map with Gauss-Newton corrections: exact where the PDE is, honest where it is not."""

import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.galerkin.gauss_newton import GaussNewton, ResidualRows, Rows
from pddlvm.linalg.derivatives import linearise
from pddlvm.reduced.fixed_state import FixedState
from problems import poisson
from problems.poisson import diffusion, load


def two_blocks() -> pddlvm.Problem:
    """A uniform conductivity and a random load: u determines their ratio only."""
    space = fem.Space(fem.unit_square(6))
    cells = space.interior()
    return pddlvm.Problem(
        "two blocks",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {
            "kappa": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.5)),
            "f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
        },
        [pddlvm.Dirichlet(None)],
    )


@pytest.fixture(scope="module")
def model() -> pddlvm.LatentVariableModel:
    trained = pddlvm.LatentVariableModel(two_blocks(), basis=pddlvm.Nodal())
    pddlvm.train(trained, max_steps=60, calibrate=False)
    trained.calibrate(128)
    return trained


def test_gauss_newton_finds_the_field_behind_a_solution():
    problem = poisson.make(8, n_terms=3)
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal())
    z = problem.prior.sample((10,), seed=0)
    inverse = model.inverse(problem.solve(z), corrections=12)
    # Untrained start, exact basis: float32 residuals limit it to some 1e-4.
    assert (inverse.mean - z).abs().median() < 1e-3


def test_a_search_that_got_stuck_begins_again():
    """Four steps from a far corner end in nowhere, from some draw of the prior at the solution."""
    model = pddlvm.LatentVariableModel(poisson.make_missing_middle(20), seed=0)
    model.calibrate(64)
    prior, representation = model.problem.prior, model.reduced.representation
    xi = prior.sample_standard((30,), generator=torch.Generator().manual_seed(0)).float()
    u = model.problem.solve(prior.unstandardise(xi.double())).float()
    c, b = representation.project(u), representation.boundary_coordinates_of(u)
    rows = ResidualRows(model.reduced, model.sigma_residual, b.shape[-1])
    search, of = GaussNewton(prior, rows), rows.of(c, b)
    unknown = torch.ones_like(xi)
    # The last one begins at its solution, and is not to be moved.
    corner = torch.full_like(xi, -1.7)
    corner[-1] = xi[-1]
    stuck = search._search(of, corner, unknown, 4)
    found = search(of, corner, unknown, 4)
    assert stuck.misfit[:-1].median() > 1e4
    assert found.misfit.median() < len(model.sigma_residual)
    assert (found.misfit <= stuck.misfit).all()
    assert torch.equal(found.xi[-1], stuck.xi[-1])


def test_a_misfit_is_that_of_the_residual_whatever_a_search_held(model, monkeypatch):
    z = model.problem.prior.sample((4,), seed=2)
    u, representation = model.problem.solve(z).float(), model.reduced.representation
    c, b = representation.project(u), representation.boundary_coordinates_of(u)
    rows = ResidualRows(model.reduced, model.sigma_residual, b.shape[-1])
    search, of = GaussNewton(model.problem.prior, rows), rows.of(c, b)
    take = FixedState.residual
    # As if a flux were taken for affine, and were not.
    monkeypatch.setattr(FixedState, "residual", lambda self, z: 2 * take(self, z))
    start = torch.zeros(4, model.problem.prior.size)
    found = search(of, start, torch.ones_like(start), 5)
    z = model.problem.prior.unstandardise(found.xi.double())
    r = model.reduced.residual_of(of[0], z) / (model.sigma_residual * of[2])
    torch.testing.assert_close(found.misfit, search.misfit(of, found.xi))
    assert (found.misfit >= r.square().sum(-1) * (1 - 1e-5)).all()


class NearOnly(Rows):
    """Explained in a small ball around the truth alone, and nowhere else a way there."""

    n = 1

    def __init__(self, truth):
        self.truth = truth

    def __call__(self, of, xi):
        distance = (xi - self.truth).norm(dim=-1, keepdim=True)
        return torch.where(distance < 0.28, distance, 100.0 + 0 * distance)

    def linearise(self, of, xi):
        return linearise(lambda at: self(of, at), xi)


def test_a_search_begins_again_near_its_start_too():
    """Of draws of the prior none comes near the truth, nor on its way to where the prior is."""
    prior = poisson.make(4, n_terms=4).prior
    xi = torch.full((1, 4), 1.5)
    truth = xi + torch.tensor([0.15, -0.15, 0.15, -0.15])
    search = GaussNewton(prior, NearOnly(truth))
    of, unknown = (xi,), torch.ones_like(xi)
    assert search._search(of, xi, unknown, 20).misfit > 1e3
    found = search(of, xi, unknown, 20)
    assert found.misfit < 1
    assert (found.xi - truth).norm() < 0.28
    # What is known stays.
    held = search(of, xi, 0 * unknown, 20)
    assert torch.equal(held.xi, xi)


def test_a_known_block_is_kept_and_makes_the_other_certain(model):
    z = model.problem.prior.sample((50,), seed=1)
    u = model.problem.solve(z)
    free, given = model.inverse(u), model.inverse(u, z_known={"f": z[:, 1:]})
    assert (given.std[:, 1] == 0).all()
    # float32 standard coordinates there and back.
    torch.testing.assert_close(given.mean[:, 1], z[:, 1], rtol=1e-5, atol=1e-6)
    assert given.std[:, 0].mean() < 0.2 * free.std[:, 0].mean()
    assert (given.median[:, 0] / z[:, 0] - 1).abs().median() < 0.01


def test_a_scalar_known_value_serves_all_samples(model):
    z = model.problem.prior.sample((3,), seed=2)
    z[:, 1] = 1.5
    given = model.inverse(model.problem.solve(z), z_known={"f": torch.tensor(1.5)})
    torch.testing.assert_close(given.mean[:, 1], z[:, 1], rtol=1e-5, atol=1e-6)


def test_the_median_stays_in_the_support(model):
    z = model.problem.prior.sample((50,), seed=3)
    for corrections in (0, 2):
        found = model.inverse(model.problem.solve(z), corrections=corrections).median
        model.problem.prior.check(found)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"k": torch.tensor(1.0)}, "names 'k'"),
        ({"f": torch.zeros(3, 2)}, "must end in 1"),
        ({"f": torch.zeros(5, 1)}, "batch"),
    ],
)
def test_bad_known_values_are_refused(model, known, message):
    u = model.problem.solve(model.problem.prior.sample((3,), seed=4))
    with pytest.raises(pddlvm.InputError, match=message):
        model.inverse(u, z_known=known)


def test_bad_solutions_are_refused(model):
    n = model.problem.n_dofs
    for u in (torch.zeros(n - 1), torch.full((n,), torch.nan), torch.zeros(n, dtype=torch.int64)):
        with pytest.raises(pddlvm.InputError, match="u "):
            model.inverse(u)
    with pytest.raises(pddlvm.InputError, match="corrections"):
        model.inverse(torch.zeros(n), corrections=-1)


@pytest.mark.parametrize(
    ("block", "value"),
    [("f", torch.nan), ("f", torch.inf), ("f", 5.0), ("kappa", -1.0), ("kappa", 0.0)],
)
def test_known_values_must_lie_in_the_support(model, block, value):
    u = model.problem.solve(model.problem.prior.sample((3,), seed=4))
    with pytest.raises(pddlvm.InputError, match=block):
        model.inverse(u, z_known={block: torch.tensor(value)})


def test_a_problem_of_one_block_has_nothing_to_be_known():
    problem = poisson.make_1d()
    model = pddlvm.LatentVariableModel(problem)
    z = problem.prior.sample((2,), seed=0)
    with pytest.raises(pddlvm.InputError, match="nothing to infer"):
        model.inverse(problem.solve(z), z_known={"kappa": z})
    with pytest.raises(pddlvm.InputError, match="names 'kapa'"):
        model.inverse(problem.solve(z), z_known={"kapa": z})


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_median_of_an_impossible_solution_stays_in_the_support(model, factor):
    # kappa and f of the prior make no solution of this size likely.
    u = factor * model.problem.solve(model.problem.prior.sample((5,), seed=5))
    model.problem.prior.check(model.inverse(u, corrections=4).median)


def loads() -> pddlvm.Problem:
    """A random load in front of a known conductivity: the residual is affine in z."""
    space = fem.Space(fem.interval(8))
    cells = space.interior()
    return pddlvm.Problem(
        "loads",
        space,
        [pddlvm.Energy(cells, diffusion), pddlvm.Energy(cells, load)],
        {
            "kappa": 2.0,
            "f": pddlvm.Chebyshev(prior=pddlvm.Normal(0.5, 2.0), n_terms=3, low=0, high=1),
        },
        [pddlvm.Dirichlet(None)],
    )


def test_one_step_is_the_gaussian_posterior_where_the_residual_is_affine():
    problem = loads()
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.Nodal(), dtype=torch.float64)
    z = problem.prior.sample((4,), seed=6)
    u = problem.solve(z)
    found = model.inverse(u, corrections=1)
    v = torch.from_numpy(model.reduction.v)
    c = model.reduced.representation.project(u)
    origin, unit = torch.zeros(1, 3).double(), torch.eye(3).double()

    def residual(xi, solution):
        return problem.residual(solution, problem.prior.unstandardise(xi)) @ v

    for i in range(4):
        # V^T r / |c| = J xi + r_0 with noise sigma, and xi ~ N(0, I): ridge regression.
        size = c[i].norm() * model.reduction.units.energy**0.5
        scale = model.sigma_residual * size
        r = residual(origin, u[i])[0] / scale
        jacobian = ((residual(unit, u[i]) - residual(origin, u[i])) / scale).T
        hessian = jacobian.T @ jacobian + unit
        # Rounding times the condition number of the normal equations, about 1e6.
        expected = -torch.linalg.solve(hessian, jacobian.T @ r)
        torch.testing.assert_close(found.xi_mean[i], expected, rtol=1e-7, atol=1e-7)
        spread = torch.linalg.inv(hessian).diagonal().sqrt()
        torch.testing.assert_close(found.xi_std[i], spread, rtol=1e-7, atol=0)


def test_a_solution_with_other_boundary_values_is_refused(model):
    u = model.problem.solve(model.problem.prior.sample((2,), seed=0))
    with pytest.raises(pddlvm.InputError, match="Dirichlet"):
        model.inverse(u + 1)


def test_known_values_come_back_exactly(model):
    z = model.problem.prior.sample((2,), seed=0)
    blocks = model.problem.prior.split(z)
    name = next(iter(blocks))
    inverse = model.inverse(model.problem.solve(z), z_known={name: blocks[name]})
    # Standardised and back in float64.
    torch.testing.assert_close(
        model.problem.prior.split(inverse.mean)[name], blocks[name], rtol=1e-14, atol=1e-15
    )
