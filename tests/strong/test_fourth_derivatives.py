"""Derivatives of third and fourth order by name: rules, solutions, conditions, what is refused."""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement as sorted_indices
from itertools import pairwise

import pytest
import torch

import pddlvm
from pddlvm.collocation.trunk import Trunk, _TanhJet
from pddlvm.strong import chebyshev, fourier
from pddlvm.strong.domain import Affine, Graded, Sinh, Stretch
from pddlvm.strong.jets import closure, partials, product
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.partitions import partitions, splittings
from pddlvm.strong.placed import Placed

PI = math.pi
LINE = pddlvm.Box(x=(0.0, 1.0))
SQUARE = pddlvm.Box(x=(0.0, 1.0), y=(0.0, 1.0))
ALL = tuple(index for n in range(5) for index in sorted_indices((0, 1), n))
"""Every derivative along two coordinates up to the fourth."""


@pytest.fixture
def at(generator):
    return torch.rand(2, 12, generator=generator, dtype=torch.float64).unbind(0)


def wave(x, t):
    return torch.sin(2 * x + 0.5) * torch.exp(-t) + x**3 * t**2


# --- rules -------------------------------------------------------------------------------------


def test_partitions_are_counted():
    # The numbers of Bell, and those of u_xxxx: 1, 4 u_x u_xxx + 3 u_xx^2, 6 u_x^2 u_xx, u_x^4.
    for n, bell in enumerate((1, 1, 2, 5, 15)):
        assert sum(count for count, _ in partitions((0,) * n)) == bell
        assert sum(count for count, _, _ in splittings((0,) * n)) == 2**n
    counts = {blocks: count for count, blocks in partitions((0, 0, 0, 0))}
    assert counts[(0,), (0, 0, 0)] == 4
    assert counts[(0, 0), (0, 0)] == 3
    assert counts[(0,), (0,), (0, 0)] == 6


def test_a_mixed_derivative_needs_its_parts():
    assert closure([(1, 0, 0)]) == ((), (0,), (1,), (0, 0), (0, 1), (0, 0, 1))


def test_the_product_rule(at):
    f, g = partials(wave, at, ALL), partials(lambda x, t: torch.cos(x * t), at, ALL)
    expected = partials(lambda x, t: wave(x, t) * torch.cos(x * t), at, ALL)
    for index, found in product(f, g).items():
        torch.testing.assert_close(found, expected[index])


def stretched(stretch, at):
    """A jet along s, where it is, and the jet along x that belongs to it."""
    s, ends, values = 2 * at[0] - 1, (0.2, 1.0), {}
    place = [lambda a: stretch.place(a, ends, values), lambda b: Affine().place(b, (0.0, 2.0), {})]
    columns = [own(2 * c - 1) for own, c in zip(place, at, strict=True)]
    placed = Placed(tuple(c[0] for c in columns), tuple(c[1:] for c in columns))
    jet = partials(lambda a, b: wave(place[0](a)[0], place[1](b)[0]), [s, 2 * at[1] - 1], ALL)
    return jet, placed, partials(wave, placed.x, ALL)


STRETCHES = [Affine(), Graded(), Sinh(0.4, lambda: torch.tensor(0.3, dtype=torch.float64))]


@pytest.mark.parametrize("stretch", STRETCHES)
def test_the_chain_rule_and_its_transpose(at, stretch):
    jet, placed, expected = stretched(stretch, at)
    for index, found in placed.chain(jet).items():
        torch.testing.assert_close(found, expected[index], rtol=1e-9, atol=1e-9)
    slopes = {index: torch.full_like(at[0], 1.0 + k) for k, index in enumerate(ALL)}
    pulled = sum(a * jet[i] for i, a in placed.pull_back(slopes).items())
    torch.testing.assert_close(pulled, sum(slopes[i] * expected[i] for i in ALL))


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


