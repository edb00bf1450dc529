"""Model and input may lie on any device: results follow the input, and are the same.

On a real device where there is one, else on one that is not there.
"""

import sys
import warnings
from contextlib import nullcontext
from functools import cache
from math import prod
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch
from checks import UNLIKE_PROBLEMS
from elements import darcy_flow
from fake_device import CPU, fake_device
from fake_device import DEVICE as NOT_THERE

import pddlvm
from pddlvm import fem, links, plot
from pddlvm.cli.app import main
from pddlvm.galerkin import solved_draws
from pddlvm.trajectory.reduction import reduce_trajectories

IS_REAL = torch.cuda.is_available()
DEVICE = torch.device("cuda:0") if IS_REAL else NOT_THERE
PLACES = [(CPU, DEVICE), (DEVICE, CPU), (DEVICE, DEVICE)]
"""Of the model, and of its input; beside both on the CPU."""
N_STEPS = 4


@pytest.fixture(autouse=True)
def device():
    with nullcontext() if IS_REAL else fake_device():
        yield


@cache
def bar():
    """-(k u')' + u^3 = load, u(1) = load: nonlinear, two blocks, a random boundary value."""
    space = fem.Space(fem.interval(6))
    inside = space.interior()
    return pddlvm.Problem(
        "bar",
        space,
        [
            pddlvm.Energy(inside, lambda u, du, x, k, load: 0.5 * k * du[0] ** 2 - load * u),
            pddlvm.Energy(inside, lambda u, du, x: 0.25 * u**4),
        ],
        {
            "k": pddlvm.KarhunenLoeve.on(space, 2, length=0.5, link=links.exp),
            "load": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, load: load)],
    )


@cache
def diffusion():
    """u_t = rate u_xx + source, with no lift and a condition that is not hard."""
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
    return pddlvm.CollocationProblem(
        "diffusion",
        box,
        lambda u_t, u_xx, rate, source: u_t - rate * u_xx - source,
        fields={
            "rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2)),
            "source": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
        },
        hard=(box.start("t"), box.start("x")),
        conditions=(pddlvm.Condition(box.end("x"), lambda u: u),),
        grid=(7, 6),
        nodes=(8, 6),
    )


@cache
def rod():
    """u_t - (k u')' = 1 from a random start, u(1) = edge in time."""
    space = fem.Space(fem.interval(6))
    inside = space.interior()
    steady = pddlvm.Problem(
        "rod",
        space,
        [pddlvm.Energy(inside, lambda u, du, x, k: 0.5 * k * du[0] ** 2 - u)],
        {
            "k": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
            "edge": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0)),
            "t": pddlvm.Time(1.0),
        },
        [pddlvm.Dirichlet("left"), pddlvm.Dirichlet("right", lambda x, edge, t: edge * t)],
    )
    stepping = pddlvm.Stepping(1.0, 5)
    return pddlvm.TransientProblem(steady, stepping=stepping, initial=lambda x, edge: 0 * edge)


@cache
def reduction():
    return pddlvm.reduce(bar(), pddlvm.ResidualEnriched(n_modes=3))


def new_bar():
    return pddlvm.LatentVariableModel(bar(), reduction=reduction())


def new_diffusion():
    points = pddlvm.AdaptivePoints(16, n_candidates=32, every=2)
    return pddlvm.LatentVariableModel(diffusion(), points=points, n_functions=6)


@cache
def reduced_trajectories():
    return reduce_trajectories(rod(), 4, 6)


def new_rod():
    return pddlvm.LatentVariableModel(rod(), reduction=reduced_trajectories())


@cache
def flow():
    """Fluxes through facets, and pressures of cells."""
    problem = darcy_flow(2)
    return problem, pddlvm.reduce(problem, pddlvm.ResidualEnriched(n_modes=3))


def new_flow():
    problem, reduced = flow()
    return pddlvm.LatentVariableModel(problem, reduction=reduced)


NEW = {"bar": new_bar, "diffusion": new_diffusion, "rod": new_rod, "flow": new_flow}


@pytest.fixture(scope="module", autouse=True)
def small_pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solved_draws, "_N_DRAWS", 256)
        yield


def fast(*names):
    """These kinds of model, and the others in the slow suite."""
    marked = [pytest.param(k, marks=[pytest.mark.slow] * (k not in names)) for k in NEW]
    return pytest.mark.parametrize("model", marked, indirect=True, scope="module")


@pytest.fixture(scope="module", params=NEW)
def model(request):
    """Calibrated; each test moves it to where it wants it."""
    found = NEW[request.param]()
    pddlvm.train(found, max_steps=N_STEPS, calibrate=False, device="cpu")
    found.calibrate(64)
    return found


