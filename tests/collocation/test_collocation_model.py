"""The latent variable model of problems in strong form."""

import math
import re
from pathlib import Path

import meshio
import numpy as np
import pytest
import torch
from pyro import poutine

import pddlvm
from pddlvm.collocation.inverse_networks import GridGaussian
from pddlvm.collocation.likelihood import Causal, Collocation, CollocationLikelihood

BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
HARD = (BOX.start("t"), BOX.start("x"), BOX.end("x"))
N_DRAWS, N_CALIBRATION = 200, 192


def make(residual=None, **changes):
    """sin(pi x) decays and is fed: u_t = rate u_xx + source sin(2 pi x)."""

    def fed(u_t, u_xx, x, rate, source):
        return u_t - rate * u_xx - source * torch.sin(2 * math.pi * x)

    arguments = {
        "fields": {
            "rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "source": pddlvm.Constant(pddlvm.Uniform(0.0, 1.0)),
        },
        "lift": lambda x: torch.sin(math.pi * x),
        "hard": HARD,
        "grid": (15, 12),
        "nodes": (14, 10),
    }
    return pddlvm.CollocationProblem("fed", BOX, residual or fed, **(arguments | changes))


def build(problem, **options):
    return pddlvm.LatentVariableModel(
        problem, points=pddlvm.UniformPoints(64), n_functions=12, **options
    )


@pytest.fixture(scope="module")
def problem():
    return make()


@pytest.fixture(scope="module")
def trained(problem):
    model = build(problem, seed=0)
    pddlvm.train(model, max_steps=500, calibrate=False)
    model.calibrate(N_CALIBRATION)
    return model


@pytest.fixture(scope="module")
def draws(problem):
    z = problem.prior.sample((N_DRAWS,), seed=3)
    return z, problem.solve(z)


def check_intervals(interval, true):
    """Three standard errors, here and in the calibration; the numbers of a draw err together."""
    variance = 1 / N_DRAWS + 1 / N_CALIBRATION
    for level in (0.5, 0.8, 0.95, 0.99):
        lower, upper = interval(level)
        held = ((lower <= true) & (true <= upper)).double().mean()
        tolerance = 3 * math.sqrt(level * (1 - level) * variance)
        assert float(held) == pytest.approx(level, abs=tolerance), level


def relative(u, v):
    return (u - v).norm(dim=-1) / v.norm(dim=-1)


def test_the_model_fits_the_problem(problem):
    assert isinstance(build(problem), pddlvm.CollocationModel)


def test_the_sites_of_the_program(problem):
    model = build(problem)
    generator = torch.Generator().manual_seed(0)
    model.place(model.draw_points(generator))
    guide = poutine.trace(model.guide).get_trace(5, generator)
    replayed = poutine.replay(model.model, guide)
    trace = poutine.trace(replayed).get_trace(5, generator)
    sites = {"c", "xi", "residual"}
    assert sites <= set(trace.nodes)
    residual = trace.nodes["residual"]
    assert residual["fn"].log_prob(residual["value"]).shape == (5,)
    # The inverse map of the program reads the solution on the grid.
    assert trace.nodes["xi"]["fn"].log_prob(trace.nodes["xi"]["value"]).shape == (5,)


def test_the_forward_map_is_accurate_and_its_std_honest(trained, draws):
    z, u = draws
    forward = trained.forward(z)
    # Measured: 2e-3 to 4e-3 for three seeds.
    assert relative(forward.mean, u).mean() < 1e-2
    free = torch.from_numpy(trained.problem.free_dofs)
    check_intervals(lambda level: [end[:, free] for end in forward.interval(level)], u[:, free])
    assert (forward.std[:, torch.from_numpy(trained.problem.fixed_dofs)] == 0).all()


def test_the_certificate_follows_the_error(trained, draws):
    z, u = draws
    forward = trained.forward(z)
    logs = torch.stack([relative(forward.mean, u), forward.residual_norm]).log()
    # Measured: 0.81; after 900 steps 0.97 to 0.98 for three seeds.
    assert torch.corrcoef(logs)[0, 1] > 0.7


def test_a_correction_removes_the_error(trained, draws):
    z, u = draws
    corrected = trained.forward(z, corrections=1)
    # The maps are float32, and the grid is interpolated from 14 x 10 nodes.
    assert relative(corrected.mean, u).max() < 1e-4
    assert corrected.residual_norm.mean() < trained.forward(z).residual_norm.mean()


def test_a_correction_at_points(trained, draws):
    z, u = draws
    at = trained.forward(z, corrections=1, points=trained.problem.grid_points)
    assert relative(at.mean, u).max() < 1e-4