@pytest.mark.parametrize("name", ["u_xxx", "u_xxxx", "u_xxtt"])
def test_gradcheck_of_the_taylor_mode(name, generator):
    own = closure([tuple(("x", "t").index(c) for c in name[2:])])
    v = torch.randn(len(own), 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: _TanhJet.apply(v, own), (v,))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_differentiation_matrices(order):
    s = chebyshev.nodes(9)
    falling = math.perm(8, order)
    expected = falling * s ** (8 - order)
    # In units of the largest derivative, 8! / (8 - order)!.
    found = chebyshev.derivative(9, order) @ s**8
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * falling)
    s = fourier.nodes(9)
    expected = PI**order * torch.cos(PI * s + order * PI / 2)
    found = fourier.derivative(9, order) @ torch.cos(PI * s)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("periodic", [False, True])
def test_features_have_their_derivatives(periodic):
    problem = plate(periodic=["x"] if periodic else [], nodes=(9, 9))
    s = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    jet = problem.ansatz.features([s, 0.3 * s])
    for j in range(problem.ansatz.n_features):

        def feature(x, y, j=j):
            return problem.ansatz.features([x, y])[()][..., j]

        expected = partials(feature, [s, 0.3 * s], problem.indices)
        for index in problem.indices:
            torch.testing.assert_close(jet[index][..., j], expected[index])


# --- solutions ---------------------------------------------------------------------------------


def beam(u_xxxx, load):
    return u_xxxx - load


def bent(**changes):
    """A beam of stiffness one under a load."""
    arguments = {
        "hard": [LINE.start("x", with_slope=True), LINE.end("x", with_slope=True)],
        "grid": (21,),
        "nodes": (10,),
    }
    fields = {"load": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}
    return pddlvm.CollocationProblem("beam", LINE, beam, fields, **(arguments | changes))


def second(face):
    return pddlvm.Condition(face, lambda u_xx: u_xx)


def third(face):
    return pddlvm.Condition(face, lambda u_xxx: u_xxx)


CLAMPED, START, END = LINE.start("x", with_slope=True), LINE.start("x"), LINE.end("x")


@pytest.mark.parametrize(
    ("hard", "conditions", "deflection"),
    [
        ([CLAMPED, LINE.end("x", with_slope=True)], [], lambda x: x**2 * (1 - x) ** 2 / 24),
        ([START, END], [second(START), second(END)], lambda x: (x - 2 * x**3 + x**4) / 24),
        ([CLAMPED], [second(END), third(END)], lambda x: x**2 * (x**2 - 4 * x + 6) / 24),
        ([CLAMPED, END], [second(END)], lambda x: x**2 * (1 - x) * (3 - 2 * x) / 48),
    ],
)
def test_ends_of_a_beam(hard, conditions, deflection):
    problem = bent(hard=hard, conditions=conditions)
    z = problem.prior.sample((2,), seed=0)
    expected = z * deflection(problem.grid_points[:, 0])
    torch.testing.assert_close(problem.solve(z), expected, rtol=0, atol=1e-12)


def plate_equation(u_xxxx, u_xxyy, u_yyyy, u, u_x, x, y, k, shift):
    """A clamped plate on a foundation that pushes back with the cube of u, in a wind."""
    ux, uy = torch.sin(PI * x + shift) ** 2, torch.sin(PI * y) ** 2
    cx, cy = torch.cos(2 * (PI * x + shift)), torch.cos(2 * PI * y)
    bending = PI**4 * (-8 * cx * uy + 8 * cx * cy - 8 * ux * cy)
    wind = PI * torch.sin(2 * (PI * x + shift)) * uy
    load = bending + k * (ux * uy) ** 3 + wind
    return u_xxxx + 2 * u_xxyy + u_yyyy + k * u**3 + u_x - load


def plate(periodic=(), shift=0.0, **changes):
    """Its solution is sin^2(pi x + shift) sin^2(pi y)."""
    names = ["y"] if periodic else ["x", "y"]
    sides = [face(c, with_slope=True) for c in names for face in (SQUARE.start, SQUARE.end)]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(10.0, 100.0)), "shift": shift}
    arguments = {"hard": sides, "grid": (15, 13), "nodes": (14, 14), "periodic": periodic}
    return pddlvm.CollocationProblem("plate", SQUARE, plate_equation, fields, **arguments | changes)


def plate_solution(x, y, shift=0.0):
    return torch.sin(PI * x + shift) ** 2 * torch.sin(PI * y) ** 2