@pytest.fixture(scope="module")
def solved(model):
    """Three z with their solutions."""
    z = model.problem.prior.sample((3,), seed=5)
    return z, model.problem.solve(z)


@pytest.fixture(scope="module")
def sensors(model):
    points = [[0.3], [0.6]] if model.problem.dim == 1 else [[0.3, 0.5], [0.6, 0.9]]
    return pddlvm.PointObservation(model.problem, points, 0.05)


def check(results, dtype=torch.float64):
    """`results`, name -> tensor of places, follow the input and agree with those on the CPU."""
    expected = results(CPU, CPU)
    for place in PLACES:
        for name, found in results(*place).items():
            where = f"{name}, model and input on {place}"
            assert (found.device, found.dtype) == (place[1], dtype), where
            # The same arithmetic; products in float32 may depend on where memory begins.
            assert torch.allclose(found.cpu(), expected[name], rtol=1e-4, atol=1e-6), where


@pytest.mark.parametrize("corrections", [0, 1])
def test_forward(model, solved, corrections):
    z, u = solved
    rows = torch.ones(2, prod(model.problem.solution_shape), dtype=torch.float64)

    def results(of_model, of_input):
        forward = model.to(of_model).forward(z.to(of_input), corrections)
        return {
            "mean": forward.mean,
            "std": forward.std,
            "residual_norm": forward.residual_norm,
            "interval": forward.interval()[1],
            "covariance": forward.covariance(rows.to(of_input)),
            "sample": forward.sample((2,), seed=1),
            "log_prob": forward.log_prob(u.to(of_input)),
            "log_prob of another device": forward.log_prob(u),
        }

    check(results)


def total(model):
    """The sum of all degrees of freedom."""
    row = torch.ones(1, prod(model.problem.solution_shape), dtype=torch.float64)
    return pddlvm.Quantity(model.problem, row, "total")


@fast("bar", "diffusion", "flow")
def test_quantities_and_what_sensors_see(model, solved, sensors):
    z, _ = solved
    asked = {"total": total(model)}
    if isinstance(model, pddlvm.GalerkinModel):
        asked["largest"] = pddlvm.Quantity(model.problem, lambda u: u.amax(1, keepdim=True))

    def results(of_model, of_input):
        forward = model.to(of_model).forward(z.to(of_input))
        found = {"at": forward.at(sensors)} if hasattr(forward, "at") else {}
        for name, quantity in asked.items():
            answer = forward.of(quantity)
            found |= {
                f"mean of {name}": answer.mean,
                f"std of {name}": answer.std,
                f"interval of {name}": answer.interval()[1],
                f"sample of {name}": answer.sample((2,), seed=1),
            }
        return found

    check(results)


def test_gradients_stay_with_z(model, solved):
    z, _ = solved

    def results(of_model, of_input):
        at = z.to(of_input).clone().requires_grad_()
        forward = model.to(of_model).forward(at)
        if isinstance(model.problem, pddlvm.CollocationProblem):
            forward.mean.sum().backward()
        else:
            forward.of(total(model)).mean.sum().backward()
        return {"gradient": at.grad}

    check(results)


def test_decisions_are_those_of_the_model_wherever_it_is(model, sensors):
    """Their inputs are numbers: all come on the CPU."""

    def results(place):
        model.to(place)
        spread = pddlvm.propagate(model, total(model), 16, reference_solves=3)
        return {
            "mean": spread.mean,
            "quantiles": spread.quantiles(0.5),
            "corrected_mean": spread.corrected_mean,
            "first": pddlvm.sobol_indices(model, total(model), 16).first,
            "gain": pddlvm.place_sensors(model, sensors, 1, 0.05, n_draws=4).gain,
        }

    expected = results(CPU)
    for name, found in results(DEVICE).items():
        found, wanted = (torch.as_tensor(x) for x in (found, expected[name]))
        assert found.device == CPU, name
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("knows", [False, True])
def test_inverse(model, solved, knows):
    z, u = solved
    block = list(model.problem.prior.blocks)[-1]
    known = {block: model.problem.prior.split(z)[block]} if knows else None

    options = {"corrections": 1} if isinstance(model, pddlvm.GalerkinModel) else {}

    def results(of_model, of_input):
        inverse = model.to(of_model).inverse(u.to(of_input), known, **options)
        return {
            "mean": inverse.mean,
            "std": inverse.std,
            "median": inverse.median,
            "interval": inverse.interval()[1],
            "misfit": inverse.misfit,
            "p_value": inverse.p_value,
            "sample": inverse.sample((2,), seed=1),
            "log_prob": inverse.log_prob(z.to(of_input)),
            "log_prob of another device": inverse.log_prob(z),
        }

    check(results)


