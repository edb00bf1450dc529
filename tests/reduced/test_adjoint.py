"""Reduced adjoint solutions are those of the transposed operator."""

import numpy as np
import pytest
import torch

import pddlvm
from pddlvm import fem
from pddlvm.reduced.adjoint import adjoint_of
from pddlvm.reduced.reference import Reference


def carried(u, du, x, b, k):
    return b * du[0] - 1.0, k * du


def norm(u, du, x):
    return 0.5 * (du * du).sum()


def advection(**options):
    space = fem.Space(fem.unit_square(20))
    terms = [pddlvm.Flux(space.interior(), carried)]
    k = pddlvm.Piecewise.on_blocks(space, (2, 2), prior=pddlvm.Uniform(0.5, 2.0))
    fields = {"b": pddlvm.Constant(pddlvm.Uniform(5.0, 40.0)), "k": k}
    chosen = {"inner_product": [pddlvm.Energy(space.interior(), norm)]} if options else {}
    return pddlvm.Problem("advection", space, terms, fields, [pddlvm.Dirichlet(None)], **chosen)


@pytest.mark.parametrize("is_dual", [False, True], ids=["Galerkin", "least squares"])
def test_adjoint_solutions_are_those_of_the_transpose(is_dual, monkeypatch):
    problem = advection(dual=True) if is_dual else advection()
    reference = Reference.of(problem)
    assert reference.is_dual == is_dual
    rows = np.random.default_rng(0).standard_normal((1, problem.n_free))
    monkeypatch.setattr("pddlvm.reduced.adjoint._MOST", 38)
    adjoint = adjoint_of(problem, reference, rows)
    assert adjoint.v.shape == (problem.n_free, 40)
    z = problem.prior.sample((20,), seed=1)
    psi = adjoint.solve(z) @ adjoint.v.T
    rest = torch.zeros(problem.n_dofs, dtype=torch.float64)
    errors = []
    for found, one in zip(psi.numpy(), z, strict=True):
        k = problem.solver.matrix(rest, one).toarray()
        exact = np.linalg.solve(k.T, rows.T).T
        best = exact - (exact @ reference.matrix @ adjoint.v.numpy()) @ adjoint.v.numpy().T
        x = reference.matrix
        errors.append([np.sqrt(np.trace(d @ (x @ d.T))) for d in (found - exact, best, exact)])
    wrong, least, size = np.median(errors, axis=0)
    # With the solutions of K in the place of those of its transpose it is 0.005.
    assert least < 0.003 * size
    # Quasi-optimal: of an operator that is far from symmetric.
    assert wrong < 2 * least


def test_combinations_that_depend_on_others_add_nothing():
    problem = advection()
    row = np.ones(problem.n_free)
    one, twice = (
        adjoint_of(problem, Reference.of(problem), rows)
        for rows in (row[None], np.array([row, 2 * row]))
    )
    assert torch.allclose(one.v, twice.v) and twice.loads.shape[1] == 2
    z = problem.prior.sample((3,), seed=0)
    found = twice.solve(z)
    assert torch.allclose(2 * found[:, 0], found[:, 1])


def test_functionals_that_are_zero_have_none():
    problem = advection()
    assert adjoint_of(problem, Reference.of(problem), np.zeros((1, problem.n_free))) is None
