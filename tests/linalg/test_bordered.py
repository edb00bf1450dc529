"""Matrices with a border of dense rows and columns."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from pddlvm.linalg import SuperLU
from pddlvm.linalg.bordered import Bordered
from pddlvm.linalg.factorisation import SingularMatrixError

N = 12
RNG = np.random.default_rng(0)
B = RNG.standard_normal((N, 3))


def ring(symmetric=True):
    """A Laplacian on a ring, which constants are the kernel of; or with advection around."""
    a = 2 * np.eye(N) - np.roll(np.eye(N), 1, axis=0) - np.roll(np.eye(N), -1, axis=0)
    if not symmetric:
        a = a + 0.5 * (np.eye(N) - np.roll(np.eye(N), 1, axis=0))
    return sp.csc_matrix(a)


BORDERS = [RNG.uniform(0.5, 1.5, (N, 1)), np.ones((N, 1)) * 1e-8]


def factors(matrix, border, symmetric=True):
    return Bordered(matrix, border, SuperLU(), symmetric, None, False)


def expected(matrix, border, b):
    """By the whole matrix, dense."""
    k = border.shape[1]
    scaled = border / np.abs(border).max()
    whole = np.block([[matrix.toarray(), scaled], [scaled.T, np.zeros((k, k))]])
    zeros = np.zeros((k, *b.shape[1:]))
    return np.linalg.solve(whole, np.concatenate([b, zeros]))[:N]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("b", [B[:, 0], B])
def test_solves_with_the_whole_matrix(border, symmetric, b):
    matrix = ring(symmetric)
    found = factors(matrix, border, symmetric)
    # The condition of the whole is about a hundred.
    np.testing.assert_allclose(found.solve(b), expected(matrix, border, b), atol=1e-12)
    np.testing.assert_allclose(found.solve(b, "T"), expected(matrix.T, border, b), atol=1e-12)


def test_two_rows_hold_two_parts():
    two = sp.csc_matrix(sp.block_diag([ring(), ring()]))
    border = np.zeros((2 * N, 2))
    border[:N, 0], border[N:, 1] = 1.0, 2.0
    found = factors(two, border).solve(np.concatenate([B[:, 0], B[:, 1]]))
    one = np.ones((N, 1))
    for part, b in ((found[:N], B[:, 0]), (found[N:], B[:, 1])):
        np.testing.assert_allclose(part, expected(ring(), one, b), atol=1e-12)


def test_long_rings_are_held_too():
    n = 3000
    a = sp.diags([np.full(n, 2.0), np.full(n - 1, -1.0), np.full(n - 1, -1.0)], [0, 1, -1]).tolil()
    a[0, -1] = a[-1, 0] = -1.0
    phase = 2 * np.pi * np.arange(n) / n
    found = factors(sp.csc_matrix(a), np.ones((n, 1)))
    # cos is an eigenvector; the condition is some millions.
    expected = np.cos(phase) / (2 - 2 * np.cos(2 * np.pi / n))
    assert np.abs(found.solve(np.cos(phase)) - expected).max() < 1e-8 * expected.max()


def test_what_is_singular_with_its_border_is_told():
    border = np.sin(np.arange(N) * 2 * np.pi / N)[:, None]
    with pytest.raises(SingularMatrixError):
        factors(ring(), border)


def test_a_border_is_never_positive():
    found = factors(ring(), BORDERS[0]).definiteness()
    assert found.n_negative == 1
    assert not found.is_counted


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_solve_alike(copied):
    found = factors(ring(), BORDERS[0])
    np.testing.assert_array_equal(copied(found).solve(B), found.solve(B))
