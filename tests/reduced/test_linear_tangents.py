"""Tangents of linear terms from few of their rows are the tangents."""

import pytest
import torch

import pddlvm
from pddlvm import fem, links
from pddlvm.reduced import linear_tangents
from pddlvm.reduced.linear_tangents import LinearTangents
from problems import elasticity, helmholtz, poisson, stokes


def anisotropic():
    """Conductivities along x and y of their own."""
    space = fem.Space(fem.unit_square(4))
    fields = {
        "a": pddlvm.KarhunenLoeve.on(space, 2, length=0.4, link=links.exp),
        "b": pddlvm.Constant(pddlvm.Uniform(1.0, 2.0)),
    }

    def density(u, du, x, a, b):
        return 0.5 * (a * du[0] ** 2 + b * du[1] ** 2) + 0.1 * u**2 - u

    terms = [pddlvm.Energy(space.interior(), density)]
    return pddlvm.Problem("anisotropic", space, terms, fields, [pddlvm.Dirichlet("left")])


def layered():
    """Two materials, one of which only draws far out have."""
    space = fem.Space(fem.unit_square(4))

    def density(u, du, x, k):
        stiff = torch.where(k > 1.96, 3.0, 1.0)
        return 0.5 * (du[0] ** 2 + stiff * du[1] ** 2) - u

    terms = [pddlvm.Energy(space.interior(), density)]
    fields = {"k": pddlvm.Constant(pddlvm.Uniform(0.0, 2.0))}
    return pddlvm.Problem("layered", space, terms, fields, [pddlvm.Dirichlet("left")])


MAKE = [
    lambda: poisson.make(4, 2),
    anisotropic,
    lambda: elasticity.make_bracket(4),
    lambda: helmholtz.make_damped(3),
    lambda: stokes.make_cavity(2),
]


def terms_of(problem):
    return problem.discretisation(torch.float64, torch.device("cpu")).terms


@pytest.mark.parametrize("make", MAKE)
def test_they_are_those_of_all_rows(make):
    problem = make()
    z = problem.prior.sample((3,), seed=7)
    u = torch.rand(3, problem.n_dofs, generator=torch.Generator().manual_seed(0)).double()
    for term in terms_of(problem):
        expected = term.tangents(u, problem.prior.split(z))
        found = LinearTangents(term, problem.prior)(z)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_few_rows_are_differentiated(monkeypatch):
    problem = poisson.make(4, 2)
    term = terms_of(problem)[0]
    tangents = LinearTangents(term, problem.prior)
    monkeypatch.setattr(type(term), "tangents_of", None)
    assert tangents(problem.prior.sample((2,), seed=1)).shape == (2, len(term.weights), 3, 3)


def test_where_factors_do_not_hold_all_is_differentiated():
    problem = layered()
    (term,) = terms_of(problem)
    z = torch.tensor([[1.0], [1.5]]).double()
    tangents = LinearTangents(term, problem.prior)
    assert (problem.prior.sample((linear_tangents._N_PROBES,), seed=0) < 1.96).all()
    for far in (z, torch.tensor([[1.98]]).double()):
        expected = term.tangents(torch.zeros(len(far), problem.n_dofs).double(), {"k": far})
        torch.testing.assert_close(tangents(far), expected)