def test_points_and_grid_agree(trained, draws):
    z, _ = draws
    forward = trained.forward(z)
    at = trained.forward(z, points=trained.problem.grid_points)
    # The grid is interpolated from the nodes, the points are evaluated.
    assert relative(at.mean, forward.mean).max() < 1e-4
    torch.testing.assert_close(at.std, forward.std, rtol=1e-4, atol=1e-6)


def test_points_and_grid_agree_where_the_stretch_follows_z():
    stretch = pddlvm.Sinh(0.5, lambda rate: rate)
    problem = make(stretch={"x": stretch})
    model = build(problem)
    z = problem.prior.sample((3,), seed=0)
    forward = model.forward(z)
    at = model.forward(z, points=problem.grid_points)
    assert relative(at.mean, forward.mean).max() < 1e-4
    torch.testing.assert_close(at.std, forward.std, rtol=1e-4, atol=1e-6)


def test_samples_have_the_moments_that_are_reported(trained):
    z = trained.problem.prior.sample((2,), seed=9)
    forward = trained.forward(z)
    draws = forward.sample((4000,), seed=0)
    assert draws.shape == (4000, 2, trained.problem.n_dofs)
    free = torch.from_numpy(trained.problem.free_dofs)
    ratio = (draws.std(0) / forward.std.clamp(min=1e-30))[:, free]
    # Between nodes a product of cardinal functions differs from a linear interpolation of std.
    assert float(ratio.median()) == pytest.approx(1.0, abs=0.06)
    shift = ((draws.mean(0) - forward.mean) / forward.std.clamp(min=1e-30))[:, free]
    assert shift.abs().max() < 5 * ratio.max() / math.sqrt(4000)


def test_log_prob_prefers_the_solution(trained, draws):
    z, u = draws
    forward = trained.forward(z)
    assert forward.log_prob(u).shape == (N_DRAWS,)
    assert (forward.log_prob(u) > forward.log_prob(u.roll(1, 0))).all()


def test_dtype_and_batch_follow_z(trained):
    z = trained.problem.prior.sample((2, 3), seed=0).float()
    forward = trained.forward(z)
    assert forward.mean.shape == forward.std.shape == (2, 3, trained.problem.n_dofs)
    assert forward.mean.dtype == forward.std.dtype == torch.float32
    assert forward.residual_norm.shape == (2, 3)
    assert trained.forward(z[0, 0]).mean.shape == (trained.problem.n_dofs,)
    assert trained.forward(z[:0]).mean.shape == (0, 3, trained.problem.n_dofs)


def test_sigma_grows_outside_of_the_prior(trained):
    inside = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    outside = torch.tensor([[0.6, 3.0]], dtype=torch.float64)
    with pytest.raises(pddlvm.SupportError):
        trained.forward(outside)
    far = trained.forward(outside, extrapolate=True)
    assert far.std.mean() > 3 * trained.forward(inside).std.mean()


def test_the_inverse_map(trained, draws):
    z, u = draws
    inverse = trained.inverse(u)
    xi = trained.problem.prior.standardise(z)
    # In prior standard deviations.
    assert (inverse.xi_mean - xi).square().mean().sqrt() < 0.15
    check_intervals(inverse.interval, z)


def test_what_no_parameter_explains_is_rejected(trained, draws):
    _, u = draws
    inverse = trained.inverse(u)
    # As for the calibration's own: less than one in a hundred, and 3 of 200 have 1.5 %.
    assert sum(text.startswith("reject") for text in inverse.verdict) <= 3
    free = torch.from_numpy(trained.problem.free_dofs)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(u), len(free), generator=generator, dtype=u.dtype)
    size = u.norm(dim=1, keepdim=True) / math.sqrt(len(free))
    # It hardly misleads a network that reads few shapes, and is seen all the same.
    verdict = trained.inverse(u.index_add(1, free, 0.03 * size * noise)).verdict
    assert all(text.startswith("reject") for text in verdict)


def test_known_parameters_are_taken_as_given(trained, draws):
    z, u = draws
    inverse = trained.inverse(u, z_known={"rate": z[:, :1]})
    torch.testing.assert_close(inverse.mean[:, 0], z[:, 0])
    assert (inverse.std[:, 0] == 0).all()
    assert (inverse.std[:, 1] > 0).all()


def test_validation(trained):
    report = pddlvm.validate(trained, n_samples=20)
    assert report.relative_l2 < 1e-2
    assert report.relative_l2_corrected < 1e-4
    assert report.mnse_z < 0.05
    assert set(report.speedup) == {"batch 1", "batch 1000"}