def of_posterior(posterior, z):
    return {
        "mean": posterior.mean,
        "std": posterior.std,
        "sample": posterior.sample((3,), seed=0),
        "quantiles": posterior.quantiles([0.5]),
        "solution": posterior.solution(2).mean,
        "predictive": posterior.predictive(z),
        "log_prob": posterior.log_prob(z[0]),
    }


@pytest.mark.slow
def test_inverse_of_noisy_fields(model, solved):
    _, u = solved
    if isinstance(model, pddlvm.TrajectoryModel):
        with pytest.raises(pddlvm.InputError, match="not for whole trajectories"):
            model.to(DEVICE).inverse(u.to(DEVICE), noise_std=0.1)
        return

    def results(of_model, of_input):
        noise = torch.full((u.shape[1],), 0.1, dtype=torch.float64, device=of_model)
        inverse = model.to(of_model).inverse(u.to(of_input), noise_std=noise)
        return {"mean": inverse.mean, "std": inverse.std, "p_value": inverse.p_value}

    check(results)


@pytest.mark.slow
def test_infer(model, solved, sensors):
    z, u = solved
    y = sensors.simulate(u[0], seed=0)
    check(
        lambda of_model, of_input: of_posterior(
            model.to(of_model).infer(y.to(of_input), sensors), z.to(of_input)
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["variational", "amortized"])
def test_infer_by_other_methods(model, solved, sensors, method):
    z, u = solved
    y = sensors.simulate(u[0], seed=0)
    model.to(DEVICE).amortize(sensors, max_steps=1)
    posterior = model.infer(y.to(DEVICE), sensors, method)
    for name, found in of_posterior(posterior, z.to(DEVICE)).items():
        assert found.device == DEVICE, name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "exact"])
def test_infer_by_chains(model, solved, sensors, method):
    _, u = solved
    if method == "exact" and not isinstance(model.problem, pddlvm.Problem):
        pytest.skip("not in strong form, and minutes in time")
    y = sensors.simulate(u[0], seed=0).to(DEVICE)
    posterior = model.to(DEVICE).infer(y, sensors, method, n_samples=8, n_chains=2)
    found = (posterior.mean, posterior.std, posterior.sample(), posterior.solution(2).samples)
    assert {x.device for x in found} == {DEVICE}


@pytest.mark.slow
def test_learn_population(model, solved, sensors):
    z = model.problem.prior.sample((10,), seed=2)
    y = sensors.simulate(model.problem.solve(z), seed=0).to(DEVICE)
    population = pddlvm.learn_population(model.to(DEVICE), sensors, y, max_steps=1)
    with warnings.catch_warnings():
        # The encoder saw next to nothing.
        warnings.simplefilter("ignore")
        assert population.infer(y[:2], n_samples=8).device == DEVICE
    assert population.log_likelihood(y[:2], n_samples=8).device == DEVICE
    assert population.sample(2).u.device == CPU


@pytest.mark.parametrize("make", UNLIKE_PROBLEMS)
def test_finite_element_problems_follow_u(make):
    problem = make()
    z = problem.prior.sample((2,), seed=0)
    u = torch.linspace(0, 1, 2 * problem.n_dofs, dtype=torch.float64).reshape(2, -1)

    def results(of_z, of_u):
        found = {"residual": problem.residual(u.to(of_u), z.to(of_z))}
        if problem.has_potential:
            found["energy"] = problem.energy(u.to(of_u), z.to(of_z))
        found |= {name: problem.parameter_field(z.to(of_u), name) for name in problem.random_fields}
        return found

    check(results)
    assert problem.solve(z.to(DEVICE)).device == CPU


def test_a_problem_in_strong_form_follows_z():
    problem = diffusion()
    z, points = problem.prior.sample((2,), seed=0), problem.grid_points[10:13]

    def results(of_points, of_z):
        r = problem.residual(lambda x, t: x * t, z.to(of_z), points.to(of_points))
        return {"residual": r, "rate": problem.parameter_field(z.to(of_z), "rate")}

    check(results)


def test_points_may_lie_anywhere(model, solved):
    if not isinstance(model, pddlvm.CollocationModel):
        pytest.skip("has a mesh")
    points = model.problem.grid_points[10:13]

    def results(of_points, of_z):
        forward = model.to(of_points).forward(solved[0].to(of_z), points=points.to(of_points))
        return {"mean": forward.mean, "std": forward.std, "sample": forward.sample(seed=0)}

    check(results)


