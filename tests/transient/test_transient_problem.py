"""Problems in time: states at the start, times, masses, what is the same problem, and mistakes."""

import copy
import math
import pickle
import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from checks import refuses

import pddlvm
from pddlvm import fem
from pddlvm.parameters.identity import is_like
from problems.stokes import stokes, taylor_hood

END = 1.0
STEPS = pddlvm.Stepping(END, 8)
WAVES = pddlvm.Stepping(END, 8, pddlvm.Newmark())
SPACE = fem.Space(fem.unit_square(3))


def conduction(u, du, x, k):
    return 0.5 * k * (du @ du)


def load(u, du, x, f):
    return -f * u


def ramp(x, t):
    return t * x[1]


def hill(x, f):
    return f * x[0] * (1 - x[0])


def small(x):
    return x[0]


def dense(x):
    return 2.0 + x[0]


def steady(dirichlet=("left",), value=0.0, t=None, **options):
    time = pddlvm.Time(END) if t is None else t
    return pddlvm.Problem(
        "plate",
        options.pop("space", SPACE),
        terms=[
            pddlvm.Energy(SPACE.interior(), conduction),
            pddlvm.Energy(SPACE.interior(), load),
        ],
        fields={
            "k": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
            "f": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
            "t": time,
        },
        dirichlet=[pddlvm.Dirichlet(side, value) for side in dirichlet],
        **options,
    )


STEADY = steady()


def transient(problem=STEADY, stepping=STEPS, **options):
    return pddlvm.TransientProblem(problem, stepping=stepping, **options)


@pytest.fixture(scope="module")
def problem():
    return transient(initial=hill)


@pytest.fixture(scope="module")
def z(problem):
    return problem.prior.sample((2,), seed=0)


# --- the interface -------------------------------------------------------------------------------


def test_time_is_no_parameter(problem, z):
    assert problem.parameter_names == ("k", "f") and problem.n_parameters == 2
    assert problem.steady.parameter_names == ("k", "f", "t")
    assert problem.n_times == 8 and problem.n_dofs == 16 and problem.solution_shape == (8, 16)
    assert problem.solve(z.reshape(2, 1, 2)).shape == (2, 1, 8, 16)
    assert problem.solve(z[:0]).shape == (0, 8, 16)
    assert problem.mass.shape == (16, 16)
    np.testing.assert_allclose(problem.mass.sum(), 1.0)
    assert "8 steps to t = 1" in repr(problem) and repr(pddlvm.Time(2.0, 1)) == "Time(2, start=1)"


def test_rows_of_the_steady_problem(problem, z):
    rows = problem.at(z, [0.25, 1.0])
    assert rows.shape == (2, 2, 3)
    assert torch.equal(rows[:, :, :2], z[:, None].expand(2, 2, 2))
    assert rows[0, :, 2].tolist() == [0.25, 1.0]
    without = pddlvm.TransientProblem(timeless(), stepping=STEPS)
    assert without.at(z, [0.25, 1.0]).shape == (2, 2, 2)


def timeless():
    fields = {k: f for k, f in STEADY.fields.items() if k != "t"}
    return pddlvm.Problem("plate", SPACE, STEADY.terms, fields, STEADY.dirichlet)


def test_a_problem_that_reads_no_time_needs_none(z):
    without = pddlvm.TransientProblem(timeless(), stepping=STEPS)
    torch.testing.assert_close(without.solve(z), transient().solve(z), rtol=1e-12, atol=0)
    u = without.solve(z)
    assert without.residual(u, z).abs().max() < 1e-14


def test_one_step_of_euler_is_what_it_says(problem, z):
    one = transient(initial=hill, stepping=pddlvm.Stepping(END, 1, pddlvm.BackwardEuler()))
    u, free = one.solve(z[0])[0].numpy(), one.steady.free_dofs
    k = one.steady.solver.matrix(torch.zeros(16).double(), one.at(z[0], [1.0])[0])
    m = SPACE.gram_matrices()[0][free]
    f = float(z[0, 1]) * (SPACE.gram_matrices()[0] @ np.ones(16))
    start = one.history(z[0])[0].numpy()
    np.testing.assert_allclose(m @ (u - start) + k @ u[free] - f[free], 0, atol=1e-13)


def test_solutions_of_parts_that_are_solved_side_by_side_are_equal(problem, z):
    assert torch.equal(torch.stack([problem.solve(one) for one in z]), problem.solve(z))


