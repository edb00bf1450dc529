"""Problems in strong form: geometry, derivatives, conditions, and what is refused."""

import math

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm.collocation.trunk import Trunk, _TanhJet
from pddlvm.strong import chebyshev
from pddlvm.strong.domain import Affine, Graded, Sinh
from pddlvm.strong.jets import closure, parse_derivative, partials, product
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.placed import Placed
from pddlvm.strong.series import CHEBYSHEV, tail
from problems import pinn

ALL = ((), (0,), (1,), (0, 0), (0, 1))
BOX = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 2.0))


def wave(x, t):
    return torch.sin(2 * x) * torch.exp(-t) + x * t**2


def exact(x, t):
    """`wave` and its derivatives, by hand."""
    return {
        (): wave(x, t),
        (0,): 2 * torch.cos(2 * x) * torch.exp(-t) + t**2,
        (1,): -torch.sin(2 * x) * torch.exp(-t) + 2 * x * t,
        (0, 0): -4 * torch.sin(2 * x) * torch.exp(-t),
        (0, 1): -2 * torch.cos(2 * x) * torch.exp(-t) + 2 * t,
    }


@pytest.fixture
def at(generator):
    return torch.rand(2, 30, generator=generator, dtype=torch.float64).unbind(0)


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "index"),
    [("u", ()), ("u_x", (0,)), ("u_tx", (0, 1)), ("u_xx", (0, 0)), ("v", None), ("u_y", None)],
)
def test_names_of_derivatives(name, index):
    assert parse_derivative(name, ("x", "t")) == index


def test_a_fifth_derivative_is_refused():
    assert parse_derivative("u_txxt", ("x", "t")) == (0, 0, 1, 1)
    with pytest.raises(pddlvm.ProblemError, match="order 5; orders up to 4 are supported"):
        parse_derivative("u_xxxxt", ("x", "t"))


def test_second_derivatives_need_the_first():
    assert closure([(0, 1)]) == ((), (0,), (1,), (0, 1))


def test_partials_are_those_of_the_function(at):
    found = partials(wave, at, ALL)
    for index, expected in exact(*at).items():
        torch.testing.assert_close(found[index], expected)


def test_the_product_rule(at):
    f, g = exact(*at), partials(lambda x, t: torch.cos(x * t), at, ALL)
    expected = partials(lambda x, t: wave(x, t) * torch.cos(x * t), at, ALL)
    for index, found in product(f, g).items():
        torch.testing.assert_close(found, expected[index])


def stretched(at):
    """A jet along s, the geometry there, and the jet along x that belongs to it."""
    place = Sinh(0.3, lambda: torch.tensor(0.1, dtype=torch.float64)).place
    x, *slopes = place(2 * at[0] - 1, (0.0, 1.0), {})
    t, *t_slopes = Affine().place(2 * at[1] - 1, (0.0, 2.0), {})

    def along_s(a, b):
        return wave(place(a, (0.0, 1.0), {})[0], Affine().place(b, (0.0, 2.0), {})[0])

    jet = partials(along_s, [2 * at[0] - 1, 2 * at[1] - 1], ALL)
    return jet, Placed((x, t), (tuple(slopes), tuple(t_slopes))), exact(x, t)


def test_the_chain_rule(at):
    jet, placed, expected = stretched(at)
    for index, found in placed.chain(jet).items():
        torch.testing.assert_close(found, expected[index])


def test_pulling_back_is_the_transpose_of_the_chain_rule(at):
    jet, placed, along_x = stretched(at)
    slopes = {index: torch.full_like(at[0], 1.0 + k) for k, index in enumerate(ALL)}
    pulled = placed.pull_back(slopes)
    torch.testing.assert_close(
        sum(slopes[i] * along_x[i] for i in ALL), sum(a * jet[i] for i, a in pulled.items())
    )


