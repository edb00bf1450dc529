"""Stokes flow: orders of a manufactured solution, and what flows in the ready problems."""

import numpy as np
import pytest
import torch
from manufactured import manufactured, material, observed_orders, vortex, wave

import pddlvm
from pddlvm import fem
from problems.stokes import make_cavity, make_channel, stokes, taylor_hood


def viscous(du, p, x, amplitude):
    return stokes(du, p, amplitude * material(x))


def law(du, p, x, amplitude):
    strain = 0.5 * (du + du.T)
    stress = 2 * amplitude * material(x) * strain - torch.diag(torch.stack([p, p]))
    return {"u": (0.0, stress), "p": (-du[0, 0] - du[1, 1], 0.0)}


def test_orders_of_a_manufactured_solution():
    exact = {"u": vortex, "p": wave}
    held = [pddlvm.Dirichlet(None, vortex)]

    def make(n):
        space = taylor_hood(fem.unit_square(n))
        return manufactured(space, viscous, law, exact, held, constraints=[pddlvm.MeanValue("p")])

    found = observed_orders(make, exact, (6, 12, 24))
    # Three and two in theory.
    assert found["u"] == pytest.approx(3.0, abs=0.15)
    assert found["p"] == pytest.approx(2.0, abs=0.15)


def outflow(problem, u):
    """Flow through lines across the channel, by Simpson's rule on its cells, (n_lines, batch)."""
    n = 24
    y, w = np.linspace(0, 1, 2 * n + 1), np.array([1.0, *[4.0, 2.0] * (n - 1), 4.0, 1.0]) / (6 * n)
    lines = [np.column_stack([np.full_like(y, x), y]) for x in (0.0, 0.5, 3.0)]
    return [w @ (problem.evaluation(line)[::2] @ u.T.numpy()) for line in lines]


def test_what_enters_the_channel_leaves_it():
    problem = make_channel(6)
    z = problem.prior.sample((3,), seed=0)
    entering, before, leaving = outflow(problem, problem.solve(z))
    # 4 flow y (1 - y) + skew sin(2 pi y), to the error of its interpolation.
    np.testing.assert_allclose(
        entering, 2 / 3 * z[:, problem.prior.slices["flow"]][:, 0], rtol=1e-3
    )
    # All pressures see the whole flow: only rounding is lost.
    np.testing.assert_allclose(leaving, entering, rtol=1e-10)
    # In between it is free of divergence on average over neighbouring cells.
    np.testing.assert_allclose(before, entering, rtol=3e-2)


def test_the_obstacle_is_no_fluid():
    problem = make_channel(3)
    with pytest.raises(pddlvm.InputError, match="outside of the mesh"):
        problem.evaluation([[5 / 6, 0.5]])
    u = problem.solve(problem.prior.sample(seed=0)).numpy()
    on_it = [[2 / 3, 0.5], [1.0, 0.4], [0.8, 1 / 3], [0.8, 2 / 3]]
    # Where squares were joined points are equal to eight digits.
    np.testing.assert_allclose(problem.evaluation(on_it) @ u, 0.0, atol=1e-7)


def test_a_channel_without_room_for_the_obstacle_is_refused():
    with pytest.raises(pddlvm.InputError, match="multiple of 3"):
        make_channel(10)


def test_the_lid_drives_the_cavity():
    problem = make_cavity(8)
    z = problem.prior.sample((2,), seed=0)
    u = problem.solve(z)
    speed = problem.evaluation([[0.5, 1.0]]) @ u.T.numpy()
    # In the middle of the lid the skewness is zero.
    np.testing.assert_allclose(speed[0], z[:, problem.prior.slices["speed"]][:, 0], rtol=1e-12)
    below = problem.evaluation([[0.5, 0.3]]) @ u.T.numpy()
    assert (below[0] < 0).all()
    mean = pddlvm.average_matrix(problem, [lambda x: x[:, 0] < 2], field="p") @ u.T.numpy()
    np.testing.assert_allclose(mean, 0.0, atol=1e-11)