NOISES = [
    0.1,
    torch.tensor([0.1, 0.2], dtype=torch.float64),
    torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64),
    pddlvm.StudentT(0.1, 2),
    pddlvm.UnknownStd(0.1, 0.5, 2),
    pddlvm.AR1(0.1, [0.0, 0.3], correlation_time=0.2),
]


@pytest.mark.parametrize("noise", NOISES)
def test_observations_follow_u(model, solved, noise):
    problem = model.problem
    seen = torch.zeros(problem.n_dofs, dtype=torch.bool)
    seen[4:6] = True
    times = [0.5] if isinstance(problem, pddlvm.TransientProblem) else None
    _, u = solved
    misfit = torch.tensor([[0.1, torch.nan], [0.2, 0.3]], dtype=torch.float64)

    def results(of_sensors, of_u):
        given = noise.to(of_sensors) if isinstance(noise, torch.Tensor) else noise
        rows = problem.seen_at(pddlvm.mask_matrix(problem, seen.to(of_sensors)), times)
        sensors = pddlvm.LinearObservation(problem, rows, given)
        data = sensors.simulate(u.to(of_u), seed=0)
        at = misfit.to(of_u)
        return {
            "apply": sensors.apply(u.to(of_u)),
            "simulate": data,
            "log_prob": sensors.log_prob(data.to(of_sensors), u.to(of_u)),
            "noise": sensors.noise.log_prob(at),
            "square": sensors.noise.square(at),
            "precision": sensors.noise.precision(at).dense(),
        }

    check(results)


def test_refine(model, solved):
    if not isinstance(model, pddlvm.GalerkinModel):
        pytest.skip("has no finite elements")
    z, u = solved

    def results(of_model, of_z):
        model.to(of_model)
        return {
            "refined": model.refine(z.to(of_z)).u,
            "from u": model.refine(z.to(of_z), u=u.to(of_model)).u,
            "residual_norm": model.refine(z.to(of_z), tolerance=0.5).residual_norm,
        }

    check(results)


@pytest.fixture(scope="module")
def trajectories():
    """Calibrated, and three z with their solutions."""
    model = new_rod()
    pddlvm.train(model, max_steps=N_STEPS, calibrate=False, device="cpu")
    model.calibrate(64)
    z = model.problem.prior.sample((3,), seed=5)
    return model, z, model.problem.solve(z)


def test_trajectories_follow_z_by_all_corrections_and_at_times(trajectories):
    model, z, u = trajectories
    times = torch.tensor([0.3, 0.9])

    def results(of_model, of_input):
        model.to(of_model)
        two = model.forward(z.to(of_input), 2)
        late = model.forward(z.to(of_input), 1, times=times.to(of_model))
        return {
            "mean": two.mean,
            "std": two.std,
            "residual_norm": two.residual_norm,
            "coefficients": two.coefficients,
            "log_prob": two.log_prob(u.to(of_model)),
            "late mean": late.mean,
            "late std": late.std,
            "late sample": late.sample((2,), seed=1),
            "late interval": late.interval()[0],
            "norm": model.norm(u.to(of_input)),
        }

    check(results)
    assert model.to(DEVICE).refine(z.to(DEVICE)).device == CPU


def test_a_problem_in_time_follows_u_or_z(trajectories):
    model, z, u = trajectories
    problem, times = model.problem, torch.tensor([0.3, 0.9])

    def results(of_z, of_u):
        return {
            "residual": problem.residual(u.to(of_u), z.to(of_z)),
            "at": problem.at(z.to(of_u), times.to(of_z)),
            "edge": problem.parameter_field(z.to(of_u), "edge"),
        }

    check(results)
    assert problem.history(z.to(DEVICE)).device == problem.solve(z.to(DEVICE)).device == CPU


class Interrupted(Exception):
    pass


def interrupt(row):
    if row["step"] >= N_STEPS - 2:
        raise Interrupted


