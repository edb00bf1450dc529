"""Models of problems without a positive operator: waves, saddle points, flows with inertia."""

import warnings

import flows
import pytest
import torch
import waves
from checks import refuses

import pddlvm
from pddlvm.reduced.solving import solve_reduced


def cavity():
    """A lid-driven cavity with inertia."""

    def flow(u, du, p, x, re):
        return flows.navier_stokes(u, du, p, x, 1 / re)

    return flows.channel(
        n=4,
        function=flow,
        fields={"re": pddlvm.Constant(pddlvm.Uniform(10.0, 100.0))},
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", flows.lid)],
        constraints=[pddlvm.MeanValue("p")],
    )


CASES = {
    "waves": (waves.helmholtz, pddlvm.Natural),
    "channel": (flows.random_channel, pddlvm.Natural),
    "cavity": (cavity, pddlvm.Dual),
}


@pytest.fixture(
    scope="module",
    params=["waves", "channel", pytest.param("cavity", marks=pytest.mark.slow)],
)
def case(request):
    make, covariance = CASES[request.param]
    problem = make()
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(12))
    assert isinstance(model.covariance, covariance)
    pddlvm.train(model, max_steps=60, calibrate=False)
    model.calibrate(64)
    z = problem.prior.sample((6,), seed=3)
    return problem, model, z, problem.solve(z)


def relative(model, error, u):
    return model.norm(error) / model.norm(u)


@pytest.mark.slow
def test_corrections_reach_the_error_of_the_basis(case):
    _, model, z, u = case
    exact = model.exact.representation
    best = relative(model, exact.expand(exact.project(u), z) - u, u)
    # Two steps, where the problem is not linear.
    corrected = relative(model, model.forward(z, corrections=2).mean - u, u)
    # The least residual is the least error up to a constant of the problem; 1.6 of the channel.
    assert (corrected <= 2 * best.max() + 1e-9).all()
    assert (corrected < 0.1 * relative(model, model.forward(z).mean - u, u) + 1e-9).all()


def test_training_lowers_the_error(case):
    problem, model, z, u = case
    torch.manual_seed(0)
    fresh = pddlvm.LatentVariableModel(problem, reduction=model.reduction)
    trained, untrained = (relative(m, m.forward(z).mean - u, u).mean() for m in (model, fresh))
    assert trained < 0.5 * untrained


def test_refinement_reaches_the_solution(case):
    _, model, z, u = case
    found = model.refine(z, tolerance=1e-10)
    assert (relative(model, found.u - u, u) < 1e-8).all()
    assert (found.iterations <= 30).all()


def test_the_certificate_is_the_dual_norm_of_the_residual(case):
    problem, model, z, _ = case
    forward = model.forward(z)
    reference = model.reduction.reference
    r = problem.residual(forward.mean, z)
    expected = (r * reference.solve(r)).sum(1).sqrt() / model.norm(forward.mean)
    torch.testing.assert_close(forward.residual_norm, expected, rtol=1e-6, atol=0)


def test_the_inverse_map_finds_the_parameters(case):
    problem, model, z, u = case
    inverse = model.inverse(u)
    _, unit = problem.prior.units
    assert (((inverse.mean - z) / unit).abs() < 1e-3).all()


def test_a_saved_model_is_the_same(case, tmp_path):
    problem, model, z, u = case
    model.save(tmp_path / "model.pt")
    loaded = pddlvm.load(tmp_path / "model.pt", problem)
    for corrections in (0, 1):
        one, two = (m.forward(z, corrections=corrections) for m in (model, loaded))
        assert torch.equal(one.mean, two.mean) and torch.equal(one.std, two.std)
    assert torch.equal(model.inverse(u).mean, loaded.inverse(u).mean)


def test_laplace_is_the_posterior_of_the_finite_elements(case):
    problem, model, _, u = case
    points = [[0.3, 0.4], [0.6, 0.5], [0.5, 0.8]]
    sensors = pddlvm.PointObservation(problem, points, noise_std=0.01)
    y = sensors.simulate(u[:2], seed=0)
    surrogate = model.infer(y, sensors, "laplace")
    predicted = sensors.apply(problem.solve(surrogate.mean))
    # A search ends where derivatives are zero: those of the predictions explain the data.
    assert float((predicted - sensors.apply(u[:2])).abs().max()) < 0.05


def test_derivatives_of_predictions_are_those_of_differences(case):
    problem, model, z, _ = case
    sensors = pddlvm.PointObservation(problem, [[0.3, 0.4]], noise_std=0.01, field="u")
    surrogate = model.surrogate(sensors, corrections=2)
    xi = problem.prior.standardise(z[:2])
    _, slope = surrogate.linearise(xi)
    step = 1e-4
    for j in range(xi.shape[1]):
        moved = [xi.clone(), xi.clone()]
        moved[0][:, j] += step
        moved[1][:, j] -= step
        difference = (surrogate.mean(moved[0]) - surrogate.mean(moved[1])) / (2 * step)
        # The derivative of least squares leaves out that of their remainder.
        scale = float(slope.abs().max())
        torch.testing.assert_close(slope[..., j], difference, rtol=0.02, atol=0.02 * scale)


