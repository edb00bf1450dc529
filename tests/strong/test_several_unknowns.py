"""Problems in strong form with several unknowns: layout, equations, conditions, what is refused."""

import math

import pytest
import torch

import pddlvm
from pddlvm.strong.nearby import nearby_error
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.unknowns import Unknowns

BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
START, LEFT, RIGHT = BOX.start("t"), BOX.start("x"), BOX.end("x")
PI = math.pi


def turning(u, u_t, u_xx, v, v_t, v_xx, rate):
    """w = u + i v: w_t = rate w_xx + i w."""
    return u_t - rate * u_xx + v, v_t - rate * v_xx - u


def turned(rate, x, t):
    decayed = torch.sin(PI * x) * torch.exp(-rate * PI**2 * t)
    return torch.cos(t) * decayed, torch.sin(t) * decayed


def make(residual=turning, **changes):
    arguments = {
        "unknowns": ("u", "v"),
        "fields": {"rate": pddlvm.Constant(pddlvm.Uniform(0.05, 0.2))},
        "lift": lambda x: (torch.sin(PI * x), 0.0),
        "hard": [START, LEFT, RIGHT],
        "grid": (12, 9),
        "nodes": (14, 10),
    }
    return pddlvm.CollocationProblem("turning", BOX, residual, **(arguments | changes))


# --- layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("u",), ("u", "v"), ("a", "b", "c")])
def test_vectors_become_stacks_and_back(names, generator):
    unknowns = Unknowns(names)
    vectors = torch.randn(3, 5 * len(names), generator=generator)
    stack = unknowns.stack(vectors)
    assert torch.equal(unknowns.join(stack), vectors)
    for name, part in zip(names, unknowns.parts(stack), strict=True):
        assert torch.equal(part, vectors[:, unknowns.slices(5)[name]])
    assert torch.equal(unknowns.of_parts(unknowns.parts(stack)), stack)


def test_a_number_of_each_unknown_is_beside_its_values():
    unknowns, sizes = Unknowns(("u", "v")), torch.tensor([2.0, 3.0])
    vectors = torch.ones(4, 6)
    by_vector = unknowns.beside_vectors(sizes, 3) * vectors
    assert torch.equal(by_vector[0], torch.tensor([2.0, 2.0, 2.0, 3.0, 3.0, 3.0]))
    by_stack = unknowns.beside_stacks(sizes) * unknowns.stack(vectors)
    assert torch.equal(unknowns.join(by_stack), by_vector)


def test_derivatives_of_each_unknown_do_not_mix(generator):
    x = torch.rand(6, generator=generator, dtype=torch.float64)
    unknowns = Unknowns(("u", "v"))
    found = unknowns.partials(lambda x: unknowns.of_parts([x**2, x**3]), [x], [(0,)])
    torch.testing.assert_close(found[(0,)][:, 0], torch.stack([2 * x, 3 * x**2]))


# --- solutions ---------------------------------------------------------------------------------


def test_solutions_have_the_values_of_one_unknown_after_the_other():
    problem = make()
    assert problem.n_dofs == 2 * len(problem.grid_points) == 216
    assert problem.fields_of_u == {"u": slice(0, 108), "v": slice(108, 216)}
    assert len(problem.fixed_dofs) + len(problem.free_dofs) == problem.n_dofs
    u = problem.solve(problem.prior.sample((2,), seed=0))
    lift = torch.cat([torch.sin(PI * problem.grid_points[:, 0]), torch.zeros(108)])
    fixed = torch.from_numpy(problem.fixed_dofs)
    torch.testing.assert_close(u[:, fixed], lift[fixed].double().expand(2, -1))


def test_newton_finds_the_exact_solution_with_spectral_order():
    z = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    errors = []
    for n in (8, 12, 16):
        problem = make(nodes=(n, n))
        exact = torch.cat(turned(z, *problem.grid_points.unbind(-1)), dim=1)
        errors.append(float((problem.solve(z) - exact).abs().max()))
    # A factor of at least a hundred for four more nodes along each axis.
    assert errors[1] < errors[0] / 100
    assert errors[2] < errors[1] / 100


def test_the_exact_solution_has_no_residual(generator):
    problem = make()
    z = problem.prior.sample((3,), generator=generator)
    points = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    r = problem.residual(lambda x, t: turned(z[:1], x, t), z[:1], points)
    assert r.shape == (1, 40)
    assert r.abs().max() < 1e-12
    # Of another rate it has one, in both rows.
    r = problem.residual(lambda x, t: turned(z[:1], x, t), z[1:], points)
    assert r.shape == (2, 40)
    assert (r.reshape(2, 2, 20).abs().amax(-1) > 1e-3).all()