def test_taylor_mode_is_nested_forward_mode(at):
    torch.manual_seed(0)
    trunk = Trunk(2, 3, width=8, depth=2).double()

    columns = (lambda x, t: torch.sin(x * t), lambda x, t: t**2 + 0 * x)

    def output(x, t):
        *hidden, last = trunk.layers
        h = torch.stack([f(x, t) for f in columns], -1)
        for layer in hidden:
            h = torch.tanh(layer(h))
        return last(h)

    jets = [partials(f, at, ALL) for f in columns]
    found = trunk({index: torch.stack([jet[index] for jet in jets], -1) for index in ALL})
    for j in range(3):
        for index, expected in partials(lambda *x, j=j: output(*x)[..., j], at, ALL).items():
            torch.testing.assert_close(found[index][..., j], expected)


def test_gradcheck_of_the_taylor_mode(generator):
    v = torch.randn(len(ALL), 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: _TanhJet.apply(v, ALL), (v,))


# --- the box and its stretches -----------------------------------------------------------------


@pytest.mark.parametrize("stretch", [Affine(), Graded(), Sinh(0.2, lambda width: width)])
def test_a_stretch_maps_the_interval_onto_itself_and_back(stretch):
    s = torch.linspace(-1, 1, 41, dtype=torch.float64)
    values = {"width": torch.tensor([[0.05], [2.0]], dtype=torch.float64)}
    x, *slopes = stretch.place(s, (-1.0, 3.0), values)
    torch.testing.assert_close(x[..., 0], torch.full_like(x[..., 0], -1.0))
    torch.testing.assert_close(x[..., -1], torch.full_like(x[..., 0], 3.0))
    torch.testing.assert_close(stretch.locate(x, (-1.0, 3.0), values), s.expand_as(x))
    orders = [(0,) * k for k in range(1, 5)]
    jet = partials(lambda s: stretch.place(s, (-1.0, 3.0), values)[0], [s], orders)
    for k, order in enumerate(orders):
        # What is left out at the end vanishes.
        expected = slopes[k] if k < len(slopes) else torch.zeros(())
        torch.testing.assert_close(jet[order], expected.to(x).expand_as(x))


def test_a_point_outside_is_named():
    with pytest.raises(pddlvm.InputError, match=r"t = 2\.5 is outside the domain \[0, 2\]"):
        BOX.check(torch.tensor([[0.5, 2.5]]))


def test_points_of_another_dimension_are_refused():
    with pytest.raises(pddlvm.InputError, match="2 coordinates x, t"):
        BOX.check(torch.zeros(4, 3))
    with pytest.raises(pddlvm.InputError, match=r"shape \(n_points, 2\)"):
        BOX.check(torch.tensor([0.5, 0.1]))


@pytest.mark.parametrize("interval", [(1.0, 0.0), (0.0, math.inf), (0.0, 0.0)])
def test_an_interval_must_be_one(interval):
    with pytest.raises(pddlvm.InputError, match="low < high"):
        pddlvm.Box(x=interval)


def test_a_face_of_no_coordinate_is_refused():
    with pytest.raises(pddlvm.InputError, match="no coordinate 'y'"):
        BOX.start("y")


# --- Chebyshev ---------------------------------------------------------------------------------


def test_differentiation_is_exact_for_polynomials():
    s = chebyshev.nodes(9)
    torch.testing.assert_close(chebyshev.derivative(9) @ s**8, 8 * s**7, rtol=1e-11, atol=1e-11)


def test_interpolation_is_exact_for_polynomials_and_at_nodes():
    s = torch.cat([torch.linspace(-1, 1, 23, dtype=torch.float64), chebyshev.nodes(9)])
    found = chebyshev.barycentric(s, 9) @ chebyshev.nodes(9) ** 8
    torch.testing.assert_close(found, s**8, rtol=1e-12, atol=1e-12)