@pytest.mark.slow
def test_each_field_has_error_bars_of_its_own():
    problem = flows.random_channel()
    model = pddlvm.LatentVariableModel(problem, basis=pddlvm.ResidualEnriched(12))
    pddlvm.train(model, max_steps=60, calibrate=False)
    model.calibrate(256)
    report = pddlvm.validate(model, 60)
    assert set(report.coverage_of) == {"u", "p"}
    for name in ("u", "p"):
        # 60 draws: some five points, and more as the values of one draw err together.
        assert 0.7 <= report.bars[name].coverage[0.8] <= 0.9
        assert 0.7 <= report.bars[name].std_ratio <= 1.4
    z = problem.prior.sample((3,), seed=1)
    forward = model.forward(z)
    dofs, _ = problem.space.field("p")
    own = forward.field("p")
    assert torch.equal(own.mean, forward.mean[:, dofs])
    assert torch.equal(own.std, forward.std[:, dofs])
    assert torch.equal(own.interval(0.9)[1], forward.interval(0.9)[1][:, dofs])
    assert torch.equal(own.sample((2,), seed=0), forward.sample((2,), seed=0)[..., dofs])
    refuses("there is no field 'q'", forward.field, "q")
    # Draws and covariances have the spread of each field.
    draws = forward.sample((4000,), seed=0)
    torch.testing.assert_close(draws.std(0), forward.std, rtol=0.1, atol=1e-6)
    rows = torch.eye(problem.n_dofs)[[3, -3]].double()
    expected = forward.std[:, [3, -3]].double()
    torch.testing.assert_close(
        forward.covariance(rows).diagonal(dim1=1, dim2=2).sqrt(), expected, rtol=1e-3, atol=1e-9
    )


def test_one_field_alone_is_u():
    problem = waves.helmholtz()
    model = pddlvm.LatentVariableModel(problem)
    model.calibrate(32)
    forward = model.forward(problem.prior.sample((2,), seed=0))
    assert torch.equal(forward.field("u").mean, forward.mean)
    refuses("p", forward.field, "p")


def test_a_prior_across_a_resonance_is_told_so():
    with pytest.warns(pddlvm.ResonanceWarning, match="between 1 and 3 negative eigenvalues"):
        model = pddlvm.LatentVariableModel(waves.helmholtz(25.0, 60.0))
    problem = model.problem
    z = problem.prior.sample((20,), seed=0)
    u = problem.solve(z)
    model.calibrate(32)
    error = relative(model, model.forward(z, corrections=1).mean - u, u)
    assert float(error.median()) < 1e-4


def test_one_below_it_is_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pddlvm.LatentVariableModel(waves.helmholtz(25.0, 44.0))


def test_a_prior_that_only_reaches_across_the_first_one_is_told_so_too():
    """Positive at its centre, and not everywhere."""
    with pytest.warns(pddlvm.ResonanceWarning, match="between 0 and 1 negative eigenvalues"):
        model = pddlvm.LatentVariableModel(waves.helmholtz(10.0, 25.0))
    assert model.reduction.reference.is_dual


def test_covariances_that_do_not_fit_are_refused():
    reduction = pddlvm.reduce(waves.helmholtz())
    refuses(
        "EnergyNorm needs an energy that has a minimum",
        pddlvm.LatentVariableModel,
        waves.helmholtz(),
        reduction=reduction,
        covariance=pddlvm.EnergyNorm(),
    )
    refuses(
        "Natural is for problems that are linear",
        pddlvm.LatentVariableModel,
        cavity(),
        covariance=pddlvm.Natural(),
    )


def test_natural_makes_all_directions_alike():
    """-2 eps^2 log p = |c - c*|^2, c* the reduced solution."""
    problem = waves.helmholtz()
    model = pddlvm.LatentVariableModel(problem, covariance=pddlvm.Natural(0.01), dtype=torch.double)
    xi = problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(0))
    z = problem.prior.unstandardise(xi)
    solution = solve_reduced(model.exact, z)
    c = solution + torch.randn(solution.shape, generator=torch.Generator().manual_seed(1))
    expected = -0.5 * (c - solution).square().sum(1) / (0.01 * solution.norm(dim=1)) ** 2
    torch.testing.assert_close(model.likelihood(c, z, xi), expected, rtol=1e-5, atol=0)


def test_dual_measures_the_residual():
    problem = cavity()
    model = pddlvm.LatentVariableModel(problem, covariance=pddlvm.Dual(0.01), dtype=torch.double)
    xi = problem.prior.sample_standard((3,), generator=torch.Generator().manual_seed(0))
    z = problem.prior.unstandardise(xi)
    c = model.forward_map(xi)[0].detach()
    u = model.exact.representation.expand(c, z)
    r = problem.residual(u, z)
    squared = (r * model.reduction.reference.solve(r)).sum(1) / model.reduction.units.energy
    eps = 0.01 * model.forward_map.amplitude(xi)
    # W sees most of the residual, and the cubature integrates it nearly.
    torch.testing.assert_close(
        model.likelihood(c, z, xi), -0.5 * squared / eps**2, rtol=0.1, atol=0
    )