def test_soft_conditions_of_one_unknown_do_what_hard_ones_do(generator):
    conditions = [
        pddlvm.Condition(LEFT, lambda v: v, field="v"),
        pddlvm.Condition(RIGHT, lambda v: v, field="v"),
    ]
    soft = make(hard={"u": [START, LEFT, RIGHT], "v": [START]}, conditions=conditions)
    z = soft.prior.sample((2,), generator=generator)
    torch.testing.assert_close(soft.solve(z), make().solve(z), rtol=0, atol=1e-8)


def test_a_point_sees_one_unknown():
    problem = make()
    u = problem.solve(problem.prior.sample((1,), seed=0))
    points = problem.grid_points[[20, 50]]
    for name, own in problem.fields_of_u.items():
        sensors = pddlvm.PointObservation(problem, points, 0.01, field=name)
        torch.testing.assert_close(sensors.apply(u), u[:, own][:, [20, 50]])


def flux(u_t, u_x, v, v_x, rate):
    """Heat and its flux -v: the second equation has no time, and v no conditions."""
    return u_t - v_x, v - rate * u_x


def test_an_unknown_may_have_no_conditions():
    problem = make(flux, hard={"u": [START, LEFT, RIGHT]}, nodes=(16, 12))
    z = torch.tensor([[0.15]], dtype=torch.float64)
    x, t = problem.grid_points.unbind(-1)
    decay = torch.exp(-0.15 * PI**2 * t)
    u, v = problem.solve(z)[0].chunk(2)
    assert (u - torch.sin(PI * x) * decay).abs().max() < 1e-7
    assert (v - 0.15 * PI * torch.cos(PI * x) * decay).abs().max() < 1e-6


# --- two conditions at one face ----------------------------------------------------------------


def wave(u_tt, u_xx, speed):
    return u_tt - speed**2 * u_xx


def plucked(**changes):
    """A string: u = sin(pi x) and u_t = speed sin(pi x) at the start."""
    arguments = {
        "fields": {"speed": pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        "lift": lambda x, t, speed: torch.sin(PI * x) * (1 + speed * t),
        "hard": [BOX.start("t", with_slope=True), LEFT, RIGHT],
        "grid": (11, 9),
        "nodes": (14, 14),
    }
    return pddlvm.CollocationProblem("plucked", BOX, wave, **(arguments | changes))


def oscillation(speed, x, t):
    return torch.sin(PI * x) * (torch.cos(PI * speed * t) + torch.sin(PI * speed * t) / PI)


def test_an_initial_velocity_is_held_with_spectral_order():
    z = torch.tensor([[0.7], [1.3]], dtype=torch.float64)
    errors = []
    for n in (10, 14, 18):
        problem = plucked(nodes=(n, n))
        expected = oscillation(z, *problem.grid_points.unbind(-1))
        errors.append(float((problem.solve(z) - expected).abs().max()))
    # A factor of at least a thousand for four more nodes along each axis.
    assert errors[1] < errors[0] / 1000
    assert errors[2] < errors[1] / 1000


def test_the_ansatz_holds_the_velocity_whatever_the_map_says(generator):
    problem = plucked()
    s = torch.stack([torch.linspace(-1, 1, 5), -torch.ones(5)]).double()
    n = {
        i: torch.randn(1, 5, generator=generator, dtype=torch.float64)[..., None]
        for i in problem.indices
    }
    weighted = problem.ansatz.weighted({i: v[0] for i, v in n.items()}, s.unbind(0))
    z = torch.tensor([[1.3]], dtype=torch.float64)
    jet, _ = problem.ansatz.assemble({i: v.mT for i, v in weighted.items()}, s.unbind(0), z)
    x = 0.5 + 0.5 * s[0]
    torch.testing.assert_close(jet[()][0], torch.sin(PI * x))
    torch.testing.assert_close(jet[(1,)][0], 1.3 * torch.sin(PI * x))


def test_a_clamped_and_a_free_end():
    """A cantilever of constant stiffness under q: u = q x^2 (x^2 - 4 x + 6) / (24 E I)."""
    box = pddlvm.Box(x=(0.0, 1.0))

    def beam(u_xx, m, m_xx, stiffness, load):
        return stiffness * u_xx - m, m_xx - load

    problem = pddlvm.CollocationProblem(
        "beam",
        box,
        beam,
        {"stiffness": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)), "load": 3.0},
        unknowns=("u", "m"),
        hard={"u": [box.start("x", with_slope=True)], "m": [box.end("x", with_slope=True)]},
        grid=(21,),
        nodes=(8,),
    )
    z = problem.prior.sample((2,), seed=0)
    x = problem.grid_points[:, 0]
    u, m = problem.solve(z).chunk(2, dim=1)
    torch.testing.assert_close(m, (1.5 * (1 - x) ** 2).expand(2, -1))
    torch.testing.assert_close(u, 3 * x**2 * (x**2 - 4 * x + 6) / (24 * z))


# --- errors of many ----------------------------------------------------------------------------


def stirred(u, u_t, u_xx, v, v_tt, v_xx, rate):
    return u_t - rate * u_xx + u * v, v_tt - v_xx - u**2