def test_tail_holds_the_highest_polynomials_of_each_axis_alone():
    s, t = torch.meshgrid(chebyshev.nodes(17), chebyshev.nodes(9), indexing="ij")

    def polynomial(order, s):
        return torch.cos(order * torch.arccos(s))

    # 17 nodes: orders 15 and 16 are the highest; 9 nodes: 7 and 8.
    values = torch.stack([polynomial(14, s), 3 * polynomial(16, s), 2 * polynomial(8, t), 0 * s])
    values[0] += polynomial(6, t)
    wanted = torch.tensor([0.0, 3.0, 2.0, 0.0], dtype=torch.float64)
    found = tail(values, (CHEBYSHEV, CHEBYSHEV))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ratio", [1.25, 1.5])
def test_newton_on_other_nodes_solves_on_the_same_grid(ratio):
    problem = pinn.make_heat()
    z = problem.prior.sample((1,), seed=3)
    nodes = tuple(round(ratio * n) // 2 for n in problem.nodes)
    found = SpaceTimeNewton(problem.form, nodes).solve(z)
    wanted = problem.solve(z)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_hats_are_exact_for_lines_and_never_negative():
    s = torch.cat([torch.linspace(-1, 1, 23, dtype=torch.float64), chebyshev.nodes(9)])
    matrix = chebyshev.hats(s, 9)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix @ (2 + 3 * chebyshev.nodes(9)), 2 + 3 * s)


def test_points_and_tensor_products_agree(generator):
    values = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (3, 2, 4)]
    on_grid = chebyshev.tensor_product(
        values, [chebyshev.barycentric(a, n) for a, n in zip(axes, (5, 4, 3), strict=True)]
    )
    points = [a.flatten() for a in torch.meshgrid(*axes, indexing="ij")]
    scattered = chebyshev.at_points(
        values, [chebyshev.barycentric(p, n) for p, n in zip(points, (5, 4, 3), strict=True)]
    )
    torch.testing.assert_close(on_grid.flatten(1), scattered)


# --- sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [pddlvm.UniformPoints(), pddlvm.LatinHypercube(), pddlvm.Sobol()]
)
def test_points_are_uniform_in_the_reference_box(sampler, generator):
    points = sampler.draw(2000, 2, generator)
    assert points.shape == (2000, 2)
    assert points.abs().max() <= 1
    # Mean 0 and variance 1/3, four standard errors of independent points.
    assert points.mean(0).abs().max() < 4 * math.sqrt(1 / 3 / 2000)
    assert (points.square().mean(0) - 1 / 3).abs().max() < 4 * math.sqrt(4 / 45 / 2000)


def test_a_latin_hypercube_has_one_point_in_each_slice(generator):
    points = pddlvm.LatinHypercube().draw(50, 2, generator)
    slices = ((points + 1) / 2 * 50).floor().long()
    assert all(sorted(column) == list(range(50)) for column in slices.T.tolist())


def test_adaptive_points_go_where_the_residual_is(generator):
    sampler = pddlvm.AdaptivePoints(64)
    candidates = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    residual = (candidates[:, 0] > 0.8).double()
    chosen = sampler.draw_from(candidates, residual, 4000, generator)
    # density 1 + r / mean r: 10 of 101 candidates hold 10 (1 + 10.1) of 202.
    assert float((chosen > 0.8).double().mean()) == pytest.approx(111 / 202, abs=0.03)


def test_a_sampler_without_points_is_refused():
    with pytest.raises(pddlvm.InputError, match="n_points must be an integer, at least 1"):
        pddlvm.Sobol(0)


# --- problems ----------------------------------------------------------------------------------


def diffusion(u_t, u_xx, rate):
    return u_t - rate * u_xx


def make(residual=diffusion, **changes):
    arguments = {
        "fields": {"rate": pddlvm.Constant(pddlvm.Uniform(0.5, 1.0))},
        "lift": lambda x: torch.sin(math.pi * x),
        "hard": [BOX.start("t"), BOX.start("x"), BOX.end("x")],
        "grid": (12, 9),
        "nodes": (14, 10),
    }
    return pddlvm.CollocationProblem("diffusion", BOX, residual, **(arguments | changes))


