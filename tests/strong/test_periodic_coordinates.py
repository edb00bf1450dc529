"""Coordinates in which solutions in strong form repeat."""

import math

import pytest
import torch

import pddlvm
from pddlvm.strong import fourier
from pddlvm.strong.newton import SpaceTimeNewton
from pddlvm.strong.series import FOURIER, tail

RING = pddlvm.Box(x=(0.0, 3.0), t=(0.0, 1.0))
K = 2 * math.pi / 3


def drift(u_t, u_x, u_xx, speed):
    return u_t + speed * u_x - 0.05 * u_xx


def make(**changes):
    arguments = {
        "fields": {"speed": pddlvm.Constant(pddlvm.Uniform(0.5, 2.0))},
        "lift": lambda x: torch.sin(K * x) + torch.cos(2 * K * x),
        "hard": [RING.start("t")],
        "periodic": ["x"],
        "grid": (31, 9),
        "nodes": (9, 12),
    }
    return pddlvm.CollocationProblem("drift", RING, drift, **(arguments | changes))


def exact(speed, x, t):
    """Each wave drifts and decays."""
    y = x - speed * t
    one = torch.exp(-0.05 * K**2 * t) * torch.sin(K * y)
    return one + torch.exp(-0.2 * K**2 * t) * torch.cos(2 * K * y)


def wave(s):
    return torch.exp(torch.sin(math.pi * s))


def test_differentiation_is_exact_for_waves_and_twice_is_the_second():
    s = fourier.nodes(9)
    for k in range(1, 5):
        u = torch.cos(k * math.pi * s + 0.3)
        slope = -k * math.pi * torch.sin(k * math.pi * s + 0.3)
        torch.testing.assert_close(fourier.derivative(9) @ u, slope, rtol=0, atol=1e-11)
        twice = fourier.derivative(9) @ fourier.derivative(9) @ u
        torch.testing.assert_close(twice, -((k * math.pi) ** 2) * u, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [11, 21])
def test_interpolation_is_spectral_and_exact_at_nodes(n):
    s = torch.cat([torch.linspace(-1, 1, 40, dtype=torch.float64), fourier.nodes(n)])
    found = fourier.interpolation(s, n) @ wave(fourier.nodes(n))
    # Coefficients of exp(sin) are those of Bessel functions: I_6(1) = 2e-5, I_11(1) = 1e-11.
    assert (found - wave(s)).abs().max() < {11: 1e-4, 21: 1e-10}[n]
    torch.testing.assert_close(found[40:], wave(fourier.nodes(n)))


def test_hats_are_exact_for_constants_and_never_negative():
    s = torch.linspace(-1, 1, 41, dtype=torch.float64)
    matrix = fourier.hats(s, 7)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones_like(s))
    # Between the last node and the first the line goes on.
    at_nodes = torch.arange(7, dtype=torch.float64)
    middle = torch.tensor([1 - 1 / 7], dtype=torch.float64)
    torch.testing.assert_close(fourier.hats(middle, 7) @ at_nodes, torch.tensor([3.0]).double())
    torch.testing.assert_close(fourier.hats(fourier.nodes(7), 7), torch.eye(7).double())


def test_the_quadrature_and_the_tail_are_those_of_waves():
    s = fourier.nodes(17)
    # The integral of exp(sin) over a period is that of I_0.
    expected = 2 * torch.special.i0(torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(fourier.quadrature_weights(17) @ wave(s), expected)
    values = torch.stack([torch.cos(7 * math.pi * s), 3 * torch.cos(8 * math.pi * s)])
    wanted = torch.tensor([0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(tail(values, (FOURIER,)), wanted, rtol=0, atol=1e-12)


def test_newton_is_exact_in_the_period_and_spectral_in_time():
    z = torch.tensor([[0.6], [1.9]], dtype=torch.float64)
    errors = []
    for n in (9, 13, 17):
        problem = make(nodes=(5, n))
        errors.append(float((problem.solve(z) - exact(z, *problem.grid_points.T)).abs().max()))
    # Five nodes hold both waves.
    assert errors[1] < errors[0] / 100
    assert errors[2] < errors[1] / 100
    assert errors[2] < 1e-8


@pytest.mark.slow
def test_a_model_is_periodic_whatever_was_trained():
    speed = pddlvm.Constant(pddlvm.Uniform(0.5, 1.0))
    problem = make(fields={"speed": speed}, nodes=(19, 14))
    model = pddlvm.LatentVariableModel(problem, n_functions=32, points=pddlvm.Sobol(64))
    pddlvm.train(model, max_steps=400, calibrate=False)
    model.calibrate(64)
    z = problem.prior.sample((20,), seed=0)
    u, forward = problem.solve(z), model.forward(z)
    error = (forward.mean - u).norm(dim=1) / u.norm(dim=1)
    # Measured: 1.3e-3.
    assert error.mean() < 0.01
    corrected = model.forward(z, corrections=1)
    assert ((corrected.mean - u).norm(dim=1) / u.norm(dim=1)).max() < 1e-4
    t = torch.linspace(0, 1, 5)
    ends = [torch.stack([torch.full_like(t, x), t], dim=1) for x in (0.0, 3.0)]
    for corrections in (0, 1):
        start, end = (model.forward(z, corrections, points=at) for at in ends)
        torch.testing.assert_close(start.mean, end.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(start.std, end.std, rtol=1e-5, atol=1e-7)
    inside = forward.std > 0
    held = ((forward.mean - u).abs() <= 2 * forward.std)[inside].double().mean()
    assert 0.88 < held <= 1


def test_finer_nodes_of_a_period_are_odd():
    problem = make(nodes=(9, 12))
    model = pddlvm.LatentVariableModel(problem, n_functions=4)
    fine = SpaceTimeNewton(problem.form, model.error_field(problem.prior.sample((1,))).nodes)
    assert fine.nodes[0] % 2 == 1
    assert make(nodes=None).nodes == (65, 20)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("x is periodic, and has a condition", {"hard": [RING.start("t"), RING.start("x")]}),
        ("x is periodic, and has a stretch", {"stretch": {"x": pddlvm.Graded()}}),
        ("x is periodic, and has 10 nodes, which must be an odd", {"nodes": (10, 12)}),
        ("not periodic in x: the lift", {"lift": lambda x: x}),
        ("not periodic in x: the lift", {"lift": lambda x: torch.sin(K * x / 2) ** 2 * x}),
        (r"no coordinates \['y'\]", {"periodic": ["y"]}),
        ("periodic must be a list", {"periodic": "x"}),
    ],
)
def test_what_is_not_periodic_is_named(message, changes):
    with pytest.raises(pddlvm.ProblemError, match=message):
        make(**changes)
