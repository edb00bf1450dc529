"""A problem is told from others by values, not by source; a choice of eigenvectors is none."""

from functools import partial

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.parameters.identity import adopt, is_like, mark_of
from problems import poisson

SQUARE = fem.Space(fem.unit_square(4))


def diffusion(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum() - u


def squared(u, du, x, kappa):
    return 0.5 * kappa**2 * (du * du).sum() - u


def heavier(u, du, x, kappa):
    return 0.5 * kappa * (du * du).sum() - 1.01 * u


def stiff(load, u, du, x, kappa):
    return 1e11 * kappa * (du * du).sum() - load * u


def chebyshev(**options):
    return pddlvm.Chebyshev(**{"n_terms": 3, "low": 0.0, "high": 1.0, "link": links.exp, **options})


def karhunen_loeve(space=SQUARE, **options):
    return pddlvm.KarhunenLoeve.on(space, 3, **{"length": 0.5, **options})


def blocks(counts):
    return pddlvm.Piecewise.on_blocks(SQUARE, counts, prior=pddlvm.LogNormal(0.0, 0.5))


def make(field=None, function=diffusion, value=0.0, space=SQUARE, **others):
    return pddlvm.Problem(
        "one",
        space,
        [pddlvm.Energy(space.interior(), function)],
        {"kappa": karhunen_loeve() if field is None else field, **others},
        [pddlvm.Dirichlet("left", value)],
    )


def with_end(value):
    return make(value=value, g=pddlvm.Constant(pddlvm.Uniform(0.5, 1.5)))


FINER_QUADRATURE = fem.Space(fem.unit_square(4), quadrature=4)

PAIRS = {
    "axis": (make(chebyshev()), make(chebyshev(axis=1))),
    "range": (make(chebyshev()), make(chebyshev(high=3.0))),
    "length": (make(), make(karhunen_loeve(length=0.51))),
    "std": (make(), make(karhunen_loeve(std=1.01))),
    "covariance": (make(), make(karhunen_loeve(covariance=pddlvm.exponential))),
    "smoothness": [make(karhunen_loeve(covariance=pddlvm.Matern(nu))) for nu in (1.5, 1.6)],
    "shift": (make(), make(karhunen_loeve(shift=0.1))),
    "link": (make(), make(karhunen_loeve(link=lambda g: 1 + g + g**2 / 2))),
    "blocks": (make(blocks((1, 2))), make(blocks((2, 1)))),
    "power of a field": (make(), make(function=squared)),
    "load": (make(), make(function=heavier)),
    "load beside a large stiffness": [make(function=partial(stiff, f)) for f in (1.0, 1.01)],
    "boundary value": (with_end(lambda x, g: g), with_end(lambda x, g: g**2)),
    "quadrature": (make(), make(karhunen_loeve(FINER_QUADRATURE), space=FINER_QUADRATURE)),
    "factor that the centre hides": [
        make(karhunen_loeve(link=lambda g, c=c: (c * g).exp())) for c in (1.0, 2.0)
    ],
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_another_problem_is_told(pair):
    one, other = pair
    assert adopt(other, mark_of(one)) is None
    assert not is_like(one, other)


@pytest.mark.parametrize(
    "build",
    [
        make,
        lambda: make(chebyshev()),
        lambda: make(blocks((2, 2))),
        lambda: with_end(lambda x, g: g),
        lambda: heat(),
        lambda: heat(field=karhunen_loeve(LINE)),
    ],
    ids=["field", "polynomials", "blocks", "end", "strong form", "field in strong form"],
)
def test_the_same_problem_made_anew_is_itself(build):
    one, other = build(), build()
    assert adopt(other, mark_of(one)) is other
    assert is_like(one, other)


def test_whole_numbers_are_numbers():
    assert is_like(make(chebyshev(low=0)), make(chebyshev(low=0.0)))


def rotated(problem, angle):
    """Modes 1 and 2 of a square have the same eigenvalue: any rotation of them is right."""
    state = problem.random_fields["kappa"].state
    c, s = np.cos(angle), np.sin(angle)
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[1:, 1:] = torch.tensor([[c, -s], [s, c]])
    return problem.with_states({"kappa": {**state, "modes": state["modes"] @ rotation}})


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, np.pi])
def test_other_eigenvectors_are_replaced_by_those_of_the_mark(angle):
    problem = make()
    adopted = adopt(rotated(problem, angle), mark_of(problem))
    z = problem.prior.sample((2,), seed=0)
    assert torch.equal(adopted.parameter_field(z), problem.parameter_field(z))


def test_behind_other_eigenvectors_another_problem_is_told():
    assert adopt(rotated(make(function=squared), 0.3), mark_of(make())) is None


def test_other_shapes_are_no_other_eigenvectors():
    problem = make()
    state = problem.random_fields["kappa"].state
    larger = problem.with_states({"kappa": {**state, "modes": 1.2 * state["modes"]}})
    assert adopt(larger, mark_of(problem)) is None


def test_an_observation_of_another_problem_is_refused():
    model = pddlvm.LatentVariableModel(make(), basis=pddlvm.EnergyModes(3))
    other = pddlvm.PointObservation(make(karhunen_loeve(length=0.6)), [[0.5, 0.5]], 0.1)
    with pytest.raises(pddlvm.InputError, match=r"model\.problem"):
        model.infer(torch.zeros(1), other)


# In strong form

LINE = fem.Space(fem.interval(20))


def residual(u, u_t, u_xx, kappa):
    return u_t - kappa * u_xx


def squared_residual(u, u_t, u_xx, kappa):
    return u_t - kappa**2 * u_xx


def wave(x):
    return torch.sin(x)


def heat(function=residual, *, field=None, tolerance=1e-3, end=1.0, **options):
    box = pddlvm.Box(x=(0.0, 1.0), t=(0.0, 1.0))
    along = {} if field is None else {"along": {"kappa": "x"}}
    return pddlvm.CollocationProblem(
        "heat",
        box,
        function,
        {"kappa": field or pddlvm.Constant(pddlvm.Uniform(0.5, 1.5))},
        **{
            "lift": wave,
            "hard": [box.start("t"), box.start("x")],
            "conditions": [pddlvm.Condition(box.end("x"), partial(at_end, end), tolerance)],
            "grid": (5, 5),
            **along,
            **options,
        },
    )


def at_end(value, u):
    return u - value


STRONG_PAIRS = {
    "physics": {"function": squared_residual},
    "lift": {"lift": lambda x: torch.sin(1.01 * x)},
    "condition": {"end": 1.01},
    "tolerance": {"tolerance": 2e-3},
    "scale": {"residual_scale": lambda u_t: 1 + u_t**2},
    "stretch": {"stretch": {"t": pddlvm.Graded()}},
}


@pytest.mark.parametrize("options", STRONG_PAIRS.values(), ids=STRONG_PAIRS.keys())
def test_another_problem_in_strong_form_is_told(options):
    assert not is_like(heat(), heat(**options))


@pytest.mark.parametrize("options", [{"length": 0.6}, {"std": 1.1}], ids=["length", "std"])
def test_another_field_in_strong_form_is_told(options):
    assert not is_like(
        heat(field=karhunen_loeve(LINE)), heat(field=karhunen_loeve(LINE, **options))
    )


def test_another_coordinate_of_a_field_is_told():
    field = karhunen_loeve(LINE)
    assert not is_like(heat(field=field), heat(field=field, along={"kappa": "t"}))


def test_a_mark_is_computed_once():
    problem = poisson.make(4, n_terms=2)
    assert problem.probe is problem.probe