def decay(z, x, t):
    """sin(pi x) exp(-rate pi^2 t), the solution."""
    return torch.sin(math.pi * x) * torch.exp(-z * math.pi**2 * t)


def test_the_exact_solution_has_no_residual(generator):
    problem = make()
    z = problem.prior.sample((1,), generator=generator)
    points = torch.rand(20, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0])
    r = problem.residual(lambda x, t: decay(z[0], x, t), z, points)
    assert r.shape == (1, 20)
    assert r.abs().max() < 1e-12


def test_newton_finds_the_exact_solution_with_spectral_order():
    z = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    errors = []
    for n in (8, 12, 16):
        problem = make(nodes=(n, n), fields={"rate": pddlvm.Constant(pddlvm.Uniform(0.05, 1.0))})
        x, t = problem.grid_points.unbind(-1)
        small = 0.2 * z
        errors.append(float((problem.solve(small) - decay(small, x, t)).abs().max()))
    # A factor of at least thirty for four more nodes along each axis.
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 30


def test_soft_conditions_do_what_hard_ones_do(generator):
    faces = (BOX.start("t"), BOX.start("x"), BOX.end("x"))
    conditions = [
        pddlvm.Condition(faces[0], lambda u, x: u - torch.sin(math.pi * x)),
        pddlvm.Condition(faces[1], lambda u: u),
        pddlvm.Condition(faces[2], lambda u: u),
    ]
    soft = make(lift=None, hard=(), conditions=conditions)
    z = soft.prior.sample((2,), generator=generator)
    torch.testing.assert_close(soft.solve(z), make().solve(z), rtol=0, atol=1e-8)


def test_a_flux_condition():
    """u_t = u_xx, u_x = 0 at the start of x: cos(pi x / 2) exp(-rate pi^2 t / 4)."""
    problem = make(
        lift=lambda x: torch.cos(math.pi * x / 2),
        hard=[BOX.start("t"), BOX.end("x")],
        conditions=[pddlvm.Condition(BOX.start("x"), lambda u_x: u_x)],
    )
    z = torch.tensor([[0.7]], dtype=torch.float64)
    x, t = problem.grid_points.unbind(-1)
    expected = torch.cos(math.pi * x / 2) * torch.exp(-0.7 * math.pi**2 / 4 * t)
    assert (problem.solve(z)[0] - expected).abs().max() < 1e-6


def test_newton_converges_cubically_on_a_nonlinear_problem():
    def nonlinear(u, u_t, u_x, u_xx, rate):
        return u_t - rate * ((1 + u) * u_xx + u_x**2)

    problem = make(nonlinear, nodes=(16, 12))
    newton = SpaceTimeNewton(problem.form)
    z = torch.tensor([[0.5]], dtype=torch.float64)
    x = problem.ansatz.place(newton.s, z).x
    jet = {i: u.expand(1, -1) for i, u in problem.ansatz.lift_jet(z, x).items()}
    sizes = []
    for _ in range(4):
        e = newton.error(jet, z)
        sizes.append(float(e.abs().max()))
        jet = newton.correct(jet, e, z)
    # Two steps with each matrix: the order is three.
    assert sizes[1] < 10 * sizes[0] ** 3
    assert sizes[2] < max(10 * sizes[1] ** 3, 1e-12)