# --- states at the start -------------------------------------------------------------------------


def test_states_at_the_start_are_numbers_functions_or_vectors(z):
    x = torch.from_numpy(SPACE.dof_points)
    u = transient(initial=hill).history(z)
    torch.testing.assert_close(u, (z[:, 1:] * x[:, 0] * (1 - x[:, 0]))[:, None])
    given = torch.arange(16).double() * x[:, 0]
    whole = transient(initial=given)
    given.zero_()
    assert whole.history(z)[1, 0].count_nonzero() == 12
    assert transient().history(z).count_nonzero() == 0


def test_a_solution_is_where_another_starts(z):
    """BDF2 begins with one Euler step: so here by Euler, all of it."""
    euler = pddlvm.BackwardEuler()
    whole = transient(timeless(), pddlvm.Stepping(1.0, 8, euler))
    first = transient(timeless(), pddlvm.Stepping(0.5, 4, euler)).solve(z[0])[-1]
    second = transient(timeless(), pddlvm.Stepping(0.5, 4, euler), initial=first)
    torch.testing.assert_close(second.solve(z[0])[-1], whole.solve(z[0])[-1], rtol=1e-12, atol=0)


def test_dirichlet_values_hold_from_the_start_with_their_velocity(z):
    wave = transient(steady(value=ramp), WAVES, velocity=0.0)
    left, y = wave.space.dofs_on("left"), wave.space.dof_points[:, 1]
    before, start = wave.history(z)[0]
    assert (start[left] == 0).all()
    np.testing.assert_allclose(before[left], -y[left] / 8)
    u = wave.solve(z)[0]
    np.testing.assert_allclose(u[:, left], wave.times[:, None] * y[left])
    assert wave.residual(u, z[0]).abs().max() < 1e-12


def test_an_initial_value_that_violates_a_dirichlet_value_is_said_with_its_size():
    message = re.escape("by up to 0.75, at [0.0, ")
    with pytest.warns(UserWarning, match=message):
        found = transient(steady(value=1.0), initial=0.25)
    z = found.prior.sample(seed=0)
    assert (found.history(z)[0, found.steady.fixed_dofs] == 1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transient(steady(value=1.0), initial=1.0)


def ones_inside(x):
    return torch.where((x[0] > 1e-9) & (x[0] < 1 - 1e-9), 1.0, 0.0)


def test_crank_nicolson_damps_a_jump_at_the_start():
    cold = transient(
        steady(dirichlet=("left", "right")),
        pddlvm.Stepping(END, 10, pddlvm.CrankNicolson()),
        initial=ones_inside,
    )
    z = torch.tensor([2.0, 1.0], dtype=torch.float64)
    u = cold.solve(z)
    # At rest from the sixth step on; undamped it swings about it.
    assert (u[5:] - u[-1]).abs().max() < 0.02 * u[-1].max()


# --- masses --------------------------------------------------------------------------------------


def test_a_density_may_vary_in_space():
    mass = transient(density=dense).mass
    x = SPACE.dof_points[:, 0]
    np.testing.assert_allclose(mass.sum(), 2.5)
    np.testing.assert_allclose(x @ mass @ np.ones(16), 2 / 2 + 1 / 3)
    np.testing.assert_allclose(transient(density=3.0).mass.sum(), 3.0)


def test_matrices_of_another_code_are_stepped(z):
    """The same as the problem whose matrices they are."""
    own = timeless()
    rest, at = torch.zeros(1, 16).double(), torch.ones(1, 2).double()
    tangents = own.discretisation(torch.float64, torch.device("cpu")).tangents(rest, at)
    k, gram = own.solver.assemble_unconstrained([t[0] for t in tangents]), SPACE.gram_matrices()[0]
    made = pddlvm.MatrixProblem(
        "matrices",
        [k],
        [gram @ np.ones(16)],
        {"k": pddlvm.Uniform(1.0, 2.0), "f": pddlvm.Uniform(1.0, 2.0)},
        lambda z: z[..., :1],
        lambda z: z[..., 1:],
        dirichlet=[pddlvm.Dirichlet(fem.Nodes(SPACE.dofs_on("left")))],
    )
    problem = transient(made, density=gram)
    torch.testing.assert_close(problem.solve(z), transient(own).solve(z), rtol=1e-10, atol=1e-14)


def test_insulated_bodies_are_held_by_where_they_start(z):
    body = transient(steady(dirichlet=()), initial=1.0)
    heat = body.solve(z) @ torch.from_numpy(body.mass @ np.ones(16))
    # What it holds grows by f t.
    expected = 1 + z[:, 1:] * torch.from_numpy(body.times)
    assert (heat - expected).abs().max() < 1e-12


# --- several fields ------------------------------------------------------------------------------


def vortex(x):
    a, b = math.pi * x[0], math.pi * x[1]
    return torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()])


