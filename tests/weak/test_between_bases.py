"""Matrices between bases are the same at points and by assembly."""

import numpy as np
import pytest
import torch

from pddlvm.reduced.cubature import dense_columns
from pddlvm.weak.projection import AtPoints, OnMesh
from problems import poisson, stokes


@pytest.mark.parametrize(
    "make", [lambda: poisson.make(5, n_terms=2), lambda: stokes.make_cavity(3)]
)
@pytest.mark.parametrize("has_tests", [False, True])
def test_both_projections_are_the_same(make, has_tests):
    problem, rng = make(), np.random.default_rng(0)
    term = problem.discretisation(torch.float64, torch.device("cpu")).terms[0]
    v, w = rng.standard_normal((problem.n_dofs, 4)), rng.standard_normal((problem.n_dofs, 7))
    w = w if has_tests else None
    there = AtPoints(dense_columns(term.term, v), dense_columns(term.term, w) if has_tests else w)
    here = OnMesh(term, v, w)
    assert here.shape == there.shape == (7 if has_tests else 4, 4)
    # Not symmetric, and zero at some points.
    d = rng.standard_normal((len(term.weights), term.s, term.s))
    d[::3] = 0
    f = rng.standard_normal((len(term.weights), term.s))
    assert np.allclose(here.matrix(d), there.matrix(d))
    assert np.allclose(here.vector(f), there.vector(f))