def test_a_saved_model_predicts_the_same(trained, tmp_path, draws):
    z, u = draws
    trained.save(tmp_path / "fed.pt")
    loaded = pddlvm.load(tmp_path / "fed.pt", make())
    assert isinstance(loaded, pddlvm.CollocationModel)
    for corrections in (0, 1):
        before, after = trained.forward(z, corrections), loaded.forward(z, corrections)
        assert torch.equal(before.mean, after.mean)
        assert torch.equal(before.std, after.std)
    assert torch.equal(trained.inverse(u).std, loaded.inverse(u).std)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": (15, 13)},
        {"lift": lambda x: torch.sin(2 * math.pi * x)},
        {"fields": {"rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.3)), "source": 1.0}},
    ],
)
def test_another_problem_is_refused(trained, tmp_path, changes):
    trained.save(tmp_path / "fed.pt")
    with pytest.raises(pddlvm.RunFileError, match="another problem"):
        pddlvm.load(tmp_path / "fed.pt", make(**changes))


def test_options_survive_saving(problem, tmp_path):
    points = pddlvm.AdaptivePoints(32, base=pddlvm.Sobol(), every=7)
    model = pddlvm.LatentVariableModel(problem, points=points, causal=Causal(rate=0.3))
    model.save(tmp_path / "model.pt")
    loaded = pddlvm.load(tmp_path / "model.pt", problem)
    assert loaded.stream.sampler == points
    assert loaded.zero_residual.causal == Causal(rate=0.3)


def test_vtu(trained, tmp_path):
    z = trained.problem.prior.sample(seed=0)
    trained.to_vtu(tmp_path / "fed.vtu", z)
    mesh = meshio.read(tmp_path / "fed.vtu")
    assert mesh.cells[0].type == "quad"
    assert len(mesh.cells[0].data) == 14 * 11
    np.testing.assert_allclose(mesh.point_data["u_mean"], trained.forward(z).mean)
    np.testing.assert_allclose(mesh.point_data["rate"], float(z[0]))
    corners = mesh.points[mesh.cells[0].data[0]][:, :2]
    sides = np.roll(corners, -1, axis=0) - corners
    # Counter-clockwise and axis-parallel.
    np.testing.assert_allclose(sides[:, 0] * np.roll(sides[:, 1], -1) > 0, [True, False] * 2)


@pytest.mark.parametrize(
    "options",
    [
        {"inverse_network": GridGaussian((15, 12), 4, 2)},
        {"dtype": torch.float64},
    ],
)
def test_options_train(problem, options):
    model = build(problem, **options)
    result = pddlvm.train(model, max_steps=40, calibrate=False)
    rows = [row["elbo"] for row in result.history]
    assert rows[3] > rows[0]


@pytest.mark.slow
def test_causal_weights_train(problem, draws):
    z, u = draws
    model = build(problem, causal=Causal(rate=0.01))
    before = relative(model.forward(z).mean, u).mean()
    pddlvm.train(model, max_steps=100, calibrate=False)
    assert relative(model.forward(z).mean, u).mean() < before / 5


@pytest.mark.slow
def test_adaptive_points_train(problem):
    model = pddlvm.LatentVariableModel(problem, points=pddlvm.AdaptivePoints(64, every=10))
    result = pddlvm.train(model, max_steps=60, calibrate=False)
    assert result.history[4]["elbo"] > result.history[0]["elbo"]


@pytest.mark.slow
def test_soft_conditions_train():
    conditions = [
        pddlvm.Condition(HARD[0], lambda u, x: u - torch.sin(math.pi * x), 0.01),
        pddlvm.Condition(HARD[1], lambda u: u, 0.01),
        pddlvm.Condition(HARD[2], lambda u: u, 0.01),
    ]
    problem = make(lift=None, hard=(), conditions=conditions)
    model = build(problem)
    pddlvm.train(model, max_steps=800)
    z = problem.prior.sample((10,), seed=0)
    # Measured: 2e-2.
    assert relative(model.forward(z).mean, problem.solve(z)).mean() < 5e-2


def test_training_is_repeatable(problem):
    found = []
    for _ in range(2):
        model = build(problem, seed=4)
        pddlvm.train(model, max_steps=20, calibrate=False)
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_the_likelihood_is_that_of_its_formula(problem, generator):
    """Against the residual of the same function by automatic differentiation of the whole map."""
    model = build(problem, dtype=torch.float64)
    model.place(model.draw_points(generator))
    z = problem.prior.sample((2,), generator=generator)
    c = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    s = model.zero_residual.inside.s
    points = torch.stack(problem.ansatz.place(s, z).x, dim=-1)

    def square(c, z):
        def u(x, t):
            basis = Collocation.at(problem, model.basis.trunk, _located(problem, x, t)).basis[()]
            return model.basis.unit * (basis @ c) + torch.sin(math.pi * x)

        # Finite differences of fourth order, h = 1e-2: errors of some 1e-6.
        def slope(f, i):
            def at(*x):
                moved = [[c + (k * 1e-2 if j == i else 0) for j, c in enumerate(x)] for k in _K]
                return sum(w * f(*m) for w, m in zip(_W, moved, strict=True)) / 1e-2

            return at

        x = points.unbind(-1)
        source = z[1] * torch.sin(2 * math.pi * x[0])
        r = slope(u, 1)(*x) - z[0] * slope(slope(u, 0), 0)(*x) - source
        return (r / model.sigma).square().sum()

    expected = torch.stack([-0.5 * square(*pair) for pair in zip(c, z, strict=True)])
    found = model.likelihood(c, z, problem.prior.standardise(z))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