def slowing(x, t):
    """An eigenfunction of the operator of Stokes with nu = 1."""
    return vortex(x) * (-2 * math.pi**2 * 0.1 * t).exp()


def viscous(du, p, nu):
    return stokes(du, p, 0.1 * nu)


@pytest.mark.parametrize("method", [pddlvm.BDF2(), pddlvm.CrankNicolson()])
def test_stokes_flow_in_time_has_a_pressure_without_mass(method):
    space = taylor_hood(fem.unit_square(6))
    flow = pddlvm.Problem(
        "vortex",
        space,
        terms=[pddlvm.Flux(space.interior(), viscous)],
        fields={"nu": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)), "t": pddlvm.Time(END)},
        dirichlet=[pddlvm.Dirichlet(None, slowing)],
        constraints=[pddlvm.MeanValue("p")],
    )
    stepping = pddlvm.Stepping(END, 40, method)
    problem = transient(flow, stepping, initial={"u": vortex}, density={"u": 1.0})
    assert problem.mass[problem.fields_of_u["p"]].nnz == 0
    z = torch.ones(1, dtype=torch.float64)
    u = problem.solve(z)
    assert problem.residual(u, z).abs().max() < 1e-10
    own = problem.fields_of_u["u"]
    start = problem.history(z)[0, own]
    decay = torch.exp(-0.2 * math.pi**2 * torch.from_numpy(problem.times))
    # Of the mesh 1e-3, and of the steps.
    assert (u[:, own] - decay[:, None] * start).abs().max() < 4e-3
    assert u[:, problem.fields_of_u["p"]].abs().max() < 0.05


def through(x, t):
    """In on the left and out on the right: the mesh has one and the other up to an error."""
    return t * torch.stack([5 * x[1] ** 4 * (1 - x[0]) + x[0], 0 * t])


def inertia(u, du, p, dp, nu):
    rows = viscous(du, p, nu)
    return {"u": (du @ u, rows["u"][1]), "p": rows["p"]}


def test_flows_with_inertia_in_time():
    space = taylor_hood(fem.unit_square(3))
    flow = pddlvm.Problem(
        "eddies",
        space,
        terms=[pddlvm.Flux(space.interior(), inertia)],
        fields={"nu": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)), "t": pddlvm.Time(END)},
        dirichlet=[pddlvm.Dirichlet(None, through)],
        constraints=[pddlvm.MeanValue("p")],
    )
    problem = transient(flow, pddlvm.Stepping(END, 4), density={"u": 1.0})
    z = problem.prior.sample((2,), seed=0)
    u = problem.solve(z)
    assert problem.residual(u, z).abs().max() < 1e-9
    assert u[:, :, problem.fields_of_u["p"]].abs().max() > 0.1


# --- which problem is which ----------------------------------------------------------------------


@pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_copies_are_the_same_problem(problem, z, way):
    other = way(problem)
    assert is_like(problem, other) and torch.equal(other.solve(z), problem.solve(z))