@pytest.mark.parametrize("periodic", [[], ["x"]])
def test_a_plate_is_found_with_spectral_order(periodic):
    z = torch.tensor([[20.0], [80.0]], dtype=torch.float64)
    shift, errors = (0.4 if periodic else 0.0), []
    for n in (7, 11, 15, 19):
        problem = plate(periodic, shift, nodes=(n, n))
        expected = plate_solution(*problem.grid_points.unbind(-1), shift)
        errors.append(float((problem.solve(z) - expected).abs().max()))
    for before, after in pairwise(errors):
        assert after < before / 100
    # Measured: 5e-13.
    assert errors[-1] < 1e-11


def test_a_plate_whose_nodes_are_stretched():
    problem = plate(nodes=(20, 20), stretch={"x": Graded(2.0), "y": STRETCHES[2]})
    z = torch.tensor([[50.0]], dtype=torch.float64)
    expected = plate_solution(*problem.grid_points.unbind(-1))
    # Measured: 4e-8.
    assert (problem.solve(z)[0] - expected).abs().max() < 1e-6


def test_the_factors_are_those_of_the_tangent():
    problem = plate(nodes=(9, 8), stretch={"x": Graded()})
    newton = SpaceTimeNewton(problem.form)
    z = problem.prior.sample((1,), seed=0)
    n = torch.zeros(1, newton.n_values, dtype=torch.float64)
    n[:, newton.free] = 0.1
    jet = newton.jet(n, z)
    rows = newton.rows(jet, z)
    e = newton.factorise(jet, z)(rows)
    torch.testing.assert_close(newton.tangent(jet, z)(e), -rows, rtol=0, atol=1e-7)


# --- models ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_of_a_beam():
    problem = bent(nodes=(16,), lift=lambda load: 0 * load)
    model = pddlvm.LatentVariableModel(
        problem, points=pddlvm.UniformPoints(32), n_functions=8, seed=0
    )
    pddlvm.train(model, max_steps=150, calibrate=False)
    z = problem.prior.sample((20,), seed=3)
    u, mean = problem.solve(z), model.forward(z).mean
    # Measured: 6e-7.
    assert ((mean - u).norm(dim=1) / u.norm(dim=1)).max() < 1e-4
    # The fourth derivative of what float32 rounds at the nodes is not that of the solution.
    assert model.forward(z, corrections=1).residual_norm.max() < 1e-6


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hard", "conditions", "n"),
    [([START, END], [], 2), ([CLAMPED, END], [], 3), ([START], [second(END)], 2)],
)
def test_too_few_conditions_are_counted(hard, conditions, n):
    message = f"order 4 along x, which need as many conditions .* and there are {n}"
    with pytest.raises(pddlvm.ProblemError, match=message):
        bent(hard=hard, conditions=conditions)


@dataclass(frozen=True)
class Bent(Stretch):
    """x = s + s^3 / 2 of [-1.5, 1.5], and its third derivative as it is given."""

    third: float

    def place(self, s, interval, values):
        slopes = 1 + 1.5 * s**2, 3 * s, torch.full_like(s, self.third)
        return s + 0.5 * s**3, *slopes

    def locate(self, x, interval, values):
        raise NotImplementedError


def test_a_stretch_with_other_derivatives_is_named():
    box = pddlvm.Box(x=(-1.5, 1.5))
    hard = [box.start("x", with_slope=True), box.end("x", with_slope=True)]
    load = {"load": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0))}

    def make(equation, third):
        stretch = {"x": Bent(third)}
        pddlvm.CollocationProblem("beam", box, equation, load, hard=hard, stretch=stretch)

    make(beam, 3.0)
    with pytest.raises(pddlvm.ProblemError, match="stretch of x gives a derivative of order 3"):
        make(beam, 0.0)
    # An equation of second order does not ask for it.
    make(lambda u_xx, load: u_xx - load, 0.0)


def test_a_field_cannot_have_the_name_of_a_derivative():
    with pytest.raises(pddlvm.ProblemError, match="u_xxx"):
        pddlvm.CollocationProblem("beam", LINE, beam, {"u_xxx": 1.0})
