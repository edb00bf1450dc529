"""Models of trajectories of several fields: saddle points, and species that react."""

import flows
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.trajectory.reduction import reduce_trajectories
from pddlvm.trajectory.surrogate import TrajectorySurrogate

END = 0.4


def lid(x, speed, t):
    return speed * torch.tanh(8 * t) * torch.stack([4 * x[0] * (1 - x[0]), 0 * x[0]])


def viscous(u, du, p, dp, x, nu):
    return flows.stokes(u, du, p, dp, x, 0.2 * nu)


def with_inertia(u, du, p, dp, x, nu):
    return flows.navier_stokes(u, du, p, x, 0.2 * nu)


def cavity(function=viscous, method=pddlvm.BDF2()):  # noqa: B008 (frozen)
    """Unsteady Stokes: a lid sets off, and pressures are known up to a constant."""
    space = flows.taylor_hood(fem.unit_square(4))
    problem = pddlvm.Problem(
        "cavity",
        space,
        terms=[pddlvm.Flux(space.interior(), function)],
        fields={
            "nu": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "speed": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "t": pddlvm.Time(END),
        },
        dirichlet=[pddlvm.Dirichlet(None), pddlvm.Dirichlet("top", lid)],
        constraints=[pddlvm.MeanValue("p")],
    )
    return pddlvm.TransientProblem(
        problem, stepping=pddlvm.Stepping(END, 20, method), density={"u": 1.0}
    )


def exchange(a, da, b, db, x, k, rate):
    """Units of b are a thousand times smaller."""
    flow = rate * (a - 1e-3 * b)
    return {"a": (flow, k * da), "b": (-1e3 * flow, 0.3 * k * db)}


def consumption(a, da, b, db, x, k, rate):
    flow = rate * a * (1e-3 * b)
    return {"a": (flow, k * da), "b": (1e3 * flow, 0.3 * k * db)}


def warm(x, start):
    return start * (1 - x[0] ** 2)


def species(function=exchange):
    """Two species that diffuse, and turn into each other or vanish together."""
    mesh = fem.unit_square(6)
    space = fem.MixedSpace({"a": fem.Space(mesh), "b": fem.Space(mesh)})
    problem = pddlvm.Problem(
        "species",
        space,
        terms=[pddlvm.Flux(space.interior(), function)],
        fields={
            "k": pddlvm.KarhunenLoeve.on(space.field("a")[1], 2, length=0.5, std=0.3),
            "rate": pddlvm.Constant(pddlvm.Uniform(1.0, 3.0)),
            "start": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)),
            "t": pddlvm.Time(END),
        },
        dirichlet=[pddlvm.Dirichlet("right", field="a"), pddlvm.Dirichlet("right", field="b")],
    )
    initial = {"a": warm, "b": lambda x: 500.0 * (1 - x[0] ** 2)}
    return pddlvm.TransientProblem(
        problem,
        stepping=pddlvm.Stepping(END, 20),
        density={"a": 1.0, "b": 1.0},
        initial=initial,
    )


KINDS = {
    "stokes": cavity,
    "crank-nicolson": lambda: cavity(method=pddlvm.CrankNicolson()),
    "navier-stokes": lambda: cavity(with_inertia),
    "exchange": species,
    "consumption": lambda: species(consumption),
}


SLOW = {"crank-nicolson", "exchange", "navier-stokes", "consumption"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS]
)
def test_reduced_trajectories_of_each_field_are_the_solutions(kind):
    problem = KINDS[kind]()
    found = reduce_trajectories(problem, 30, 24)
    z = problem.prior.sample((4,), seed=5)
    u, steps, modes = problem.solve(z), found.steps, found.modes
    free = torch.from_numpy(problem.steady.free_dofs)
    ways = {
        "march": (steps.march(steps.drive(z)), steps.v, 5e-3),
        "modes": (modes.expand(modes.solve(z)), modes.steps.v, 2e-2),
    }
    for c, v, most in ways.values():
        error = torch.zeros_like(u)
        error[..., free] = c @ v.T - u[..., free]
        for own in problem.fields_of_u.values():
            inside = u.clone()
            inside[..., problem.steady.fixed_dofs] = 0
            size = inside[..., own].flatten(1).norm(dim=1)
            assert (error[..., own].flatten(1).norm(dim=1) < most * size).all()