@pytest.mark.parametrize(
    "change",
    [
        {"initial": small},
        {"initial": 0.0},
        {"density": 2.0},
        {"density": dense},
        {"stepping": pddlvm.Stepping(END, 9)},
        {"stepping": pddlvm.Stepping(END, 8, pddlvm.BackwardEuler())},
        {"stepping": pddlvm.Stepping.graded(END, 8, n_levels=2)},
        {"problem": steady(value=ramp)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_steps_starts_and_masses_are_another_problem(problem, change):
    given = {"problem": STEADY, "stepping": STEPS, "initial": hill, **change}
    assert not is_like(problem, transient(**given))


def test_another_start_is_another_problem():
    one, other = (
        transient(timeless(), pddlvm.Stepping(start + 1.0, 8, start=start)) for start in (0.0, 0.5)
    )
    assert not is_like(one, other)


def test_another_velocity_is_another_problem():
    one, other = (transient(stepping=WAVES, velocity=v) for v in (0.0, small))
    assert not is_like(one, other)
    assert is_like(other, transient(stepping=WAVES, velocity=small))


def test_fields_of_a_saved_problem_are_taken(problem, z):
    field = pddlvm.KarhunenLoeve.on(SPACE, 2, length=0.5)
    fields = {**STEADY.fields, "k": field, "t": STEADY.fields["t"]}
    made = pddlvm.Problem("plate", SPACE, STEADY.terms, fields, STEADY.dirichlet)
    own = transient(made)
    state = {k: -v if k == "modes" else v for k, v in field.state.items()}
    z = own.prior.sample(seed=0)
    flipped = z * torch.tensor([-1.0, -1.0, 1.0])
    turned = own.with_states({"k": state})
    torch.testing.assert_close(turned.solve(flipped), own.solve(z))
    assert own.parameter_field(z).shape == (18,) and list(own.shape_sizes) == ["k", "f"]


# --- mistakes ------------------------------------------------------------------------------------


def unread(u, du, x, k):
    return 0.5 * k * (du @ du)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("needs a velocity at the start too: velocity=0.0", {"stepping": WAVES}),
        ("leave the velocity out, or take method=pddlvm.Newmark", {"velocity": 0.0}),
        ("between 0 and 1, and the steps go from 0 to 2", {"stepping": pddlvm.Stepping(2.0, 8)}),
        ("steps go from 0.5 to 1", {"stepping": pddlvm.Stepping(1.0, 8, start=0.5)}),
        ("the density .* must be positive", {"density": -1.0}),
        ("the density .* must be positive", {"density": lambda x: x[0] - 0.5}),
        ("reads x, k, and may read the point x alone", {"density": lambda x, k: k}),
        ("the density .* must be a number", {"density": "heavy"}),
        ("the density .* cannot be evaluated", {"density": lambda x: x[5]}),
        ("mass matrix .* must be finite and .16, 16", {"density": sp.eye(15)}),
        ("is given for ..p.., and the fields are ..u", {"density": {"p": 1.0}}),
        ("the initial value .* must be a number", {"initial": "cold"}),
        ("the initial value .* cannot be evaluated", {"initial": lambda x: x[5]}),
        ("the initial value reads fields ..w", {"initial": lambda x, w: w}),
        ("not finite at the centre", {"initial": lambda x: x[0] / 0.0}),
        ("one state alone", {"initial": torch.zeros(2, 16)}),
        ("no field 'p'", {"initial": {"p": 1.0}}),
    ],
)
def test_mistakes_are_named(message, options):
    refuses(message, transient, **options)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("problem must be a Problem", lambda p: transient("plate")),
        ("stepping must be a Stepping", lambda p: transient(stepping=8)),
        ("initial value must have 16 values", lambda p: transient(initial=[1.0, 2.0])),
        ("1 of 2 times are outside .* from 0 to 1.*first is 1.5", lambda p: p.at(Z, [0.5, 1.5])),
        ("times must be finite", lambda p: p.at(Z, [float("nan")])),
        ("u must have 8 times and 16", lambda p: p.residual(torch.zeros(16).double(), Z)),
        ("u must have 8 times and 16", lambda p: p.residual(torch.zeros(7, 16).double(), Z)),
        ("n_samples", lambda p: p.time_error(n_samples=0)),
        ("end of Time", lambda p: pddlvm.Time(1.0, start=2.0)),
        ("no parameter field 't'", lambda p: p.parameter_field(Z, "t")),
    ],
)
def test_odd_arguments_are_named(problem, message, make):
    refuses(message, make, problem, error=pddlvm.InputError)


Z = torch.tensor([1.5, 1.5], dtype=torch.float64)


def test_a_field_that_nobody_reads_is_named():
    terms = [pddlvm.Energy(SPACE.interior(), unread)]
    made = pddlvm.Problem("plate", SPACE, terms, STEADY.fields, STEADY.dirichlet)
    transient(made, initial=hill)
    refuses("fields that no function reads: ..f", transient, made)


def test_what_only_the_start_reads_needs_a_time():
    terms = [pddlvm.Energy(SPACE.interior(), unread)]
    fields = {k: f for k, f in STEADY.fields.items() if k != "t"}
    message = "what an initial value alone reads needs a pddlvm.Time among the fields"
    refuses(message, pddlvm.Problem, "plate", SPACE, terms, fields, STEADY.dirichlet)


