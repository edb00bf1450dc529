"""Ready problems in strong form with several unknowns, or two conditions at a face."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_simpson, solve_ivp

import pddlvm
from pddlvm.strong.newton import SpaceTimeNewton
from problems import beam, fitzhugh_nagumo, wave

# --- wave --------------------------------------------------------------------------------------


def test_the_wave_is_exact(generator):
    problem = wave.make(grid=(7, 6))
    z = problem.prior.sample((1,), seed=0)
    points = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    r = problem.residual(lambda x, t: wave.exact(z, x[0], t[0]), z, points)
    assert r.abs().max() < 1e-12
    u = problem.solve(z)
    start = problem.grid_points[:, 1] == 0
    torch.testing.assert_close(u[:, start], torch.sin(math.pi * problem.axes[0])[None])
    h = 1e-5
    x = problem.axes[0]
    ends = [wave.exact(z, x, torch.full_like(x, t)) for t in (h, -h)]
    expected = z[:, 1:] * torch.sin(2 * math.pi * x)
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * h), expected, rtol=1e-8, atol=1e-8)


def test_the_order_of_the_wave_grows_with_the_nodes():
    problem = wave.make(grid=(31, 21))
    z = problem.prior.sample((3,), seed=0)
    exact, sizes = problem.solve(z), (12, 16, 20, 24)
    errors = [
        float((SpaceTimeNewton(problem.form, (n, n)).solve(z) - exact).abs().max()) for n in sizes
    ]
    pairs = zip(errors, errors[1:], sizes, sizes[1:], strict=False)
    orders = [math.log(a / b) / math.log(m / n) for a, b, n, m in pairs]
    # Measured: 22, 34 and 46, beyond any method of a fixed order.
    assert min(orders) > 15


# --- beam --------------------------------------------------------------------------------------


def test_a_beam_of_constant_stiffness_is_exact():
    problem = beam.make(n_terms=1)
    z = torch.tensor([[0.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    x, q = problem.axes[0], z[:, 1:]
    u, m = problem.solve(z).chunk(2, dim=1)
    # Differentiation twice on 40 nodes leaves some 1e-10.
    torch.testing.assert_close(u, q * x**2 * (x**2 - 4 * x + 6) / 24, rtol=0, atol=1e-9)
    torch.testing.assert_close(m, 0.5 * q * (1 - x) ** 2, rtol=0, atol=1e-9)


def test_a_beam_bends_as_its_moment_over_its_stiffness():
    problem = beam.make(grid=401)
    z = problem.prior.sample((3,), seed=0)
    x = problem.axes[0].numpy()
    u, m = (part.numpy() for part in problem.solve(z).chunk(2, dim=1))
    curvature = 0.5 * z[:, 3:].numpy() * (1 - x) ** 2 / problem.parameter_field(z).numpy()
    slope = cumulative_simpson(curvature, x=x, initial=0)
    np.testing.assert_allclose(m, 0.5 * z[:, 3:].numpy() * (1 - x) ** 2, rtol=0, atol=1e-8)
    np.testing.assert_allclose(u, cumulative_simpson(slope, x=x, initial=0), rtol=0, atol=1e-8)


def clamped(stiffness, taper, load, x):
    """Deflection by two integrals of the moment q x^2 / 2 + a x + b over the stiffness."""
    fine = np.linspace(0, 1, 2001)

    def twice(moment):
        slope = cumulative_simpson(moment / (1 + taper * fine) / stiffness, x=fine, initial=0)
        return slope, cumulative_simpson(slope, x=fine, initial=0)

    parts = [twice(m) for m in (0.5 * load * fine**2, fine, np.ones_like(fine))]
    # No slope and no deflection at the end.
    matrix = np.array([[part[k][-1] for part in parts] for k in range(2)])
    a, b = np.linalg.solve(matrix[:, 1:], -matrix[:, 0])
    return np.interp(x, fine, parts[0][1] + a * parts[1][1] + b * parts[2][1])


def test_a_clamped_beam_of_constant_section_is_exact():
    problem = beam.make_clamped()
    z = torch.tensor([[2.0, 0.0, 100.0]], dtype=torch.float64)
    x = problem.axes[0]
    u = problem.solve(z)[0]
    torch.testing.assert_close(u, 100 / 48 * (x * (1 - x)) ** 2, rtol=0, atol=1e-11)


def test_a_tapered_beam_bends_as_its_moment_over_its_stiffness():
    problem = beam.make_clamped()
    z = problem.prior.sample((3,), seed=0)
    for one, u in zip(z.numpy(), problem.solve(z).numpy(), strict=True):
        np.testing.assert_allclose(u, clamped(*one, problem.axes[0].numpy()), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_model_of_the_clamped_beam():
    problem = beam.make_clamped(grid=41)
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=500, calibrate=False)
    model.calibrate(256)
    z = problem.prior.sample((100,), seed=5)
    u, forward = problem.solve(z), model.forward(z)
    error = forward.mean - u
    assert (error.norm(dim=1) / u.norm(dim=1)).mean() < 1e-3
    held = (error.abs() <= 2 * forward.std)[forward.std > 0].double().mean()
    assert 0.9 < held < 0.99


# --- FitzHugh-Nagumo ---------------------------------------------------------------------------


def lines(threshold, rate, diffusion, times, n):
    """The same by finite differences of second order in x, (2, n + 1, n_times)."""
    x = np.linspace(0, 1, n + 1)
    start = np.concatenate([np.sin(np.pi * x) ** 3, 0 * x])

    def change(_, w):
        u, v = w.reshape(2, -1)
        bent = np.zeros_like(u)
        bent[1:-1] = np.diff(u, 2) * n**2
        du = diffusion * bent + 8 * (u * (1 - u) * (u - threshold) - v)
        du[[0, -1]] = 0
        return np.concatenate([du, rate * (u - v)])

    found = solve_ivp(change, (0, 1), start, "LSODA", times, rtol=1e-9, atol=1e-11)
    return found.y.reshape(2, n + 1, -1)


@pytest.mark.parametrize("z", [(0.05, 0.8, 0.015), (0.25, 0.2, 0.03)])
def test_a_pulse_is_that_of_lines(z):
    problem = fitzhugh_nagumo.make(grid=(11, 6))
    found = problem.solve(torch.tensor([z], dtype=torch.float64)).reshape(2, 11, 6).numpy()
    times = problem.axes[1].numpy()
    coarse, fine = (lines(*z, times, n)[:, :: n // 10] for n in (100, 200))
    # Richardson's extrapolation leaves the fourth power of the steps.
    np.testing.assert_allclose(found, (4 * fine - coarse) / 3, rtol=0, atol=3e-5)


@pytest.mark.slow
def test_a_model_of_the_pulse():
    problem = fitzhugh_nagumo.make(grid=(31, 31))
    model = pddlvm.LatentVariableModel(problem, seed=0)
    pddlvm.train(model, max_steps=1000, calibrate=False)
    model.calibrate(256)
    z = problem.prior.sample((40,), seed=5)
    u, forward = problem.solve(z), model.forward(z)
    for name, own in problem.fields_of_u.items():
        one = forward.field(name)
        error = one.mean - u[:, own]
        assert (error.norm(dim=1) / u[:, own].norm(dim=1)).mean() < 5e-3, name
        held = (error.abs() <= 2 * one.std)[one.std > 0].double().mean()
        assert 0.9 < held < 0.99, name