@pytest.fixture(scope="module")
def start():
    """Newton's method, and states near solutions of units that are far apart."""
    problem = make(
        stirred,
        hard={"u": [START, LEFT], "v": [BOX.start("t", with_slope=True), LEFT, RIGHT]},
        conditions=[pddlvm.Condition(RIGHT, lambda u, u_x, v: u + u_x + v)],
        nodes=(10, 8),
    )
    newton = SpaceTimeNewton(problem.form)
    z = problem.prior.sample((9,), seed=0)
    jet = newton.jet(torch.zeros(9, newton.n_values, dtype=torch.float64), z)
    e = newton.error(jet, z)
    e = e + newton.error(newton.correct(jet, e, z), z)
    return newton, newton.correct(jet, 0.99 * e, z), z, problem.prior.standardise(z)


def test_the_tangent_is_the_derivative_of_the_rows(start):
    newton, jet, z, _ = start
    e = torch.zeros(len(z), newton.n_values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    e[:, newton.free] = torch.rand(len(z), int(newton.free.sum()), generator=generator).double()
    h = 1e-4  # rows are quadratic in u: the difference is exact but for rounding
    ends = [newton.rows(newton.correct(jet, s * h * e, z), z) for s in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close(newton.tangent(jet, z)(e), difference, rtol=1e-6, atol=1e-6)


def test_the_factors_are_those_of_the_tangent(start):
    newton, jet, z, _ = start
    one = {i: u[..., :1, :] for i, u in jet.items()}
    rows = newton.rows(one, z[:1])
    e = newton.factorise(one, z[:1])(rows)
    torch.testing.assert_close(newton.tangent(one, z[:1])(e), -rows, rtol=0, atol=1e-9)


def test_steps_are_those_with_the_own_factors_of_each(start):
    newton, jet, z, xi = start
    unit = torch.tensor([1.0, 1e-2]).double().repeat_interleave(newton.n_nodes)
    found = nearby_error(newton, jet, z, xi, n_centres=3, tolerance=1e-4, unit=unit)
    expected = newton.error(jet, z)
    for own in newton.form.unknowns.slices(newton.n_nodes).values():
        gap = (found - expected)[:, own].norm(dim=1) / expected[:, own].norm(dim=1)
        assert gap.max() < 1e-4


# --- what is refused ---------------------------------------------------------------------------


def refuses(message, *arguments, **changes):
    with pytest.raises(pddlvm.ProblemError, match=message):
        make(*arguments, **changes)


@pytest.mark.parametrize("names", [("u", "u"), ("u_x", "v"), ("2", "v"), (), ("u", 1)])
def test_names_that_cannot_be_told_apart(names):
    refuses("unknown", unknowns=names)


@pytest.mark.parametrize("name", ["x", "rate"])
def test_a_name_that_is_taken(name):
    refuses(f"{name}", lambda u, u_t, u_xx: (u_t - u_xx, u), unknowns=("u", name))


def test_equations_are_a_tuple_of_as_many():
    refuses("return a tuple, the equation of each of u, v", lambda u_t, u_xx, v: u_t - u_xx + v)
    refuses("returns 3 values; it must return one for each of u, v", lambda u, v: (u, v, u + v))
    refuses("returns 3 values", lift=lambda x: (x, x, x))


def test_a_condition_is_one_value_of_an_unknown():
    hard = {"u": [START, LEFT, RIGHT], "v": [START, LEFT]}
    both = pddlvm.Condition(RIGHT, lambda u, v: (u, v), field="v")
    refuses("must return one value", hard=hard, conditions=[both])
    other = pddlvm.Condition(RIGHT, lambda v: v, field="w")
    refuses(r"no unknown 'w'; there are \['u', 'v'\]", hard=hard, conditions=[other])
    refuses(r"no unknown 'w'", hard={"w": [START]})


def test_a_missing_condition_names_its_unknown():
    hard = {"u": [START, LEFT, RIGHT], "v": [START, LEFT]}
    refuses("second derivatives of v along x and no condition at the end of x", hard=hard)


def test_an_argument_that_is_no_unknown():
    refuses("'w_x', which is neither u or v or a derivative", lambda u, v, w_x: (u, w_x))


def test_a_slope_is_held_on_hard_faces_only():
    with pytest.raises(pddlvm.InputError, match="with_slope at the start of t is for hard faces"):
        pddlvm.Condition(BOX.start("t", with_slope=True), lambda u_t: u_t)
    with pytest.raises(pddlvm.InputError, match="with_slope must be True or False"):
        BOX.start("t", with_slope="yes")


def test_a_second_order_in_time_needs_both_initial_conditions():
    with pytest.raises(pddlvm.ProblemError, match="with_slope=True"):
        plucked(hard=[START, LEFT, RIGHT])


def test_a_field_of_no_unknown_is_refused():
    with pytest.raises(pddlvm.ProblemError, match="no unknown 'w'"):
        pddlvm.PointObservation(make(), [[0.5, 0.5]], 0.1, field="w")