@pytest.mark.parametrize("part", ["initial", "density"])
def test_a_part_that_cannot_be_pickled_is_named(part):
    made = transient(**{part: lambda x: 1.0 + 0 * x[0] if part == "density" else x[0]})
    name = "its density" if part == "density" else "its initial value"
    with pytest.raises(pddlvm.InputError, match=f"cannot be pickled: {name}"):
        pickle.dumps(made)


@pytest.mark.parametrize(
    ("message", "order"),
    [
        ("it must be the last of them", ("t", "k", "f")),
        ("one Time is enough", ("k", "f", "t", "s")),
        ("at least one uncertain parameter", ("t",)),
    ],
)
def test_time_is_the_last_of_several_fields(message, order):
    kinds = {**STEADY.fields, "s": pddlvm.Time(END)}
    terms = [pddlvm.Energy(SPACE.interior(), lambda u, du, x: 0.5 * (du @ du))]
    fields = {name: kinds[name] for name in order}
    made = pddlvm.Problem("plate", SPACE, terms, fields, STEADY.dirichlet)
    refuses(message, transient, made)


def test_a_mean_value_of_what_has_a_rate_is_one_too_many():
    made = steady(dirichlet=(), constraints=[pddlvm.MeanValue()])
    refuses("MeanValue.* is one too many.*Leave it out", transient, made)


def test_several_fields_need_to_be_said_by_name():
    space = taylor_hood(fem.unit_square(2))
    flow = pddlvm.Problem(
        "flow",
        space,
        terms=[pddlvm.Flux(space.interior(), stokes)],
        fields={"nu": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        dirichlet=[pddlvm.Dirichlet("left")],
    )
    refuses('which of them have a derivative in time, density={"u": 1.0}', transient, flow)
    options = {"density": {"u": 1.0}}
    refuses("which field it is of", transient, flow, initial=1.0, **options)
    assert transient(flow, **options).n_times == 8


def test_a_solution_that_is_not_found_names_its_step():
    def unstable(u, du, x, k):
        return torch.exp(u) * -100 * k, du

    flux = [pddlvm.Flux(SPACE.interior(), unstable)]
    fields = {"k": STEADY.fields["k"], "t": STEADY.fields["t"]}
    made = pddlvm.Problem("explosion", SPACE, flux, fields, STEADY.dirichlet)
    found = pddlvm.TransientProblem(made, stepping=STEPS)
    message = r"did not find the step of sample 1 at t = 0.\d+: take shorter steps"
    z = torch.tensor([1.0, 1.0], dtype=torch.float64)[:, None]
    with pytest.raises(pddlvm.ConvergenceError, match=message.replace("sample 1", "sample 0")):
        found.solve(z)


def backward_heat(sign):
    space = fem.Space(fem.unit_square(6))
    steady = pddlvm.Problem(
        "heat",
        space,
        [pddlvm.Energy(space.interior(), lambda u, du, x, k: sign * 0.5 * k * (du @ du))],
        {"k": pddlvm.Constant(pddlvm.LogNormal(0.0, 0.1)), "t": pddlvm.Time(1.0)},
        [pddlvm.Dirichlet("left")],
    )
    return pddlvm.TransientProblem(steady, stepping=pddlvm.Stepping(1.0, 10), initial=0.0)


def test_heat_that_runs_backwards_is_refused_before_it_is_solved():
    backward_heat(1).solve(torch.ones(1, 1).double())
    problem = backward_heat(-1)
    with pytest.raises(pddlvm.ProblemError, match=r"not stable in time.*wrong sign"):
        problem.solve(torch.ones(1, 1).double())
    with pytest.raises(pddlvm.ProblemError, match="not stable in time"):
        pddlvm.LatentVariableModel(problem)


def test_what_is_for_steady_problems_says_what_to_do(tmp_path):
    problem = backward_heat(1)
    u = problem.solve(torch.ones(1, 1).double())[0]
    with pytest.raises(pddlvm.InputError, match=r"write_solution\(problem\.steady.*to_pvd"):
        pddlvm.write_solution(problem, tmp_path / "u.vtu", u)
    with pytest.raises(pddlvm.InputError, match="makes its own reduction"):
        pddlvm.reduce(problem)


def test_the_warning_of_an_initial_value_points_at_who_made_the_problem():
    problem = backward_heat(1)
    with pytest.warns(UserWarning, match="differs from its Dirichlet") as caught:
        pddlvm.TransientProblem(problem.steady, stepping=problem.stepping, initial=1.0)
    assert caught[0].filename == __file__