def test_a_field_that_varies_is_evaluated_along_its_coordinate(generator):
    problem = pinn.make_reaction_diffusion(grid=(11, 7))
    z = problem.prior.sample((3,), generator=generator)
    f = problem.fields["f"]
    x = problem.axes[0]
    points = pddlvm.fem.Points(x[:, None].numpy(), np.zeros(11, dtype=np.int64))
    # Cubic interpolation in a table of 8193 points: the fourth power of a step of 0.0006 lengths.
    torch.testing.assert_close(problem.parameter_field(z), f.at(points)(z), rtol=0, atol=5e-12)
    assert problem.inferred(z).shape == (3, 11)


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        # In these the start and the ends do not fit together at the corners.
        pytest.param(pinn.make_heat, 1e-4, marks=pytest.mark.slow),
        pytest.param(pinn.make_reaction_diffusion, 2e-6, marks=pytest.mark.slow),
        # Smooth, and the reference is exact: the nodes resolve it.
        pytest.param(pinn.make_burgers, 1e-9, marks=pytest.mark.slow),
    ],
)
def test_newton_and_the_reference_agree(build, tolerance):
    problem = build()
    z = problem.prior.sample((2,), seed=0)
    u, v = problem.solve(z), SpaceTimeNewton(problem.form).solve(z, tolerance=1e-7)
    assert ((u - v).norm(dim=1) / u.norm(dim=1)).max() < tolerance


# --- what is refused ---------------------------------------------------------------------------


def test_a_missing_initial_condition_is_named():
    with pytest.raises(pddlvm.ProblemError, match="an initial condition is missing"):
        make(hard=[BOX.start("x"), BOX.end("x")])


def test_a_missing_boundary_condition_is_named():
    with pytest.raises(pddlvm.ProblemError, match="no condition at the end of x"):
        make(hard=[BOX.start("t"), BOX.start("x")])


def test_an_unknown_argument_is_named():
    with pytest.raises(pddlvm.ProblemError, match="an argument 'speed'"):
        make(lambda u_t, speed: u_t)


def test_a_residual_that_is_not_finite_is_located():
    with pytest.raises(pddlvm.ProblemError, match=r"not finite at x = .*, t = .* for z = \["):
        make(lambda u_t, u_xx, x: u_t - u_xx + torch.sqrt(x - 0.5))


def test_a_residual_of_another_shape_is_refused():
    with pytest.raises(pddlvm.ProblemError, match="elementwise"):
        make(lambda u_t, u_xx: torch.cat([u_t, u_xx]))


def test_a_parameter_that_nothing_reads_is_named():
    with pytest.raises(pddlvm.ProblemError, match=r"no function reads: \['rate'\]"):
        make(lambda u_t, u_xx: u_t - u_xx)


def test_a_mistake_in_a_function_is_named():
    with pytest.raises(pddlvm.ProblemError, match="cannot be evaluated"):
        make(lambda u_t, u_xx: u_t + "1")


def test_a_field_that_varies_must_say_along_what():
    space = pddlvm.fem.Space(pddlvm.fem.interval(20))
    with pytest.raises(pddlvm.ProblemError, match="along="):
        make(
            lambda u_t, u_xx, f: u_t - u_xx - f,
            fields={"f": pddlvm.KarhunenLoeve.on(space, 2, length=0.3)},
        )


def test_an_odd_coordinate_needs_an_odd_problem():
    with pytest.raises(pddlvm.ProblemError, match="not odd in x"):
        make(odd=["x"])


@pytest.mark.parametrize("changes", [{"grid": (3,)}, {"grid": (1, 5)}, {"nodes": (3, 9)}])
def test_sizes_must_fit_the_box(changes):
    with pytest.raises(pddlvm.ProblemError, match="along each of x, t"):
        make(**changes)


def test_a_condition_needs_a_tolerance():
    with pytest.raises(pddlvm.InputError, match="tolerance of a condition must be positive"):
        pddlvm.Condition(BOX.start("t"), lambda u: u, 0.0)


def test_newton_says_where_it_failed():
    def hopeless(u, u_t, u_xx, rate):
        return u_t - rate * u_xx - torch.exp(8 * u)

    with pytest.raises(pddlvm.ConvergenceError, match="sample 0"):
        make(hopeless).solve(torch.tensor([[0.5]], dtype=torch.float64))