@pytest.mark.skipif(IS_REAL, reason="a real device draws other numbers")
@pytest.mark.parametrize("name", NEW)
def test_a_training_on_the_device_is_that_on_the_cpu(name):
    models = [NEW[name](), NEW[name]()]
    for model, device in zip(models, (CPU, DEVICE), strict=True):
        result = pddlvm.train(model, max_steps=N_STEPS, calibrate=False, device=device)
        assert result.device == device
    assert {value.device for value in models[1].state_dict().values()} == {DEVICE}
    z = models[0].problem.prior.sample((3,), seed=0)
    # A few steps in float32 with other orders of sums.
    torch.testing.assert_close(
        models[1].forward(z).mean, models[0].forward(z).mean, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=[pytest.mark.slow] * (k in ("diffusion", "flow"))) for k in NEW]
)
def test_a_training_on_the_device_is_resumed_bit_by_bit(name, tmp_path):
    def trained(**options):
        model = NEW[name]()
        # Each row of the history moves the adaptive points on.
        state, every = "pddlvm.training.state.RECORD_STEPS", 2
        with patch("pddlvm.training.loop.RECORD_STEPS", every), patch(state, every):
            pddlvm.train(model, max_steps=N_STEPS, calibrate=False, device=DEVICE, **options)
        return model

    kept = pddlvm.Checkpoints(tmp_path, every=0)
    with pytest.raises(Interrupted):
        trained(checkpoints=kept, record=interrupt)
    resumed = trained(checkpoints=kept, resume=True).state_dict()
    for key, value in trained().state_dict().items():
        assert torch.equal(resumed[key], value), key


@pytest.mark.slow
def test_calibration_on_the_device(model):
    model.to(DEVICE).calibrate(64, seed=4)
    state = model.uncertainty.state_dict().values()
    assert {value.device for value in state} == {DEVICE}
    assert all(torch.isfinite(value).all() for value in state)


@pytest.mark.slow
def test_references_follow_the_model(model):
    if isinstance(model, pddlvm.GalerkinModel):
        pytest.skip("keeps none")
    model.to(DEVICE).calibrate(64, seed=6)
    model.cpu().calibrate(64, seed=6)
    assert model.forward(model.problem.prior.sample()).std.device == CPU


@fast("bar", "rod")
def test_a_model_on_the_device_reports_and_writes(model, solved, tmp_path):
    model.to(DEVICE)
    z = solved[0].to(DEVICE)
    with patch("pddlvm.validation.maps._LARGE_BATCH", 2):
        assert pddlvm.validate(model, 3).n_samples == 3
    model.to_vtu(tmp_path / "u.vtu", z, n_samples=1)
    model.to_pvd(tmp_path / "u.pvd", z[0])
    plot.forward_figure(model, z[0])
    if isinstance(model.problem, pddlvm.Problem):
        plot.inverse_figure(model, z[0], n_samples=2)
    model.save(tmp_path / "model.pt")
    loaded = pddlvm.load(tmp_path / "model.pt", model.problem)
    torch.testing.assert_close(loaded.forward(z).mean, model.forward(z).mean, rtol=1e-4, atol=1e-6)
    plt.close("all")


def test_a_posterior_follows_its_data_to_the_device(model, solved, sensors, tmp_path):
    z, u = (x[0].to(DEVICE) for x in solved)
    posterior = model.to(DEVICE).infer(sensors.simulate(u, seed=0), sensors)
    for name, found in of_posterior(posterior, z[None]).items():
        assert (found.device, found.dtype) == (DEVICE, torch.float64), name
    plot.marginals({"laplace": posterior}, truth=z)
    plot.corner(posterior, parameters=[0], truth=z)
    posterior.to_netcdf(tmp_path / "posterior.nc", n_samples=16)
    if isinstance(model.problem, pddlvm.Problem):
        assert posterior.check(32).diagnostics.khat is not None
    plt.close("all")


@pytest.mark.slow
def test_exported_maps_ask_for_no_device(model, tmp_path):
    if isinstance(model, pddlvm.TrajectoryModel):
        with pytest.raises(pddlvm.InputError, match="trajectories cannot be written"):
            pddlvm.export_maps(model.to(DEVICE), tmp_path, "torch")
        return
    assert pddlvm.export_maps(model.to(DEVICE), tmp_path, "torch").difference < 1e-3
    assert model.sigma_residual.device == DEVICE


@pytest.mark.slow
def test_the_program_trains_on_the_device_and_reports(monkeypatch, tmp_path):
    arguments = ["train", "poisson-1d", "--set", "n=6", "--max-steps", "4", "--device", str(DEVICE)]
    monkeypatch.setattr(sys, "argv", ["pddlvm", *arguments, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (tmp_path / "run" / "report.html").exists()


def test_results_of_single_precision_are_of_single_precision(model, solved, sensors):
    z, u = (x.float() for x in solved)
    forward, inverse = model.cpu().forward(z), model.inverse(u)
    posterior = model.infer(sensors.simulate(u[0], seed=0), sensors)
    found = [forward.mean, forward.std, forward.sample(), forward.log_prob(u.double())]
    found += [inverse.mean, inverse.std, inverse.sample(), *of_posterior(posterior, z).values()]
    assert {x.dtype for x in found} == {torch.float32}
