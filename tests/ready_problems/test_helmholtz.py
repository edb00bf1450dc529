"""Waves: orders of manufactured solutions, resonances, and what damping does."""

import math

import numpy as np
import pytest
import torch
from manufactured import manufactured, material, observed_orders, rows_of

import pddlvm
from pddlvm import fem
from problems.helmholtz import damped_wave, make, make_crossing, make_damped, wave

PI = math.pi


def first(x):
    return torch.sin(3 * x[0]) * torch.cos(2 * x[1]) + x[0] * x[1]


def second(x):
    return torch.cos(2 * x[0] + x[1])


def undamped(u, du, x, amplitude):
    return wave(u, du, x, 20 * amplitude * material(x))


def damped(u, du, v, dv, x, amplitude):
    return damped_wave(0.2, u, du, v, dv, 40 * amplitude * material(x))


def undamped_law(u, du, x, amplitude):
    return {"u": (-20 * amplitude * material(x) * u, du)}


def damped_law(u, du, v, dv, x, amplitude):
    square = 40 * amplitude * material(x) * torch.complex(u, v) * (1 + 0.2j)
    return {"u": (-square.real, du), "v": (-square.imag, dv)}


@pytest.mark.parametrize(
    ("physics", "law", "exact"),
    [
        (rows_of(undamped), undamped_law, {"u": first}),
        (damped, damped_law, {"u": first, "v": second}),
    ],
    ids=["undamped", "damped"],
)
def test_orders_of_a_manufactured_solution(physics, law, exact):
    held = [pddlvm.Dirichlet(None, f, field=name) for name, f in exact.items()]

    def make(n):
        mesh = fem.unit_square(n)
        space = fem.MixedSpace({name: fem.Space(mesh, degree=2) for name in exact})
        return manufactured(space, physics, law, exact, held)

    # Quadratic elements: three, once the error of the wave length is small.
    for order in observed_orders(make, exact, (12, 24, 48)).values():
        assert order == pytest.approx(3.0, abs=0.15)


def at(problem, *k2):
    return problem.solve(torch.tensor([[k, 1.0, 1.0] for k in k2], dtype=torch.float64))


@pytest.mark.parametrize("eigenvalue", [2 * PI**2, 8 * PI**2])
def test_the_solution_has_a_pole_at_an_eigenvalue(eigenvalue):
    # At 5 pi^2 loads of equal amplitudes excite one of two modes.
    u = at(make_crossing(), *(eigenvalue + d for d in (-0.5, -0.25, 0.25, 0.5))).norm(dim=1)
    # 1 / distance, but for the other modes and the error of the eigenvalue, some 1e-3.
    np.testing.assert_allclose(u[1:3] / u[[0, 3]], 2.0, rtol=0.15)


def test_the_safe_range_has_no_pole():
    u = at(make(12), *np.linspace(24, 45, 43)).norm(dim=1)
    assert u.max() < 10 * u.min()


def test_little_damping_changes_little():
    whole = at(make_damped(8, eta=1e-6), 30.0)
    u, v = whole[0, : whole.shape[1] // 2], whole[0, whole.shape[1] // 2 :]
    expected = at(make(8), 30.0)[0]
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-9)
    # First order in eta.
    assert 0 < v.norm() < 1e-4 * u.norm()


def test_what_is_lost_is_what_the_source_gives():
    problem, z = make_damped(24), torch.tensor([[20.0, 1.0, 0.5]], dtype=torch.float64)
    w = problem.solve(z)[0].numpy()
    (first_dofs, space), (second_dofs, _) = map(problem.space.field, "uv")
    u, v = w[first_dofs], w[second_dofs]
    mass = space.gram_matrices()[0]
    # Times -v and u of both rows: eta k^2 int u^2 + v^2 = int f v.
    r = problem.residual(torch.zeros(len(w)).double(), z)[0].numpy()
    lost = 0.2 * 20.0 * (u @ mass @ u + v @ mass @ v)
    given = -r[: len(r) // 2] @ w[problem.free_dofs][len(r) // 2 :]
    # Quadrature of degree 3 against an exact one.
    assert lost == pytest.approx(given, rel=1e-4)


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan"), "much"])
def test_damping_is_positive(eta):
    with pytest.raises(pddlvm.InputError, match="eta must be positive and finite"):
        make_damped(2, eta=eta)
