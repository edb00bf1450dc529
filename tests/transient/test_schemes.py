"""Rows of the steps: what they are exact for, and what is asked of the levels."""

import numpy as np
import pytest
from checks import refuses

import pddlvm
from pddlvm.transient.schemes import bdf2_scheme, newmark_scheme, theta_scheme

STEPS = np.array([0.1, 0.1, 0.25, 0.25, 0.6])


def values(scheme, function):
    return np.array([function(t) for t in scheme.all_times])


# M u' + r = 0 with u = t^p and r = -p t^(p - 1): rows of which methods vanish.


@pytest.mark.parametrize(
    ("scheme", "degree", "rows"),
    [
        (theta_scheme(0.3, STEPS, np.ones(5)), 1, slice(None)),
        (theta_scheme(0.3, STEPS, np.full(5, 0.5)), 2, slice(None)),
        (bdf2_scheme(0.3, STEPS), 2, slice(1, None)),
    ],
    ids=["Euler", "Crank-Nicolson", "BDF2"],
)
def test_rows_of_the_first_order_in_time_vanish_for_polynomials(scheme, degree, rows):
    for p in range(degree + 1):
        r = values(scheme, lambda t, p=p: -p * t ** max(p - 1, 0) * (p > 0))
        left = scheme.ta @ values(scheme, lambda t, p=p: t**p) + scheme.tb @ r
        np.testing.assert_allclose(left[rows], 0, atol=1e-12)
    p = degree + 1
    left = scheme.ta @ values(scheme, lambda t: t**p)
    left += scheme.tb @ values(scheme, lambda t: -p * t ** (p - 1))
    assert abs(left[rows]).min() > 1e-4


def test_newmark_steps_parabolas_exactly_from_their_velocity():
    scheme = newmark_scheme(0.3, STEPS)
    u = values(scheme, lambda t: 1 + 2 * t + 3 * t**2)
    u[0] = u[1] - STEPS[0] * (2 + 6 * 0.3)
    r = np.full_like(u, -6.0)
    np.testing.assert_allclose(scheme.ta @ u + scheme.tb @ r, 0, atol=1e-11)


def test_newmark_is_its_usual_form_with_velocities():
    """u'' + 4 u = sin t by displacements, velocities and accelerations."""
    scheme, t, u, v = newmark_scheme(0.0, STEPS), 0.0, 0.7, -0.4
    states = [u - STEPS[0] * v, u]
    a = np.sin(t) - 4 * u
    for d in STEPS:
        t += d
        guess = u + d * v + d**2 / 4 * a
        u = (guess + d**2 / 4 * np.sin(t)) / (1 + d**2)
        a, before = np.sin(t) - 4 * u, a
        v += d / 2 * (before + a)
        states.append(u)
    r = 4 * np.array(states) - np.sin(scheme.all_times)
    np.testing.assert_allclose(scheme.ta @ states + scheme.tb @ r, 0, atol=1e-12)
    # What stands for a state before the start is none whose r could be asked for.
    assert list(scheme.asked) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("make", [bdf2_scheme, lambda a, d: theta_scheme(a, d, np.ones(len(d)))])
def test_backward_methods_ask_nothing_of_the_initial_value(make):
    assert list(make(0.0, STEPS).asked) == [1, 2, 3, 4, 5]


def test_rows_are_banded():
    for scheme in (bdf2_scheme(0.0, STEPS), newmark_scheme(0.0, STEPS)):
        assert scheme.ta.shape == scheme.tb.shape == (5, scheme.n_history + 5)
        step, state = scheme.ta.nonzero()
        lag = step + scheme.n_history - state
        assert lag.min() == 0 and lag.max() == 2


def test_graded_levels_have_constant_steps_and_end_at_the_end():
    stepping = pddlvm.Stepping.graded(2.5, 20, start=0.5, n_levels=4, ratio=3.0)
    steps = stepping.steps.reshape(4, 5)
    assert (steps == steps[:, :1]).all()
    np.testing.assert_allclose(steps[1:] / steps[:-1], 3.0)
    scheme = stepping.scheme
    np.testing.assert_allclose(scheme.times[[0, -1]], [0.5 + steps[0, 0], 2.5])
    np.testing.assert_allclose(scheme.weights.sum(), 2.0)
    # A matrix for each level, one for the first step on it, and one for the first step of all.
    assert len(np.unique(scheme.diagonals, axis=0)) == 1 + 4 + 3


def test_halved_steps_meet_the_others():
    stepping = pddlvm.Stepping.graded(2.0, 10, n_levels=5)
    np.testing.assert_allclose(stepping.halved.scheme.times[1::2], stepping.scheme.times)
    np.testing.assert_allclose(stepping.halved.steps, np.repeat(stepping.steps / 2, 2))


@pytest.mark.parametrize(
    ("message", "arguments", "options", "error"),
    [
        ("end must .* above 1", (1.0, 10), {"start": 1.0}, pddlvm.InputError),
        ("end", (float("nan"), 10), {}, pddlvm.InputError),
        ("n_steps", (1.0, 0), {}, pddlvm.InputError),
        ("n_steps", (1.0, 2.5), {}, pddlvm.InputError),
        ("method must be a SteppingMethod", (1.0, 10, "BDF2"), {}, pddlvm.InputError),
        ("ratio", (1.0, 10), {"ratio": 0.0}, pddlvm.InputError),
        ("do not match 4 levels.*2 are left over; take 8 or 12", (1.0, 10), {"n_levels": 4}, None),
        ("do not match 4 levels.*take 4 or 4", (1.0, 3), {"n_levels": 4}, None),
    ],
)
def test_steps_that_make_no_sense_are_refused(message, arguments, options, error):
    refuses(message, pddlvm.Stepping, *arguments, error=error or pddlvm.ProblemError, **options)