_K, _W = (-2, -1, 1, 2), (1 / 12, -8 / 12, 8 / 12, -1 / 12)


def _located(problem, x, t):
    """Reference coordinates without a limit, so that differences may look past the faces."""
    return torch.stack([2 * x - 1, 2 * t - 1], dim=-1)


def test_causal_weights_fall_with_the_residual_of_earlier_times(problem, generator):
    model = build(problem, dtype=torch.float64)
    model.place(model.draw_points(generator))
    likelihood = CollocationLikelihood(problem, Causal(rate=1.0))
    likelihood.inside = model.zero_residual.inside
    weights = likelihood._causal_weights(torch.ones(2, 64, dtype=torch.float64))
    order = likelihood.inside.s[1].argsort()
    expected = (-torch.arange(64, dtype=torch.float64) / 64).exp()
    torch.testing.assert_close(weights[order], expected)


def test_a_run_that_becomes_non_finite_stops(problem):
    model = build(problem)
    with pytest.raises(pddlvm.NonFiniteError, match="last good state"):
        pddlvm.train(model, max_steps=200, learning_rates=(1e30, 1e30))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_residual_that_overflows_in_training_is_located():
    def fragile(u, u_t, u_xx, rate, source):
        # Finite for every u of the checks, but not for what a wild step makes of it.
        return u_t - rate * u_xx - source + torch.where(u.abs() > 3, torch.inf, 0.0) * u

    model = build(make(residual=fragile))
    with pytest.raises(pddlvm.NonFiniteError, match=r"the residual at x = .*, t = .* for z"):
        pddlvm.train(model, max_steps=300, learning_rates=(3.0, 3.0))


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"causal": Causal("y")}])
def test_options_are_checked(problem, options):
    with pytest.raises(pddlvm.InputError):
        build(problem, **options)


def test_points_outside_are_refused(trained):
    z = trained.problem.prior.sample(seed=0)
    with pytest.raises(pddlvm.InputError, match=r"x = 1\.5 is outside"):
        trained.forward(z, points=torch.tensor([[1.5, 0.2]]))


def test_a_solution_on_another_grid_is_refused(trained):
    with pytest.raises(pddlvm.InputError, match=r"grid \(15, 12\)"):
        trained.inverse(torch.zeros(3, 7))


def test_too_few_draws_for_a_calibration(trained):
    with pytest.raises(pddlvm.InputError, match="at least 32"):
        trained.calibrate(8)


@pytest.mark.slow
def test_noisy_data_of_a_problem_in_strong_form(trained):
    problem = trained.problem
    points = [[x, t] for x in (0.25, 0.5, 0.75) for t in (0.3, 0.6, 1.0)]
    obs = pddlvm.PointObservation(problem, points, 0.01)
    z = problem.prior.sample((20,), seed=4)
    y = obs.simulate(problem.solve(z), seed=5)
    posterior = trained.infer(y, obs, "laplace")
    score = (posterior.mean - z) / posterior.std
    assert 0.5 < score.square().mean().sqrt() < 1.6
    assert (posterior.std < 0.5 * problem.prior.sample((500,), seed=0).std(0)).double().mean() > 0.5
    one = trained.infer(y[0], obs, "variational")
    assert ((one.mean - posterior.mean[0]).abs() < posterior.std[0]).all()
    with pytest.raises(pddlvm.ProblemError, match="nuts"):
        posterior.check()
    with pytest.raises(pddlvm.ProblemError, match="use method 'nuts'"):
        trained.infer(y[0], obs, "exact")


@pytest.mark.slow
def test_code_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "strong_form.md"
    codes = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    one: dict = {}
    two: dict = {}
    for code, variables in zip(codes, (one, two), strict=True):
        exec(re.sub(r"max_seconds=\d+", "max_steps=30", code), variables)
        u = variables["problem"].solve(variables["z"])
        assert u.shape == (4, variables["problem"].n_dofs)
    assert one["at"].mean.shape == (4, 2)
    assert two["v"].mean.shape == (4, 41 * 41)
    assert two["posterior"].mean.shape == (4, 2)