@pytest.fixture(scope="module")
def model():
    made = pddlvm.LatentVariableModel(cavity(), n_shapes=24, n_modes=24)
    pddlvm.train(made, max_steps=120)
    return made


@pytest.mark.parametrize("corrections", [0, 1, 2])
@pytest.mark.slow
def test_error_bars_hold_the_errors_of_each_field(model, corrections):
    problem = model.problem
    z = problem.prior.sample((40,), seed=9)
    u, found = problem.solve(z), model.forward(z, corrections=corrections)
    free = torch.zeros(problem.n_dofs, dtype=torch.bool)
    free[problem.steady.free_dofs] = True
    assert float((model.norm(found.mean - u) / model.norm(u)).mean()) < 2e-2
    for name, own in problem.fields_of_u.items():
        one = found.field(name)
        inside = (one.mean - u[..., own]).abs() <= 2 * one.std
        assert 0.88 < inside[..., free[own]].double().mean() < 0.995


def test_answers_of_a_field_are_those_of_the_whole(model):
    found = model.forward(model.problem.prior.sample((2,), seed=1), times=[0.1, 0.3])
    own = model.problem.fields_of_u["p"]
    lower, upper = found.field("p").interval()
    assert torch.equal(found.field("p").mean, found.mean[..., own])
    assert ((lower <= found.field("p").mean) & (found.field("p").mean <= upper)).all()
    draws = found.sample((400,), seed=0)
    assert torch.equal(found.field("p").sample((400,), seed=0), draws[..., own])
    seen = found.std > 0
    assert (draws.std(0)[seen] / found.std[seen] - 1).abs().max() < 0.3
    with pytest.raises(pddlvm.ProblemError, match="field"):
        found.field("T")


def test_variances_of_rows_have_the_factor_of_each_field(model):
    problem = model.problem
    found = model.forward(problem.prior.sample(seed=1), times=[0.1])
    dofs = [int(problem.steady.free_dofs[0]), int(problem.steady.free_dofs[-1])]
    rows = torch.zeros(2, problem.n_dofs, dtype=torch.float64)
    rows[[0, 1], dofs] = 1.0
    variance = found.covariance(rows).diagonal()
    torch.testing.assert_close(variance, found.std[0, dofs].square())


def test_a_report_has_a_coverage_for_each_field(model):
    report = pddlvm.validate(model, n_samples=20)
    assert set(report.coverage_of) == {"u", "p"}
    assert min(report.coverage_of.values()) > 0.85


def test_a_saved_model_says_the_same(model, tmp_path):
    model.save(tmp_path / "model.pt")
    again = pddlvm.load(tmp_path / "model.pt", cavity())
    z = model.problem.prior.sample((2,), seed=8)
    for corrections in (0, 1, 2):
        before, after = (one.forward(z, corrections=corrections) for one in (model, again))
        assert torch.equal(before.mean, after.mean)
        assert torch.equal(before.std, after.std)


def test_parameters_are_inferred_from_one_field(model):
    problem = model.problem
    z = problem.prior.sample(seed=3)
    points = [[0.5, 0.8], [0.3, 0.5]]
    obs = pddlvm.PointObservation(problem, points, 0.01, times=[0.1, 0.2, 0.4])
    posterior = model.infer(obs.simulate(problem.solve(z), seed=0), obs)
    assert (((posterior.mean - z) / posterior.std).abs() < 4).all()


@pytest.mark.parametrize("field", ["u", "p"])
def test_errors_of_sensors_have_the_factor_of_their_field(model, field):
    problem = model.problem
    obs = pddlvm.PointObservation(problem, [[0.4, 0.6]], 0.01, times=[0.2, 0.4], field=field)
    z = problem.prior.sample((2,), seed=1)
    rows = torch.from_numpy(obs.matrix.toarray())
    surrogate = TrajectorySurrogate(model, obs, 1)
    found = surrogate.error(problem.prior.standardise(z)).dense()
    torch.testing.assert_close(found, model.forward(z, corrections=1).covariance(rows))


def test_a_trajectory_of_all_fields_tells_its_parameters(model):
    problem = model.problem
    z = problem.prior.sample((20,), seed=12)
    found = model.inverse(problem.solve(z))
    assert (found.std < 0.1 * model.inverse(problem.solve(z), corrections=0).std.mean(0)).all()
    assert ((found.mean - z).abs() <= 2 * found.std).double().mean() > 0.8
    assert (found.p_value > 1e-3).all()
